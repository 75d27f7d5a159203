"""A periodic action goes on, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from libs.common.runtime.metrics import counter
from libs.common.runtime.periodic import Periodic
from tests.support.waiting import until

HOUR = timedelta(hours=1)


class Action:
    def __init__(self) -> None:
        self.runs = 0
        self.error: Exception | None = None
        self.open_ = asyncio.Event()
        self.open_.set()

    async def __call__(self) -> None:
        self.runs += 1
        await self.open_.wait()
        if self.error is not None:
            raise self.error


@asynccontextmanager
async def running(periodic: Periodic) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(periodic.run())
    try:
        yield task
    finally:
        periodic.stop()
        async with asyncio.timeout(5):
            await asyncio.wait((task,))


async def test_it_runs_at_once_and_again_after_the_interval() -> None:
    action = Action()
    async with running(Periodic("sweep", timedelta(milliseconds=1), action)):
        await until(lambda: action.runs >= 3)


async def test_a_trigger_wakes_it_and_one_during_a_run_is_not_lost() -> None:
    action = Action()
    periodic = Periodic("sweep", HOUR, action)
    async with running(periodic):
        await until(lambda: action.runs == 1)
        action.open_.clear()
        periodic.trigger()
        await until(lambda: action.runs == 2)
        periodic.trigger()  # while the second run is under way
        action.open_.set()
        await until(lambda: action.runs == 3)


async def test_an_error_is_one_line_and_a_count_and_not_the_end() -> None:
    action = Action()
    action.error = ValueError("no such thing")
    periodic = Periodic("failing-sweep", timedelta(milliseconds=1), action)
    with capture_logs() as lines:
        async with running(periodic):
            await until(lambda: periodic.failures == 2)
            action.error = None
            await until(lambda: periodic.failures == 0)
    errors = [line for line in lines if line["event"] == "periodic.failed"]
    assert [(line["name"], line["failures"], line["error"]) for line in errors] == [
        ("failing-sweep", 1, "ValueError"),
        ("failing-sweep", 2, "ValueError"),
    ]
    assert counter("sluiceway_periodic_runs_total").labels(name="failing-sweep", result="error")._value.get() == 2


async def test_stop_lets_the_run_under_way_finish_and_begins_no_other() -> None:
    action = Action()
    action.open_.clear()
    periodic = Periodic("sweep", timedelta(0), action)
    async with running(periodic) as task:
        await until(lambda: action.runs == 1)
        periodic.stop()
        await asyncio.sleep(0)
        assert not task.done()
        action.open_.set()
        await asyncio.wait((task,), timeout=5)
    assert action.runs == 1
    assert task.result() is None


async def test_cancelling_ends_it() -> None:
    action = Action()
    task = asyncio.create_task(Periodic("sweep", HOUR, action).run())
    await until(lambda: action.runs == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
