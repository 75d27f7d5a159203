"""`make test`: the chosen tests side by side; then the few that failed once more, alone.

Four workers and the processes that they start share the machine's cores. Where a promise is a time (Redis answers
within a second, or the answer is 503) a test can fail for the machine's sake. It fails the run if it fails alone too;
those that pass only alone are named at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

_FEW: Final = 5  #: more failures than this are no accident, and nobody waits for them twice
_FAILED: Final = Path(".pytest_cache/v/cache/lastfailed")


def main(arguments: Sequence[str]) -> int:
    """Run pytest with these arguments; returns its exit code, 0 also if all that failed passed alone."""
    code = _pytest(*arguments, "--cache-clear")
    failed = sorted(json.loads(_FAILED.read_text())) if code == pytest.ExitCode.TESTS_FAILED else []
    if not 0 < len(failed) <= _FEW:
        return code
    sys.stdout.write(f"\n{len(failed)} failed beside others; once more, alone:\n")
    sys.stdout.flush()
    code = _pytest("--numprocesses", "0", *failed)
    if code == pytest.ExitCode.OK:
        sys.stdout.write("\n  ".join(["\nFAILED BESIDE OTHERS, PASSED ALONE:", *failed]) + "\n")
    return code


def _pytest(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
