"""`python -m services.executor`: settings from the environment."""

from __future__ import annotations

import sys

from libs.common.runtime.process import run_role
from services.executor.wiring import open_executor


def main() -> int:
    """Run attempts until asked to stop; returns the exit code of the process."""
    return run_role("executor", open_executor)


if __name__ == "__main__":
    sys.exit(main())
