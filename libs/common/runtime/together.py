"""Several things at once, of which none counts without the others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

Made = TypeVar("Made")


async def all_or_none(works: Sequence[Coroutine[Any, Any, Made]]) -> list[Made]:
    """What they return, in their order. The first that fails ends the others; its error is raised as it is.

    None of them runs any more when this returns or raises, cancelled or not.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
