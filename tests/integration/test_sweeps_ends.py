"""What the janitor ends: overdue attempts, long waits, work of deleted models, and what is kept of each."""

from __future__ import annotations

import pytest

from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.ports_sweeps import Ending
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from services.janitor.sweeps.overdue import Overdue
from services.janitor.sweeps.waits import ClosedLanes, TooLong
from tests.support.house import House

DAY = 86_400


def overdue_of(house: House) -> Overdue:
    return Overdue(house.sweeps, house.returns, house.wake, house.rng, upload_seconds=DAY)


def too_long_of(house: House, seconds: int = DAY) -> TooLong:
    return TooLong(house.sweeps, house.endings, max_wait_seconds=seconds)


async def delete(house: House, model: Model) -> None:
    assert await PostgresModels(house.database).delete(model.tenant_id, model.id, "")


async def test_an_overdue_attempt_is_retried_or_ends_as_timeout(house: House) -> None:
    executor = await house.executor()
    once, again = await house.model(), await house.model(retry_times=1)
    (ended,), (retried, within) = await house.running(once, executor), await house.running(again, executor, 2)
    await house.sql("UPDATE dispatch SET until = now() - interval '31 s' WHERE id <> $1", within.id)
    await house.sql("UPDATE dispatch SET until = now() - interval '29 s' WHERE id = $1", within.id)
    overdue = overdue_of(house)
    failpoints.arm("janitor/before-end-overdue:1:raise")
    with pytest.raises(FailpointRaised):
        await overdue.sweep()
    assert await overdue.sweep() == 2
    assert await overdue.sweep() == 0
    row = await house.row(ended.id)
    assert (row["status"], row["open"], row["error_code"]) == (8, False, "model_timeout")
    row = await house.state(retried.id)
    assert (row["state"], row["retries"], row["class"]) == (3, 1, 0)
    assert await house.value("SELECT due_at > now() FROM dispatch WHERE id = $1", retried.id)
    outcomes = await house.sql("SELECT outcome FROM attempt")
    assert [row["outcome"] for row in outcomes] == ["timeout", "timeout"]
    assert await house.taken(once) == (0, 0)
    assert await house.taken(again) == (1, 1)
    assert not await house.finish(ended)  # its executor wakes up too late
    assert f"{once.lane} room" in house.hinted


async def test_what_an_ended_attempt_had_goes_back_though_the_retries_beside_it_fail(house: House) -> None:
    executor = await house.executor()
    once, again = await house.model(), await house.model(retry_times=1)
    for model in (once, again):
        await house.running(model, executor)
    await house.sql("UPDATE dispatch SET until = now() - interval '31 s'")
    failpoints.arm("janitor/before-end-overdue:2:raise")
    with pytest.raises(FailpointRaised):
        await overdue_of(house).sweep()
    assert (await house.taken(once), await house.taken(again)) == ((0, 0), (1, 1))
    assert f"{once.lane} room" in house.hinted


async def test_an_upload_that_outlives_its_limit_is_dead_and_keeps_its_file(house: House) -> None:
    model = await house.model(retry_times=5)
    (attempt,) = await house.running(model, await house.executor())
    staged = await house.stage(attempt)
    await house.sql("UPDATE dispatch SET until = now() - interval '1 h', generated_at = now() - interval '1 h'")
    assert await overdue_of(house).sweep() == 0
    await house.sql("UPDATE dispatch SET generated_at = now() - interval '25 h'")
    assert await overdue_of(house).sweep() == 1
    assert (await house.row(attempt.id))["error_code"] == "upload_timeout"
    assert await house.value("SELECT staged FROM dead_task") == staged.reference


async def test_what_waits_too_long_times_out_wherever_it_waits(house: House) -> None:
    model = await house.model(max_concurrency=20, retry_times=3)
    executor = await house.executor()
    running, retry, parked = await house.running(model, executor, 3)
    await house.fail(retry, delay=3_600)
    await house.park(parked)
    ready, held, published, fresh, draft = await house.tasks(model, 5)
    rows = await house.lease(model)
    await house.hold(executor, [row for row in rows if row.id == held])
    await house.unlease([row.id for row in rows if row.id in (ready, fresh, draft)])
    await house.sql("UPDATE dispatch SET state = 2, due_at = now() + interval '9 days' WHERE id = $1", draft)
    await house.sql("UPDATE task SET created_at = now() - interval '3 days'")
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '2 days' WHERE id <> $1", fresh)
    before = await house.taken(model)

    failpoints.arm("janitor/before-end-waiting:1:raise")
    with pytest.raises(FailpointRaised):
        await too_long_of(house).sweep()
    assert await too_long_of(house).sweep() == 4
    assert await too_long_of(house).sweep() == 0

    for task in (ready, held, published, retry.id):
        row = await house.row(task)
        assert (row["status"], row["open"], row["error_code"]) == (8, False, "wait_timeout")
    assert (await house.row(retry.id))["retries"] == 0  # the one that it waited for was never made
    for task in (running.id, fresh, draft, parked.id):
        assert await house.state(task) is not None
    after = await house.taken(model)
    assert before[0] - after[0] == 3  # the retry had none
    assert await house.value("SELECT count(*) FROM dead_task") == 4
    assert await house.value("SELECT count(*) FROM event WHERE status = 8") == 4


