"""`python -m services.api`: settings from the environment."""

from __future__ import annotations

import sys

from libs.common.runtime.process import OpenService, run_role


def main() -> int:
    """Answer requests until asked to stop; returns the exit code of the process."""
    return run_role("api", _load, probes=False)  # balancers look for them on its own port


def _load() -> OpenService:
    from services.api.wiring import open_api

    return open_api


if __name__ == "__main__":
    sys.exit(main())
