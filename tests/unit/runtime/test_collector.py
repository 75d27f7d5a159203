"""When the garbage collector looks."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from libs.common.runtime import collector


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


class Kept:
    """As an error is by a function of its own traceback."""

    def __init__(self, size: int) -> None:
        self.body = b"x" * size
        self.itself = self


async def test_few_cycles_that_weigh_much_are_collected_soon() -> None:
    """600 of a megabyte each stayed until there were 100,000 objects."""
    collector.relieve()
    watching = asyncio.create_task(collector.watch())
    await asyncio.sleep(0)
    kept = [weakref.ref(Kept(2**20)) for _ in range(200)]
    assert kept[-1]() is not None, "nothing else frees it"
    try:
        async with asyncio.timeout(10):
            while any(one() is not None for one in kept):
                await asyncio.sleep(0.1)
    finally:
        watching.cancel()
