"""Rescue on real tables: dead executors, their rows, their permits, and the zombie that comes back."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.adapters.postgres.sweeps import PostgresSweeps
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.errors import GateUnavailable, RowsLocked
from libs.common.domain.settle import LOST_BUDGET
from libs.common.ports_attempts import WatchedBeat
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from libs.common.runtime.periodic import Periodic
from services.janitor.beats import BeatWatch
from services.janitor.schedule import EVERY_SECOND
from services.janitor.sweeps.rescue import Rescue
from services.janitor.sweeps.waits import Cancels
from services.janitor.wiring import open_rescue_database
from tests.support.house import House, open_house
from tests.support.locks import kept_by


def rescue_of(house: House) -> Rescue:
    return Rescue(house.sweeps, house.returns, house.wake, BeatWatch(), house.clock)


async def pass_silently(house: House, rescue: Rescue, seconds: int = 11) -> int:
    """Look every second while nobody beats; returns what was taken."""
    taken = 0
    for _ in range(seconds + 1):
        taken += await rescue.look()
        house.clock.now += 1.0
    return taken


async def test_a_dead_executors_work_goes_back_and_its_permits_too(house: House) -> None:
    model, dead = await house.model(), await house.executor()
    calling, staged = await house.running(model, dead, 2)
    file = await house.stage(staged)
    held = await house.tasks(model)
    await house.hold(dead, await house.lease(model))
    assert await house.taken(model) == (3, 2)

    assert await pass_silently(house, rescue_of(house)) == 3

    row = await house.state(calling.id)
    assert (row["state"], row["class"], row["lost"], row["retries"], row["attempt"], row["phase"]) == (0, 0, 1, 0, 1, 0)
    row = await house.state(staged.id)
    assert (row["state"], row["class"], row["lost"], row["phase"], row["staged"]) == (0, 0, 0, 2, file.reference)
    row = await house.state(held[0])
    assert (row["state"], row["class"], row["held_by"]) == (0, 1, None)
    assert await house.taken(model) == (3, 0)
    outcomes = await house.sql("SELECT task_id, outcome, token FROM attempt")
    assert [tuple(outcome) for outcome in outcomes] == [(calling.id, "lost", calling.token)]
    assert f"{model.lane} 0 0 {min(calling.id, staged.id)}" in house.hinted


async def test_a_zombie_finishes_nothing_and_cannot_come_back(house: House) -> None:
    model, dead = await house.model(), await house.executor()
    (attempt,) = await house.running(model, dead)
    await pass_silently(house, rescue_of(house))
    assert not await house.beat(dead)
    assert not await house.finish(attempt)
    (again,) = await house.start(model, await house.executor(), await house.lease(model))
    assert (again.number, again.retries, again.lost) == (2, 0, 1)


async def test_whoever_beats_keeps_its_work(house: House) -> None:
    model, alive = await house.model(), await house.executor()
    await house.running(model, alive)
    rescue = rescue_of(house)
    for _ in range(30):
        assert await rescue.look() == 0
        house.clock.now += 1.0
        await house.beat(alive)
    assert await house.taken(model) == (1, 1)


async def test_one_beat_between_look_and_burial_saves_it(house: House) -> None:
    model, executor = await house.model(), await house.executor()
    await house.running(model, executor)
    seen = next(beat for beat in await house.sweeps.watch() if beat.id == executor)
    await house.beat(executor)
    assert await house.sweeps.bury_executors([seen]) == []
    assert await house.sweeps.bury_executors([WatchedBeat(executor, "", seen.beat + 1, True, 0.0)]) == [executor]


async def test_who_stopped_with_work_left_is_rescued_at_once(house: House) -> None:
    model, stopped = await house.model(), await house.executor()
    await house.running(model, stopped)
    await house.sql("UPDATE executor SET stopped_at = now()")
    assert await rescue_of(house).look() == 1
    await house.sql("DELETE FROM executor")
    await house.start(model, stopped, await house.lease(model))
    assert await rescue_of(house).look() == 1


async def test_a_task_that_was_lost_too_often_fails_as_executor_lost(house: House) -> None:
    model = await house.model()
    ids = await house.tasks(model)
    for number in range(LOST_BUDGET + 1):
        executor = await house.executor()
        assert len(await house.start(model, executor, await house.lease(model))) == 1
        await house.sql("UPDATE executor SET stopped_at = now()")
        assert await rescue_of(house).look() == 1
        assert (await house.state(ids[0]) is None) == (number == LOST_BUDGET)
    row = await house.row(ids[0])
    assert (row["status"], row["error_code"], row["attempt"], row["retries"]) == (7, "executor_lost", 4, 0)
    assert await house.value("SELECT error_code FROM dead_task") == "executor_lost"
    assert await house.value("SELECT count(*) FROM event WHERE status = 7") == 1
    assert await house.taken(model) == (0, 0)
    assert {f"{model.lane} room", "* events"} <= set(house.hinted)


async def test_dying_at_any_step_leaves_work_for_the_next_look(house: House) -> None:
    model, dead = await house.model(), await house.executor()
    await house.running(model, dead)
    await house.sql("UPDATE dispatch SET lost = 3")
    (spared,) = await house.running(model, dead)
    for nth in (1, 2, 2):  # before burying, before taking back, before giving up (buried by then)
        failpoints.arm(f"janitor/before-rescue:{nth}:raise")
        with pytest.raises(FailpointRaised):
            await pass_silently(house, rescue_of(house))
    failpoints.arm("")
    await rescue_of(house).look()
    assert await house.value("SELECT array_agg(id) FROM dispatch") == [spared.id]
    assert (await house.state(spared.id))["state"] == 0
    assert await house.taken(model) == (1, 0)


async def test_two_janitors_rescue_once(house: House, redis_url: str) -> None:
    model, dead = await house.model(), await house.executor()
    await house.running(model, dead, 4)
    async with open_house(house.database_url, redis_url) as other:
        first, second = rescue_of(house), rescue_of(other)
        taken = 0
        for _ in range(12):
            taken += await first.look() + await second.look()
            house.clock.now += 1.0
            other.clock.now += 1.0
    assert taken == 4
    assert await house.value("SELECT sum(lost) FROM dispatch") == 4
    assert await house.value("SELECT count(*) FROM history WHERE kind = 'rescue'") == 4


async def test_redis_away_does_not_stop_a_rescue_and_permits_follow(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:

    async def away(_: object) -> None:
        raise GateUnavailable("away")

    model, dead = await house.model(), await house.executor()
    await house.running(model, dead, 2)
    await house.sql("UPDATE executor SET stopped_at = now()")
    with monkeypatch.context() as patch:
        patch.setattr(house.permits, "release_many", away)
        assert await rescue_of(house).look() == 2
    assert await house.taken(model) == (2, 2)
    assert await house.returns.flush()
    assert await house.taken(model) == (2, 0)


async def test_what_was_to_be_canceled_ends_so_and_is_not_called_again(house: House) -> None:
    model, dead = await house.model(), await house.executor()
    calling, staged, spent = await house.running(model, dead, 3)
    await house.stage(staged)
    await house.sql("UPDATE dispatch SET lost = $1 WHERE id = $2", LOST_BUDGET, spent.id)
    asked = [calling.public_id, staged.public_id, spent.public_id]
    assert await PostgresTasks(house.database).request_cancel(model.tenant_id, asked) == 3
    assert await Cancels(house.sweeps, house.endings).sweep() == 0
    await house.sql("UPDATE executor SET stopped_at = now()")
    assert await rescue_of(house).look() == 3
    assert await house.sql("SELECT 1 FROM dispatch") == [], "no dispatcher may have one meanwhile"
    for attempt in (calling, staged, spent):
        row = await house.row(attempt.id)
        assert (row["status"], row["error_code"], row["attempt"]) == (9, "canceled", 1)
    assert await house.value("SELECT count(*) FROM event WHERE status = 9") == 3
    assert await house.value("SELECT count(*) FROM dead_task") == 0
    assert await house.taken(model) == (0, 0)


async def test_another_executors_work_is_taken_beside_one_whose_row_is_locked(house: House) -> None:
    model, stuck, dead = await house.model(), await house.executor(), await house.executor()
    (theirs,) = await house.running(model, stuck)
    (lost,) = await house.running(model, dead)
    rescue = rescue_of(house)
    async with kept_by(house, f"executor SET name = name WHERE id = {stuck}"):
        assert await pass_silently(house, rescue) == 1
        assert [(await house.state(one.id))["state"] for one in (theirs, lost)] == [1, 0]
    assert await rescue.look() == 1


async def test_who_falls_silent_is_seen_while_an_attempt_that_is_to_be_given_up_is_locked(house: House) -> None:
    """A look that waited for the row came too late for the next one: who looks with gaps presumes nobody dead."""
    model, gone, dead = await house.model(), await house.executor(), await house.executor()
    (stuck,) = await house.running(model, gone)
    (lost,) = await house.running(model, dead)
    await house.sql("UPDATE dispatch SET lost = $1 WHERE id = $2", LOST_BUDGET, stuck.id)
    await house.sql("UPDATE executor SET stopped_at = now() WHERE id = $1", gone)
    async with (
        open_rescue_database(house.database_url) as database,
        kept_by(house, f"dispatch SET version = version WHERE id = {stuck.id}"),
    ):
        looks = Periodic(
            "rescue",
            EVERY_SECOND,
            Rescue(PostgresSweeps(database), house.returns, house.wake, BeatWatch()).look,
            jitter=0,
        )
        looking = asyncio.create_task(looks.run())
        while (await house.state(lost.id))["state"] == 1:
            await asyncio.sleep(0.5)
        looks.stop()
        await looking


async def test_others_are_taken_back_whatever_keeps_one_from_its_end(house: House) -> None:
    model, dead = await house.model(), await house.executor()
    stuck, other = await house.running(model, dead, 2)
    assert await PostgresTasks(house.database).request_cancel(model.tenant_id, [stuck.public_id]) == 1
    await house.sql("UPDATE executor SET stopped_at = now()")
    async with kept_by(house, f"cancel_request SET task_id = task_id WHERE task_id = {stuck.id}"):
        with pytest.raises(RowsLocked):
            await rescue_of(house).look()
        assert [(await house.state(one.id))["state"] for one in (stuck, other)] == [1, 0]
    assert await rescue_of(house).look() == 1
