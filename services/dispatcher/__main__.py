"""`python -m services.dispatcher`: settings from the environment."""

from __future__ import annotations

import sys

from libs.common.runtime.process import OpenService, run_role


def main() -> int:
    """Dispatch until asked to stop; returns the exit code of the process."""
    return run_role("dispatcher", _load)


def _load() -> OpenService:
    from services.dispatcher.wiring import open_dispatcher

    return open_dispatcher


if __name__ == "__main__":
    sys.exit(main())
