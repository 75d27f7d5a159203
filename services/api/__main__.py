"""`python -m services.api`: settings from the environment."""

from __future__ import annotations

import gc
import sys
from datetime import timedelta
from typing import Final

from libs.common.runtime.health import Health
from libs.common.runtime.process import serve
from libs.common.runtime.start import begin
from services.api.wiring import open_api

_COLLECT_AFTER: Final = 10_000


def main() -> int:
    """Answer requests until asked to stop; returns the exit code of the process."""
    settings = begin("api")
    # A batch of 1,000 makes tens of thousands of objects, none of them in a cycle: with Python's usual threshold the
    # collector would look at everything that was imported, again and again (a third of the CPU of a batch).
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)
    health = Health("api")
    return serve(
        open_api(settings, health),
        drain=timedelta(seconds=settings.drain_seconds),
        health=health,
        probes=None,  # it answers them on its own port, where balancers look for them
    )


if __name__ == "__main__":
    sys.exit(main())
