"""What a shell can do to a command's input, output and arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli import __main__ as command_line

CLOSE_ALL = "exec <&- >&- 2>&-; "


def run(*arguments: str | bytes, before: str = "", **streams: int) -> tuple[int, bytes]:
    """Exit code and complaints, of a process that no store answers."""
    ended = subprocess.run(
        ["sh", "-c", f'{before}exec "$@"', "-", sys.executable, "-m", "services.cli", *arguments],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, check=False,
        env={**os.environ, "SLUICEWAY_DATA": "/nowhere", "SLUICEWAY_DATABASE_URL": "postgresql://127.0.0.1:1/x"},
        **streams,
    )  # fmt: skip
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("command", ["config", "audit", "--help", "top --help"])
def test_a_reader_that_left_is_told_by_the_exit_code(command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        code, complaint = run(*command.split(), stdout=write)
    finally:
        os.close(write)
    assert (code, b"Traceback" in complaint, b"Exception" in complaint) == (141, False, False)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_in_the_middle_is_told_by_the_exit_code(unbuffered: str) -> None:
    says = """
import services.cli.__main__ as command_line
command_line.load_commands = lambda: None
command_line.app = lambda prog_name: print("x" * 4_000_000, end="")
command_line.main()
"""
    command = subprocess.Popen(
        [sys.executable, "-c", says],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stderr is not None
    with command, command.stdout, command.stderr:
        assert command.stdout.read(1) == b"x"
        command.stdout.close()
        assert (command.wait(60), command.stderr.read()) == (141, b"")


def test_a_full_disk_is_told_in_one_line() -> None:
    with open("/dev/full", "wb") as full:
        code, complaint = run("config", stdout=full.fileno())
    assert (code, complaint) == (1, b"sluiceway: [Errno 28] No space left on device\n")


def test_who_closes_the_streams_gets_the_exit_code() -> None:
    assert run("config", before=CLOSE_ALL)[0] == 0
    assert run("pause", "--all", before=CLOSE_ALL)[0] == 2, "nobody is there to ask"


def test_arguments_are_text() -> None:
    code, complaint = run("why", "--tenant", "1", "--model", b"\xff")
    assert (code, complaint.count(b"\n")) == (2, 1)


@pytest.mark.parametrize(("command", "expected"), [("up", 2), ("status", 3), ("down", 0)])
def test_a_data_folder_may_be_none(command: str, expected: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    code, complaint = run(command, "--data", str(file))
    assert (code, complaint.count(b"\n"), str(file).encode() in complaint) == (expected, 1, True)


def test_what_the_encoding_lacks_is_escaped_and_json_stays_json() -> None:
    name = "\u539f\u00fc\U0001f600"
    environment = {"SLUICEWAY_DATA": "/nowhere", "SLUICEWAY_TOPIC_PREFIX": "x", "SLUICEWAY_EVENT_SOURCE": f"/{name}"}
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", "config", "--json"],
        env={**os.environ, **environment, "PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert ended.stdout.isascii()
    assert json.loads(ended.stdout)["SLUICEWAY_EVENT_SOURCE"] == f"/{name}"


def test_an_interrupt_before_the_command_is_known_is_told_by_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["sluiceway", "config"])
    monkeypatch.setattr(command_line, "load_commands", interrupted)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    assert ended.value.code == 130


HOSTILE = "x\x1b]0;t\x07\x1b[2J\u202e\u2066\x9b31my"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"--{HOSTILE}", 2), (f"{HOSTILE}", 2), (f"task {HOSTILE}", 2), (f"task list --limit {HOSTILE}", 2),
        (f"models apply -f /no/{HOSTILE}", 2), (f"models dry-run -f /no/{HOSTILE}", 2),
        (f"status --data /no/{HOSTILE}", 3), (f"task submit m -p @/no/{HOSTILE}", 2),
        (f"dead list --since {HOSTILE}", 2), (f"import-legacy --dsn x --timezone {HOSTILE}", 2),
        (f"task get {HOSTILE} --url {HOSTILE}", 2), (f"task get x --url http://h --key-file /no/{HOSTILE}", 2),
        (f"why --tenant 1 --model {HOSTILE}", 3),
    ],
)  # fmt: skip
def test_an_argument_that_is_repeated_steers_no_terminal(words: str, expected: int) -> None:
    code, complaint = run(*words.split())
    said = complaint.decode()
    assert (code, "Traceback" in said) == (expected, False), said
    assert not [character for character in said if character != "\n" and not character.isprintable()], said


def test_a_setting_that_is_repeated_steers_no_terminal() -> None:
    code, complaint = run("config", before=f"export SLUICEWAY_{HOSTILE[:1]}=1 SLUICEWAY_LOG_FORMAT=$'\\e[2J'; ")
    assert (code, b"\x1b" in complaint) == (2, False)
