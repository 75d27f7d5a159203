"""What operators order, at the executors: nothing that is paused begins; who is asked to leave finishes and leaves."""

from __future__ import annotations

import asyncio

from libs.common.adapters.postgres.control import PostgresControl
from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.domain.model import Model
from libs.common.operations.control import Controls
from libs.common.operations.sight import Sight
from tests.support.executor_rig import Rig, Running, until


def controls_of(rig: Rig) -> Controls:
    return Controls(PostgresControl(rig.database), PostgresInsight(rig.database), rig.hints)


async def ready(rig: Rig, model: Model) -> int:
    rows = await rig.sql("SELECT count(*) AS n FROM dispatch WHERE state = 0 AND lane = $1", model.lane)
    return int(rows[0]["n"])


def held(running: Running) -> int:
    return len(running.executor.desk.room)


async def test_what_runs_goes_on_while_what_is_held_or_comes_later_goes_back(rig: Rig) -> None:
    model, controls = await rig.make_model(max_concurrency=2), controls_of(rig)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    first = await rig.make_tasks(model, 4)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2 and held(running) == 2, "two run, two are held")
    late = await rig.make_tasks(model, 1)
    await controls.pause_model(model.tenant_id, model.name, "ann", "wrong answers")

    async def given_back() -> bool:
        return held(running) == 0 and await ready(rig, model) == 3

    await until(given_back, "what was held goes back to its place")
    assert await rig.lease(model) == []
    assert rig.model.running == 2
    rig.model.held.set()
    await until(lambda: rig.model.running == 0, "what ran ends")
    assert len(rig.model.calls) == 2
    await controls.resume_model(model.tenant_id, model.name, "ann")
    await until(lambda: not running.executor.desk.paused, "the executor hears it")
    await rig.dispatch(model)
    await rig.ended([*first, *late])
    assert len(rig.model.calls) == 5


async def test_a_message_that_was_on_the_road_when_its_tenant_was_paused_goes_back_and_others_run(rig: Rig) -> None:
    model, other, controls = await rig.make_model(), await rig.make_model(), controls_of(rig)
    running = await rig.executor()
    ids, others = await rig.make_tasks(model, 2), await rig.make_tasks(other, 2)
    rows = await rig.lease(model)
    await controls.pause_tenant(model.tenant_id, "ann", "unpaid")
    await until(lambda: bool(running.executor.desk.paused), "the executor hears it")
    await rig.send(model, rows)
    await rig.dispatch(other)
    await rig.ended(others)

    async def given_back() -> bool:
        return await ready(rig, model) == 2 and held(running) == 0

    await until(given_back, "they are back in their places")
    assert len(rig.model.calls) == 2
    await controls.resume_tenant(model.tenant_id, "ann")
    await until(lambda: not running.executor.desk.paused, "the executor hears it")
    await rig.dispatch(model)
    await rig.ended(ids)


async def test_an_executor_that_is_asked_to_leave_finishes_gives_back_and_leaves(rig: Rig) -> None:
    model, controls = await rig.make_model(max_concurrency=2), controls_of(rig)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 4)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2 and held(running) == 2, "two run, two are held")
    assert await controls.drain("rig-0", "ann", "kernel update") == "draining"
    await until(lambda: held(running) == 0, "what is held goes back")
    assert not running.pending.done(), "what runs may end"
    (seen,) = await Sight(PostgresInsight(rig.database), rig.gate, rig.permits).executors()
    assert (seen.draining, seen.reading) == (True, False)
    rig.model.held.set()
    await asyncio.wait_for(running.pending, 10)
    rows = await rig.sql("SELECT stopped_at, posture FROM executor")
    assert rows[0]["stopped_at"] is not None
    assert len(rig.model.calls) == 2, "it took nothing new, and called nothing twice"
    await rig.executor()
    await rig.dispatch(model)
    await rig.ended(ids)


async def test_who_is_asked_to_stay_after_all_reads_again(rig: Rig) -> None:
    model, controls = await rig.make_model(), controls_of(rig)
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1, "it runs")
    await controls.drain("rig-0", "ann", "")
    await until(lambda: running.executor.posture() == "draining", "it heard")
    await controls.undrain("rig-0", "ann")
    await until(lambda: running.executor.posture() == "reading", "it reads again")
    rig.model.held.set()
    more = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(more)
