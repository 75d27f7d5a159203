"""`python -m services.janitor`: settings from the environment."""

from __future__ import annotations

import sys
from datetime import timedelta

from libs.common.runtime.health import Health
from libs.common.runtime.process import Address, serve
from libs.common.runtime.start import begin
from services.janitor.wiring import open_janitor


def main() -> int:
    """Keep house until asked to stop; returns the exit code of the process."""
    settings = begin("janitor")
    health = Health("janitor")
    return serve(
        open_janitor(settings, health),
        drain=timedelta(seconds=settings.drain_seconds),
        health=health,
        probes=Address(settings.health_host, settings.health_port),
    )


if __name__ == "__main__":
    sys.exit(main())
