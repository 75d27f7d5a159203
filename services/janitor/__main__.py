"""`python -m services.janitor`: settings from the environment."""

from __future__ import annotations

import sys

from libs.common.runtime.process import OpenService, run_role


def main() -> int:
    """Keep house until asked to stop; returns the exit code of the process."""
    return run_role("janitor", _load)


def _load() -> OpenService:
    from services.janitor.wiring import open_janitor

    return open_janitor


if __name__ == "__main__":
    sys.exit(main())
