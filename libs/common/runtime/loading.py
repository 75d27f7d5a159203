"""How the modules of a program are loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Around the imports of a program: they leave nothing to collect, and the collector walks all of them each time it
    looks (a third of an API's start: 3.4 s of CPU with it, 2.2 s without).
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
