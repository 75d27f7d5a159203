from __future__ import annotations

import asyncio

import pytest

from libs.common.runtime.together import all_or_none
from tests.support.waiting import until


class Works:
    """Works that note how they ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended: list[str] = []
        self.open = asyncio.Event()

    async def wait(self, result: int = 0) -> int:
        self.begun += 1
        try:
            await self.open.wait()
        finally:
            await asyncio.sleep(0)  # what is cancelled may need a moment to end
            self.ended.append("over")
        return result

    async def fail(self) -> int:
        await until(lambda: self.begun == 2)
        raise KeyError("first")


async def test_all_results_come_in_order() -> None:
    works = Works()
    works.open.set()
    assert await all_or_none([works.wait(1), works.wait(2), works.wait(3)]) == [1, 2, 3]
    assert await all_or_none([]) == []


async def test_the_first_failure_ends_the_others_before_it_is_raised() -> None:
    works = Works()
    with pytest.raises(KeyError, match="first"):
        await all_or_none([works.wait(), works.fail(), works.wait()])
    assert works.ended == ["over", "over"]


async def test_whoever_is_cancelled_leaves_nothing_running() -> None:
    works = Works()
    waiting = asyncio.create_task(all_or_none([works.wait(), works.wait()]))
    await until(lambda: works.begun == 2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert works.ended == ["over", "over"]
