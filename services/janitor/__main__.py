"""`python -m services.janitor`: settings from the environment."""

from __future__ import annotations

import sys

from libs.common.runtime.process import run_role
from services.janitor.wiring import open_janitor


def main() -> int:
    """Keep house until asked to stop; returns the exit code of the process."""
    return run_role("janitor", open_janitor)


if __name__ == "__main__":
    sys.exit(main())
