from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from libs.common.runtime.open_files import limit, none_left
from services.executor.wiring import affordable_slots

_ROOT = Path(__file__).parents[3]


def in_a_process(lines: str, *, soft: int, hard: int) -> str:
    """What these lines print in a process with such limits."""
    told = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
    told += "from libs.common.runtime.open_files import *; " + lines
    return subprocess.run([sys.executable, "-c", told], cwd=_ROOT, capture_output=True, text=True, check=True).stdout


def test_a_process_allows_itself_as_many_as_it_may() -> None:
    assert in_a_process("raise_limit(); print(limit())", soft=64, hard=512) == "512\n"
    assert in_a_process("raise_limit(); print(limit())", soft=512, hard=512) == "512\n"


def test_it_knows_when_none_is_left() -> None:
    opened = "print(none_left()); files = []\nwhile not none_left(): files.append(open('/dev/null'))\nprint(len(files))"
    before, count = in_a_process(opened, soft=64, hard=64).split()
    assert before == "False"
    assert 50 < int(count) < 64


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (OSError(errno.EMFILE, "x"), True),
        (OSError(errno.ENFILE, "x"), True),
        (OSError(errno.ECONNREFUSED, "x"), False),
        (ValueError("x"), False),
    ],
)
def test_an_error_says_it_or_does_not(error: Exception, says_so: bool) -> None:
    assert none_left(error) is says_so


def test_the_limit_is_the_one_that_holds_now() -> None:
    assert limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(("files", "slots"), [(1_024, 298), (65_536, 2_000), (6_128, 2_000), (6_127, 1_999), (64, 1)])
def test_an_executor_has_no_more_slots_than_files_for_them(files: int, slots: int) -> None:
    assert affordable_slots(2_000, files) == slots
