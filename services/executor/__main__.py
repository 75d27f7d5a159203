"""`python -m services.executor`: settings from the environment."""

from __future__ import annotations

import sys

from libs.common.runtime.process import OpenService, run_role


def main() -> int:
    """Run attempts until asked to stop; returns the exit code of the process."""
    return run_role("executor", _load)


def _load() -> OpenService:
    from services.executor.wiring import open_executor

    return open_executor


if __name__ == "__main__":
    sys.exit(main())