async def test_a_paused_lane_waits_as_long_as_it_is_paused(house: House) -> None:
    model, other = await house.model(), await house.model()
    await house.tasks(model)
    await house.tasks(other)
    await house.sql("UPDATE lane SET paused = true WHERE id = $1", model.lane)
    await house.sql("UPDATE tenant SET paused = true WHERE id = $1", other.tenant_id)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '2 days'")
    assert await too_long_of(house).sweep() == 0


async def test_the_walk_takes_some_pages_a_round_and_begins_again_at_what_is_young(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing on them has waited too long: 50,000 tasks for tomorrow are 50 pages in front of all others."""
    monkeypatch.setattr("services.janitor.sweeps.waits._PAGE", 2)
    monkeypatch.setattr("services.janitor.sweeps.waits._PAGES", 2)
    model = await house.model()
    tasks = await house.tasks(model, 7)
    old = tasks[:5]
    await house.sql("UPDATE task SET created_at = now() - interval '2 h' WHERE id = ANY ($1::bigint[])", old)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '2 h' WHERE id = $1", tasks[4])
    pages: list[int] = []
    read = house.sweeps.waiting_page

    async def counted(after: int, limit: int, seconds: int) -> object:
        pages.append(after)
        return await read(after, limit, seconds)

    monkeypatch.setattr(house.sweeps, "waiting_page", counted)
    walk = too_long_of(house, 3_600)
    assert [await walk.sweep() for _ in range(3)] == [0, 1, 0]
    assert pages == [0, tasks[1], tasks[3], 0, tasks[1]]


async def test_waiting_work_of_a_deleted_model_fails_and_running_work_goes_on(house: House) -> None:
    model, alive = await house.model(max_concurrency=20), await house.model()
    executor = await house.executor()
    running, retry, parked = await house.running(model, executor, 3)
    await house.fail(retry)
    staged = await house.park(parked)
    ready, published, draft = await house.tasks(model, 3)
    rows = await house.lease(model)
    await house.unlease([row.id for row in rows if row.id in (ready, draft)])
    await house.sql("UPDATE dispatch SET state = 2, due_at = now() + interval '9 days' WHERE id = $1", draft)
    (other,) = await house.tasks(alive)
    await delete(house, model)

    closed = ClosedLanes(house.sweeps, house.endings)
    assert await closed.sweep() == 5
    assert await closed.sweep() == 0

    for task in (ready, published, draft, retry.id, parked.id):
        row = await house.row(task)
        assert (row["status"], row["open"], row["error_code"]) == (7, False, "model_deleted")
    assert await house.finish(running)
    assert await house.state(other) is not None
    assert await house.value("SELECT staged FROM dead_task WHERE task_id = $1", parked.id) == staged.reference
    assert await house.value("SELECT outcome FROM attempt WHERE task_id = $1", parked.id) == "failed"
    assert await house.taken(model) == (0, 0)


async def test_a_cancel_that_overtakes_the_sweep_wins(house: House) -> None:
    model = await house.model()
    (task,) = await house.tasks(model)
    await delete(house, model)
    rows = await house.sweeps.rows_of_closed_lanes(10)
    (public,) = await house.sql("SELECT public_id FROM task")
    assert await PostgresTasks(house.database).cancel_waiting(model.tenant_id, [public["public_id"]])
    endings = [Ending(*row, TaskStatus.FAILED, "model_deleted", "", dead=True) for row in rows]
    assert await house.endings.write("x", endings) == 0
    assert (await house.row(task))["status"] == 9


async def test_a_canceled_parked_upload_has_its_attempts_row(house: House) -> None:
    model = await house.model()
    (attempt,) = await house.running(model, await house.executor())
    await house.park(attempt)
    assert await PostgresTasks(house.database).cancel_waiting(model.tenant_id, [attempt.public_id])
    assert await house.value("SELECT outcome FROM attempt WHERE task_id = $1", attempt.id) == "canceled"
