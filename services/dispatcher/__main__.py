"""`python -m services.dispatcher`: settings from the environment."""

from __future__ import annotations

import sys

from libs.common.runtime.process import run_role
from services.dispatcher.wiring import open_dispatcher


def main() -> int:
    """Dispatch until asked to stop; returns the exit code of the process."""
    return run_role("dispatcher", open_dispatcher)


if __name__ == "__main__":
    sys.exit(main())
