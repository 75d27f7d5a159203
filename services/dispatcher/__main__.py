"""`python -m services.dispatcher`: settings from the environment."""

from __future__ import annotations

import sys
from datetime import timedelta

from libs.common.runtime.health import Health
from libs.common.runtime.process import Address, serve
from libs.common.runtime.start import begin
from services.dispatcher.wiring import open_dispatcher


def main() -> int:
    """Dispatch until asked to stop; returns the exit code of the process."""
    settings = begin("dispatcher")
    health = Health("dispatcher")
    return serve(
        open_dispatcher(settings, health),
        drain=timedelta(seconds=settings.drain_seconds),
        health=health,
        probes=Address(settings.health_host, settings.health_port),
    )


if __name__ == "__main__":
    sys.exit(main())
