"""Whoever listens to a tenant hears of every task that a sweep moves or ends, each by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from services.janitor.beats import BeatWatch
from services.janitor.sweeps.overdue import Overdue
from services.janitor.sweeps.promote import Promote
from services.janitor.sweeps.republish import Republish
from services.janitor.sweeps.rescue import Rescue
from services.janitor.sweeps.retries import Retries
from services.janitor.sweeps.waits import ClosedLanes, Deadlines
from tests.support.house import House

Scene = Callable[[House], Awaitable[Callable[[], Awaitable[Any]]]]


async def versions(house: House) -> dict[tuple[int, int], int]:
    return {(row[0], row[1]): row[2] for row in await house.sql("SELECT tenant_id, id, version FROM task_face")}


async def drafts(house: House) -> Callable[[], Awaitable[Any]]:
    await house.tasks(await house.model(), 3)
    await house.sql("UPDATE dispatch SET state = 2, due_at = now() - interval '1 s'")
    return Promote(house.sweeps, house.wake).sweep


async def failed(house: House) -> Callable[[], Awaitable[Any]]:
    for attempt in await house.running(await house.model(retry_times=1), await house.executor(), 2):
        await house.fail(attempt)
    return Retries(house.sweeps, house.gate, house.returns, house.wake, house.rng).sweep


async def too_late(house: House) -> Callable[[], Awaitable[Any]]:
    await house.tasks(await house.model(), 3)
    await house.sql("UPDATE dispatch SET deadline = now(), expires_at = now()")
    return Deadlines(house.sweeps, house.endings).sweep


async def of_a_deleted_model(house: House) -> Callable[[], Awaitable[Any]]:
    await house.tasks(await house.model(), 3)
    await house.sql("UPDATE lane SET closed = true")
    return ClosedLanes(house.sweeps, house.endings).sweep


async def lost_by_a_dispatcher(house: House) -> Callable[[], Awaitable[Any]]:
    model = await house.model()
    await house.tasks(model, 2)
    await house.lease(model, acknowledged=False)
    await house.sql("UPDATE lease SET taken_at = now() - interval '1 h'")
    return Republish(house.sweeps, house.wake, BeatWatch(), house.clock).heal_leases


async def never_picked_up(house: House) -> Callable[[], Awaitable[Any]]:
    model, reader, watch = await house.model(), await house.executor(), BeatWatch()
    await house.tasks(model, 2)
    await house.lease(model)
    await house.sql("UPDATE dispatch SET leased_at = now() - interval '1 h'")
    rescue = Rescue(house.sweeps, house.returns, house.wake, watch, house.clock)
    for _ in range(32):
        await house.beat(reader)
        await rescue.look()
        house.clock.now += 1.0
    return Republish(house.sweeps, house.wake, watch, house.clock).republish_lost


async def of_a_dead_executor(house: House) -> Callable[[], Awaitable[Any]]:
    model, dead = await house.model(), await house.executor()
    _, tired = await house.running(model, dead, 2)
    await house.sql("UPDATE dispatch SET lost = 3 WHERE id = $1", tired.id)
    await house.tasks(model)
    await house.hold(dead, await house.lease(model))
    rescue = Rescue(house.sweeps, house.returns, house.wake, BeatWatch(), house.clock)

    async def wait_for_it() -> None:
        for _ in range(12):
            await rescue.look()
            house.clock.now += 1.0

    return wait_for_it


async def hanging(house: House) -> Callable[[], Awaitable[Any]]:
    executor = await house.executor()
    await house.running(await house.model(), executor)
    await house.running(await house.model(retry_times=1), executor)
    await house.sql("UPDATE dispatch SET until = now() - interval '1 h'")
    return Overdue(house.sweeps, house.returns, house.wake, house.rng, upload_seconds=60).sweep


@pytest.mark.parametrize(
    "scene",
    [
        drafts,
        failed,
        too_late,
        of_a_deleted_model,
        lost_by_a_dispatcher,
        never_picked_up,
        of_a_dead_executor,
        hanging,
    ],
)
async def test_what_changed_is_told(house: House, scene: Scene) -> None:
    sweep = await scene(house)
    before = await versions(house)
    house.hints.changes.clear()
    await sweep()
    changed = [task for task, version in (await versions(house)).items() if version != before[task]]
    assert sorted(changed) == sorted(before)
    assert sorted(house.hints.changes) == sorted(changed)
