"""What commands print."""

from __future__ import annotations

import json

import pytest
import yaml

from services.cli.output import Output, note, show_document, show_list, show_one


@pytest.mark.parametrize(
    ("thing", "printed"), [({"id": 7, "name": "n"}, "7\n"), ({"name": "n"}, "n\n"), ({"ready": 0}, "")]
)
def test_ids_of_one_thing(thing: dict[str, object], printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_one(thing, Output.IDS)
    assert capsys.readouterr().out == printed


def test_what_has_no_id_prints_none(capsys: pytest.CaptureFixture[str]) -> None:
    show_list([{"channel": "event"}, {"id": 7}], [], Output.IDS)
    assert capsys.readouterr().out == "7\n"


def test_a_document_is_told_in_four_ways(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"violations": [{"subject": "slot ghost"}]}
    told = {}
    for output in Output:
        show_document(document, output, lambda: note("1 violations"), ["slot ghost"])
        captured = capsys.readouterr()
        told[output] = captured.out
        assert captured.err == ("sluiceway: 1 violations\n" if output is Output.TABLE else "")
    assert json.loads(told[Output.JSON]) == yaml.safe_load(told[Output.YAML]) == document
    assert told[Output.IDS] == "slot ghost\n"


HOSTILE = "a\x1b]0;t\x07\x9b2J\x7f\u202eb\u2066 \xfc"


@pytest.mark.parametrize("output", Output)
def test_what_others_wrote_steers_no_terminal(
    output: Output, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    show_one({"id": HOSTILE, "error": {"message": HOSTILE}}, output)
    show_list([{"id": HOSTILE}], [("ID", "id")], output)
    note(f"refused: {HOSTILE}")
    said = capsys.readouterr()
    printed = said.out.replace("\x1b[1mID\x1b[0m", "") + said.err
    assert not [character for character in printed if character != "\n" and not character.isprintable()]
    assert "\xfc" in said.err


def test_json_and_yaml_say_what_they_hide(capsys: pytest.CaptureFixture[str]) -> None:
    show_one({"id": HOSTILE, "name": "a\u202eb"}, Output.JSON)
    assert json.loads(capsys.readouterr().out) == {"id": HOSTILE, "name": "a\u202eb"}
    show_one({"id": HOSTILE, "name": "a\u202eb"}, Output.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == {"id": HOSTILE, "name": "a\u202eb"}


@pytest.mark.parametrize("output", [Output.TABLE, Output.IDS])
def test_ids_of_a_document_steer_no_terminal(
    output: Output, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    show_document({}, output, lambda: None, [HOSTILE])
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    show_document({}, Output.IDS, lambda: None, [HOSTILE])
    assert capsys.readouterr().out == f"{HOSTILE}\n", "what reads a pipe looks for exactly that"
