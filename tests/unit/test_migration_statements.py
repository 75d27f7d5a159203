"""Migrations are cut into statements; a function's body stays whole."""

from __future__ import annotations

from libs.common.adapters.postgres.migrations.statements import split


def test_statements_end_with_a_semicolon_at_a_lines_end() -> None:
    source = "-- about a; b\nCREATE TABLE a (x text DEFAULT ';' );\n\nSELECT 'a; b'::text;  \nSELECT 3"
    assert split(source) == ["CREATE TABLE a (x text DEFAULT ';' );", "SELECT 'a; b'::text;", "SELECT 3"]


def test_a_functions_body_is_not_cut() -> None:
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  PERFORM 1;\n  RETURN 2;\nEND\n$$;"
    assert split(f"SELECT 1;\n{body}\nSELECT 2;\n") == ["SELECT 1;", body, "SELECT 2;"]


def test_nothing_is_nothing() -> None:
    assert split("\n-- only words;\n\n") == []
