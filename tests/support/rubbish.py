"""What only the garbage collector frees."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

_OURS: Final = tuple(str(Path(__file__).parents[2] / part) for part in ("services", "libs"))


@contextmanager
def rubbish() -> Iterator[list[str]]:
    """Fills the list, at the end, with the product's functions whose frames reference counts did not free: each keeps
    all that it had in hand, a body or a batch, until the collector looks."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        frames = [thing for thing in gc.garbage if isinstance(thing, FrameType)]
        found += [frame.f_code.co_qualname for frame in frames if frame.f_code.co_filename.startswith(_OURS)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
