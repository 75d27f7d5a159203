"""Work that takes its time, done beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from libs.common.runtime.threads import open_pool

Made = TypeVar("Made")

#: Threads share one interpreter: each more would leave the loop less of it.
_THREADS: Final = 1


class Turns:
    """One piece of work at a time, in a thread of its own: the loop goes on meanwhile. Of each owner one piece stands
    in line, so owners take turns, however much work one of them has."""

    def __init__(self) -> None:
        self._pool = open_pool(_THREADS, "turns")
        self._line = asyncio.Lock()
        self._owners: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    async def take(self, owner: int, work: Callable[[], Made]) -> Made:
        """What `work` gives or raises."""
        own = self._owners.setdefault(owner, asyncio.Lock())
        async with own, self._line:
            return await asyncio.get_running_loop().run_in_executor(self._pool, copy_context().run, work)
