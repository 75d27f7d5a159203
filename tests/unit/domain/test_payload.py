"""Payloads that are none."""

from __future__ import annotations

import time

import pytest

from libs.common.domain.payload import is_empty


@pytest.mark.parametrize("payload", [b"", b" \n", b"null", b" null\n", b'""', b"{}", b"{ }", b"{\r\n\t}"])
def test_what_callers_write_who_have_none(payload: bytes) -> None:
    assert is_empty(payload)


@pytest.mark.parametrize("payload", [b"0", b"false", b"[]", b'" "', b'{"a":null}', b"nul", b'""""', b"{}{}", b"\xa0"])
def test_everything_else_is_a_payload(payload: bytes) -> None:
    assert not is_empty(payload)


def test_much_space_costs_little() -> None:
    """A megabyte of it in front of a value took hours of the loop."""
    began = time.perf_counter()
    assert not is_empty(b" " * 2**20 + b"1")
    assert time.perf_counter() - began < 1
