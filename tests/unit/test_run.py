"""What decides whether the build is good: a test that fails twice fails it, one that fails beside others does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOOD = "def test_good(): pass\n"
BAD = "def test_bad(): assert False\n"
SHAKY = """
import pathlib
def test_shaky():
    seen = pathlib.Path("seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError
"""
MANY = "".join(f"def test_{number}(): assert False\n" for number in range(6))


@pytest.mark.parametrize(
    ("tests", "code", "runs", "told"),
    [
        (GOOD, 0, 1, False),
        (GOOD + SHAKY, 0, 2, True),
        (GOOD + BAD, 1, 2, False),
        (SHAKY + BAD, 1, 2, False),
        (MANY, 1, 1, False),
        ("", 5, 1, False),
        ("import nothing_of_that_name", 2, 1, False),
    ],
    ids=["good", "shaky", "bad", "shaky-and-bad", "too-many", "none", "broken"],
)
def test_the_few_that_failed_run_again_alone(tests: str, code: int, runs: int, told: bool, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(tests)
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.run", "-p", "no:schemathesis", "test_it.py"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert ended.stdout.count("test session starts") == runs
    assert ("PASSED ALONE:\n  test_it.py::test_shaky" in ended.stdout) is told
