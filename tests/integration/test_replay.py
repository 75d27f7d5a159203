"""Replays and drops of dead tasks, over real PostgreSQL and Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest

from libs.common.adapters.postgres.replay import PostgresReplayWork
from libs.common.domain.errors import Conflict, GateUnavailable, NotFound
from libs.common.domain.model import Model
from libs.common.domain.settle import Finish
from libs.common.domain.task import TaskStatus
from libs.common.ports import SlotRequest
from libs.common.ports_attempts import Attempt
from libs.common.ports_dead import Action, DeadFilter, DeadKind, DueItem, ItemResult, Job, JobState
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from tests.support.graves import USUAL, Operator, died, ids_of, janitor_of, save_up, work
from tests.support.house import SLOT_MS, House, open_house
from tests.support.sights import sight_of


async def ends_well(house: House, model: Model) -> list[Attempt]:
    """Whatever is in the queue succeeds."""
    executor = await house.executor()
    attempts = await house.start(model, executor, await house.lease(model))
    for attempt in attempts:
        assert await house.finish(attempt)
    return attempts


async def test_a_replayed_task_keeps_its_past_and_gets_a_fresh_budget(house: House) -> None:
    model = await house.model()
    (attempt,) = await died(house, model)
    await house.sql("UPDATE task SET retries = 3, start_by = now() - interval '1 h', deadline = now() + interval '1 h'")
    await house.sql("INSERT INTO cancel_request (task_id) VALUES ($1)", attempt.id)
    before = await house.row(attempt.id)
    operator = Operator(house.database)
    job = await operator.order()
    assert (job.total, job.pending, job.state) == (1, 1, JobState.RUNNING)
    assert await work(house) == 1
    row, dispatch = await house.row(attempt.id), await house.state(attempt.id)
    assert (row["status"], row["error_code"], row["finished_at"]) == (TaskStatus.SUBMITTED, None, None)
    assert (row["public_id"], row["created_at"], row["attempt"]) == (before["public_id"], before["created_at"], 1)
    assert row["version"] == before["version"] + 1
    assert (row["start_by"], row["deadline"] is not None) == (None, True)
    assert (dispatch["retries"], dispatch["lost"], dispatch["sends"]) == (0, 0, 0)
    assert (dispatch["class"], dispatch["position"], dispatch["phase"]) == (0, attempt.id, 0)
    assert await house.members(model) == set(ids_of([attempt]))
    assert await house.sql("SELECT 1 FROM cancel_request UNION ALL SELECT 1 FROM dead_task") == []
    assert house.hinted
    assert house.hints.changes == [(model.tenant_id, attempt.id)], "who watches the tenant hears of it"
    done = await operator.job(job)
    assert (done.state, done.pending, done.results[ItemResult.REPLAYED]) == (JobState.DONE, 0, 1)
    (again,) = await ends_well(house, model)
    assert (again.public_id, again.number) == (attempt.public_id, 2)
    outcomes = await house.sql("SELECT attempt, outcome FROM attempt ORDER BY attempt")
    assert [tuple(row) for row in outcomes] == [(1, "failed"), (2, "success")]
    (step,) = await house.sql("SELECT kind, version, detail FROM history")
    assert (step["kind"], step["version"]) == ("replay", before["version"] + 1)
    assert step["detail"] == f"job {job.id} of an operator", "who that was, and why, is not its tenant's to read"
    assert await work(house) == 0


async def test_an_output_that_waits_is_uploaded_without_another_call(house: House) -> None:
    model = await house.model()
    (attempt,) = await house.running(model, await house.executor())
    files = await house.stage_several(attempt, b"one", b"two")
    gone = Finish(TaskStatus.FAILED, "upload_failed", "no", dead=True)
    await house._attempts(0).finish_many([(attempt, gone)])
    await house._give_back(attempt)
    operator = Operator(house.database)
    (entry,), _ = await operator.dead.page(None, DeadFilter(), None, 10)
    assert entry.staged
    await operator.order()
    assert await work(house) == 1
    dispatch = await house.state(attempt.id)
    assert (dispatch["phase"], dispatch["staged"], dispatch["staged_hash"]) == (2, files[0].reference, files[0].sha256)
    (again,) = await ends_well(house, model)
    assert (again.number, again.staged) == (2, tuple(files))
    assert again.upload_age < 30, "the time for the upload begins anew"
    calls = await house.value("SELECT sum(calls)::int FROM stat_delta")
    assert calls == 1
    assert await house.value("SELECT attempt - uploads FROM task") == calls


async def test_ordering_twice_runs_once(house: House) -> None:
    model = await house.model()
    attempts = await died(house, model, 3)
    operator = Operator(house.database)
    jobs = [await operator.order(), await operator.order(ids=ids_of(attempts)), await operator.order()]
    assert [job.total for job in jobs] == [3, 0, 0]
    assert [job.state for job in jobs] == [JobState.RUNNING, JobState.DONE, JobState.DONE]
    preview = await operator.replays.preview(
        None,
        replace(
            USUAL,
        ),
    )
    assert (preview.selection.count, preview.selection.busy) == (0, 3)
    assert await work(house) == 3
    with pytest.raises(NotFound) as refused:
        await operator.order(ids=ids_of(attempts))
    assert refused.value.code == "dead_unknown"
    assert await house.value("SELECT count(*) FROM dispatch") == 3
    assert await house.value("SELECT count(*) FROM history WHERE kind = 'replay'") == 3


async def test_two_orders_at_once_share_the_dead(house: House) -> None:
    model = await house.model(max_concurrency=50)
    await died(house, model, 20)
    operator = Operator(house.database)
    jobs = await asyncio.gather(*(operator.order() for _ in range(4)))
    assert sum(job.total for job in jobs) == 20
    assert await work(house) == 20


async def test_a_full_gate_puts_replays_off_and_loses_none(house: House) -> None:
    model = await house.model(queue_limit=4)
    await died(house, model, 6)
    operator = Operator(house.database)
    job = await operator.order()
    assert await work(house) == 3, "one slot in ten, and one at least, is left to fresh tasks"
    waiting = await operator.job(job)
    assert (waiting.state, waiting.pending, waiting.refusals) == (JobState.RUNNING, 3, 1)
    assert waiting.note
    before = await house.sql("SELECT ctid, * FROM replay_item ORDER BY target")
    assert await work(house) == 0
    assert (await operator.job(job)).refusals == 2
    assert await house.sql("SELECT ctid, * FROM replay_item ORDER BY target") == before, "who waits costs no write"
    await ends_well(house, model)
    assert await work(house) == 3
    done = await operator.job(job)
    assert (done.state, done.note, done.results[ItemResult.REPLAYED]) == (JobState.DONE, "", 6)
    assert (await house.taken(model))[0] == 3


async def test_what_held_a_job_up_is_said_no_longer_once_it_goes_on(house: House) -> None:
    model = await house.model(queue_limit=4, max_concurrency=50)
    await died(house, model, 9)
    operator = Operator(house.database)
    job = await operator.order(rate=2.0)
    assert [await work(house) for _ in range(2)] == [3, 0]
    assert (await operator.job(job)).note == "no free slot in the model's queue"
    await house.sql("UPDATE model SET queue_limit = 100 WHERE id = $1", model.id)
    assert await work(house) == 3
    going_on = await operator.job(job)
    assert (going_on.state, going_on.pending, going_on.note) == (JobState.RUNNING, 3, "")


async def test_a_full_lane_does_not_hold_up_another_one(house: House) -> None:
    full, free = await house.model(queue_limit=1, max_concurrency=50), await house.model()
    await house.gate.take_many([SlotRequest(full.lane, "somebody", 1, SLOT_MS)])
    await died(house, full, 30)
    await died(house, free, 2)
    await Operator(house.database).order(rate=10.0)
    assert await work(house) == 2


async def test_models_take_turns_in_a_job(house: House) -> None:
    crowded, other = await house.model(max_concurrency=50), await house.model()
    await died(house, crowded, 30)
    theirs = await died(house, other, 2)
    await Operator(house.database).order(rate=4.0)
    assert await work(house) == 6
    assert await house.members(other) == set(ids_of(theirs)), "though those of the other are older, and more"


async def test_a_slot_that_waits_to_go_back_is_not_taken_for_the_replays_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> None:
        raise GateUnavailable("away")

    model = await house.model()
    (attempt,) = await died(house, model)
    slot = (model.lane, str(attempt.public_id))
    await house.gate.take_many([SlotRequest(*slot, 9, SLOT_MS)])
    operator = Operator(house.database)
    job = await operator.order()
    janitor = janitor_of(house.database, house.gate, house.wake, house.returns.flush)
    with monkeypatch.context() as patch:
        patch.setattr(house.gate, "release_many", away)
        await house.returns.give(slots=[slot])
        await save_up(house.database)
        assert await janitor.round() == 0, "it waits until the old slot is given back"
    # Another process has nothing that waits: it finds the old slot in place and goes on with it.
    assert await work(house) == 1
    assert (await operator.job(job)).state is JobState.DONE
    assert await house.returns.flush()
    assert await house.members(model) == {slot[1]}, "the replayed task has it now"


async def test_a_job_keeps_its_pace(house: House) -> None:
    model = await house.model(max_concurrency=50)
    await died(house, model, 40)
    operator = Operator(house.database)
    job = await operator.order(rate=10.0)
    assert await work(house) == 15, "what was not looked at for long saves up no more than a second and a half"
    assert await janitor_of(house.database, house.gate, house.wake).round() == 0, "another one's for now"
    waiting = [one for one, result in (await operator.results(job)).items() if result is None]
    slow = await operator.order(ids=waiting[:1])
    assert slow.total == 0
    await operator.replays.stop(None, job.id)
    slow = await operator.order(rate=0.05)
    assert await work(house, 10) == 0
    assert await work(house, 12) == 1
    assert (await operator.job(slow)).pending == 24


async def test_slow_jobs_and_a_tenant_with_many_hold_up_nobody(house: House) -> None:
    model, other = await house.model(max_concurrency=80), await house.model()
    crowd, theirs = await died(house, model, 60), await died(house, other)
    pushy = Operator(house.database, model.tenant_id)
    for attempt in crowd[:25]:
        await pushy.order(ids=ids_of([attempt]), rate=0.01)
    for attempt in crowd[25:]:
        await pushy.order(ids=ids_of([attempt]))
    job = await Operator(house.database, other.tenant_id).order()
    assert await work(house, 2) == 20, "so many jobs a round, none that must wait"
    assert (await Operator(house.database).job(job)).state is JobState.DONE
    assert await house.state(theirs[0].id)


async def test_at_every_rate_a_job_does_something_and_no_more_than_its_pace(house: House) -> None:
    wrong = (
        "SELECT r FROM generate_series(0.01, 2000, 0.01) AS r, CAST(r AS float8) AS x WHERE NOT"
        " replay_budget(x, '1 day') BETWEEN 1 AND greatest(1, 1.5 * x)"
    )
    assert await house.sql(wrong) == []


async def test_pause_resume_and_stop(house: House) -> None:
    model = await house.model()
    await died(house, model, 5)
    operator = Operator(house.database)
    job = await operator.order()
    assert (await operator.replays.pause(None, job.id)).state is JobState.PAUSED
    assert await work(house) == 0
    assert (await operator.replays.resume(None, job.id)).state is JobState.RUNNING
    await house.sql("UPDATE replay_item SET due_at = now() + interval '1 h' WHERE target % 2 = 0")
    moved = await work(house)
    assert 0 < moved < 5
    stopped = await operator.replays.stop(None, job.id)
    assert (stopped.state, stopped.pending, stopped.results[ItemResult.STOPPED]) == (JobState.STOPPED, 0, 5 - moved)
    for steer in (operator.replays.pause, operator.replays.resume):
        with pytest.raises(Conflict):
            await steer(None, job.id)
    with pytest.raises(NotFound):
        await operator.replays.pause(None, job.id + 1)
    again = await operator.order()
    assert again.total == 5 - moved, "what a stopped job left is free for another one"


async def test_nothing_begins_once_a_job_is_paused(house: House) -> None:
    """The pause comes between the slot and the write."""
    model = await house.model()
    await died(house, model, 2)
    operator = Operator(house.database)
    job = await operator.order()
    await save_up(house.database)
    failpoints.arm("janitor/before-replay:1:delay=300")
    round_ = asyncio.create_task(janitor_of(house.database, house.gate, house.wake).round())
    await asyncio.sleep(0)
    while not failpoints.reached():
        await asyncio.sleep(0.01)
    await operator.replays.pause(None, job.id)
    assert await round_ == 0
    assert (await house.taken(model))[0] == 0, "the slots went back"
    assert await house.value("SELECT count(*) FROM dead_task") == 2


async def test_two_janitors_with_the_same_job_settle_each_item_once(house: House, redis_url: str) -> None:
    model = await house.model(max_concurrency=50)
    await died(house, model, 30)
    job = await Operator(house.database).order()
    async with open_house(house.database_url, redis_url) as other:
        for _ in range(3):
            await save_up(house.database)
            ours = janitor_of(house.database, house.gate, house.wake)
            theirs = janitor_of(other.database, other.gate, other.wake)
            turn = (await ours._work.take(ours._me, [DeadKind.TASK], 10))[:1]
            if not turn:
                break
            items = await ours._work.due(turn[0], 500, ())
            await asyncio.gather(
                ours._replays[DeadKind.TASK](turn[0], items), theirs._replays[DeadKind.TASK](turn[0], items)
            )
    assert (await Operator(house.database).job(job)).results[ItemResult.REPLAYED] == 30
    assert await house.value("SELECT count(*) FROM dispatch") == 30
    assert (await house.taken(model))[0] == 30, "the slower one did not give the other's slots away"


async def test_a_job_is_taken_by_one_runner_of_its_kind_until_its_lease_is_over(house: House) -> None:
    model = await house.model()
    await died(house, model, 2)
    operator = Operator(house.database)
    job = await operator.order()
    work_, mine, other = PostgresReplayWork(house.database, "UTC"), uuid4(), uuid4()

    async def taken(runner: UUID, *kinds: DeadKind) -> list[int]:
        await house.sql("UPDATE replay_job SET paced_at = paced_at - interval '1 minute'")
        return [turn.id for turn in await work_.take(runner, kinds, 10)]

    assert await taken(mine, DeadKind.EVENT, DeadKind.MESSAGE) == []
    assert await taken(mine, DeadKind.EVENT, DeadKind.TASK) == [job.id]
    assert await taken(other, DeadKind.TASK) == []
    assert await taken(mine, DeadKind.TASK) == [job.id]
    await house.sql("UPDATE replay_job SET runner_until = now() - interval '1 second'")
    assert await taken(other, DeadKind.TASK) == [job.id]
    await operator.replays.pause(None, job.id)
    assert await taken(other, DeadKind.TASK) == []


async def test_each_job_has_items_of_its_own_and_those_that_are_over_are_not_due(house: House) -> None:
    model, another = await house.model(), await house.model()
    first, second = await died(house, model, 2), await died(house, another, 1)
    operator = Operator(house.database)
    jobs = [await operator.order(ids=ids_of(attempts)) for attempts in (first, second)]
    await save_up(house.database)
    work_ = PostgresReplayWork(house.database, "UTC")
    turns = {turn.id: turn for turn in await work_.take(uuid4(), [DeadKind.TASK], 10)}

    async def due(job: Job) -> set[int]:
        return {item.key for item in await work_.due(turns[job.id], 9, ())}

    assert [await due(job) for job in jobs] == [{one.id for one in first}, {one.id for one in second}]
    await house.sql("UPDATE replay_item SET result = 'gone' WHERE target = $1", first[0].id)
    assert await due(jobs[0]) == {first[1].id}
    await house.sql("UPDATE replay_item SET due_at = now() + interval '1 minute' WHERE target = $1", first[1].id)
    assert [await due(job) for job in jobs] == [set(), {second[0].id}]


@pytest.mark.parametrize("points", [0, 4], ids=["free", "with points"])
async def test_of_what_is_asked_for_only_what_still_waits_in_the_job_is_replayed_and_paid(
    house: House, points: int
) -> None:
    """Between the look and the write: settled by another process, dropped, of another job, of a deleted model."""
    model, closed = await house.model(), await house.model()
    settled, dropped, theirs, mine = await died(house, model, 4)
    (orphan,) = await died(house, closed)
    await house.sql("UPDATE task SET points = $1, quota_day = '2020-01-01'", points)
    operator = Operator(house.database)
    job = await operator.order(ids=ids_of([settled, dropped, mine, orphan]))
    await operator.order(ids=ids_of([theirs]))
    await save_up(house.database)
    work_ = PostgresReplayWork(house.database, "UTC")
    (turn,) = [turn for turn in await work_.take(uuid4(), [DeadKind.TASK], 10) if turn.id == job.id]
    items = [DueItem(one.id, points=points) for one in (settled, dropped, theirs, mine, orphan)]
    await house.sql("UPDATE replay_item SET result = 'stopped' WHERE target = $1", settled.id)
    await house.sql("UPDATE dead_task SET dropped_at = now() WHERE task_id = $1", dropped.id)
    await house.sql("UPDATE lane SET closed = true WHERE model_id = $1", closed.id)
    moved, poor = await work_.replay_tasks(turn, items)
    assert ([one.id for one in moved], poor) == ([mine.id], [])
    assert await house.sql("SELECT sum(used)::int AS used FROM quota_usage") == [(points or None,)]
    results = await house.sql("SELECT target, result, detail FROM replay_item")
    assert {row["target"]: (row["result"], row["detail"]) for row in results} == {
        settled.id: ("stopped", ""),
        dropped.id: ("gone", ""),
        theirs.id: (None, ""),
        mine.id: ("replayed", ""),
        orphan.id: ("refused", "model_deleted"),
    }
    assert [row["task_id"] for row in await house.sql("SELECT task_id FROM dead_task ORDER BY 1")] == sorted(
        one.id for one in (settled, dropped, theirs, orphan)
    )
    assert await work_.replay_tasks(turn, items) == ([], [])


async def test_points_are_reserved_again_and_who_has_none_left_waits(house: House) -> None:
    model = await house.model()
    attempts = await died(house, model, 3)
    tenant = model.tenant_id
    await house.sql("UPDATE task SET points = 4, quota_day = '2020-01-01'")
    await house.sql("INSERT INTO quota_limit (tenant_id, user_name, points_per_day) VALUES ($1, '', 9)", tenant)
    operator = Operator(house.database)
    job = await operator.order()
    assert await work(house) == 2
    assert await house.value("SELECT used FROM quota_usage WHERE tenant_id = $1", tenant) == 8
    rows = await house.sql("SELECT quota_day = current_date AS today, status FROM task ORDER BY id")
    assert [tuple(row) for row in rows] == [(True, 1), (True, 1), (False, 7)]
    waiting = await operator.job(job)
    assert (waiting.pending, waiting.note) == (1, "the user's points of today are used up")
    assert await house.members(model) == set(ids_of(attempts[:2]))
    await house.sql("UPDATE replay_item SET due_at = now()")
    await house.sql("UPDATE quota_limit SET points_per_day = 12")
    assert await work(house) == 1
    assert await house.value("SELECT used FROM quota_usage WHERE tenant_id = $1", tenant) == 12


async def test_a_model_is_not_deleted_between_points_and_queue(house: House) -> None:
    model = await house.model()
    await died(house, model)
    await house.sql("UPDATE task SET points = 4, quota_day = '2020-01-01'")
    operator = Operator(house.database)
    job = await operator.order()
    await save_up(house.database)
    janitor = janitor_of(house.database, house.gate, house.wake)
    (turn,) = await janitor._work.take(janitor._me, [DeadKind.TASK], 10)
    (item,) = await janitor._work.due(turn, 10, ())
    await house.sql("SET lock_timeout = '100ms'")
    async with house.database.transaction() as replaying:
        assert await replaying.fetch("lock_dead_tasks", job.id, [item.key])
        with pytest.raises(asyncpg.LockNotAvailableError):  # else the points would stay reserved
            await house.sql("UPDATE lane SET closed = true")


async def test_a_job_that_was_paused_before_the_points_does_not_go_on_before_the_queue(house: House) -> None:
    """Else its tasks would run without points."""
    model = await house.model()
    (attempt,) = await died(house, model)
    operator = Operator(house.database)
    job = await operator.order()
    await operator.replays.pause(None, job.id)
    await house.sql("SET lock_timeout = '100ms'")
    async with house.database.transaction() as replaying:
        assert not await replaying.fetch("lock_dead_tasks", job.id, [attempt.id])
        with pytest.raises(asyncpg.LockNotAvailableError):
            await house.sql("UPDATE replay_job SET state = 'running'")


async def test_a_dry_run_says_how_many_the_job_will_refuse_and_why_in_its_words(house: House) -> None:
    model, closed = await house.model(), await house.model()
    (_, bare), orphans = await died(house, model, 2), await died(house, closed, 3)
    await house.sql("UPDATE lane SET closed = true WHERE model_id = $1", closed.id)
    await house.sql("DELETE FROM task_input WHERE task_id = ANY ($1::bigint[])", [bare.id, orphans[0].id])
    operator = Operator(house.database)
    told = (await operator.replays.preview(None, USUAL)).selection
    assert (told.count, told.refused) == (5, {"model_deleted": 3, "payload_missing": 1})
    oldest = (await operator.replays.preview(None, replace(USUAL, limit=2))).selection
    assert (oldest.count, oldest.refused) == (2, {"payload_missing": 1}), "only of what it would take"
    job = await operator.order()
    assert await work(house) == 1
    items, _ = await operator.replays.items(None, job.id, None, 10)
    assert Counter(item.detail for item in items if item.result is ItemResult.REFUSED) == told.refused


async def test_a_task_of_a_deleted_model_is_refused(house: House) -> None:
    model = await house.model()
    (attempt,) = await died(house, model)
    await house.sql("UPDATE lane SET closed = true")
    operator = Operator(house.database)
    job = await operator.order()
    assert await work(house) == 0
    items, _ = await operator.replays.items(None, job.id, None, 10)
    assert [(item.result, item.detail) for item in items] == [(ItemResult.REFUSED, "model_deleted")]
    assert (await operator.job(job)).state is JobState.DONE
    assert (await house.row(attempt.id))["status"] == TaskStatus.FAILED
    assert (await house.taken(model))[0] == 0


async def test_what_is_not_dead_any_more_is_gone_and_what_is_broken_is_refused_alone(house: House) -> None:
    model = await house.model()
    cleaned, broken, without, good = await died(house, model, 4)
    operator = Operator(house.database)
    job = await operator.order()
    await house.sql("DELETE FROM dead_task WHERE task_id = $1", cleaned.id)
    await house.sql(
        "INSERT INTO dispatch (id, public_id, lane, state, position) SELECT id, public_id, lane, 0, id FROM task"
        " WHERE id = $1",
        broken.id,
    )
    await house.sql("DELETE FROM task_input WHERE task_id = $1", without.id)
    assert await work(house) == 1
    assert await operator.results(job) == {
        str(cleaned.public_id): ItemResult.GONE,
        str(broken.public_id): ItemResult.REFUSED,
        str(without.public_id): ItemResult.REFUSED,
        str(good.public_id): ItemResult.REPLAYED,
    }
    assert (await house.row(good.id))["status"] == TaskStatus.SUBMITTED


async def test_a_dropped_task_is_off_the_list_and_goes_with_its_retention(house: House) -> None:
    model = await house.model()
    (attempt,) = await house.running(model, await house.executor())
    await house.stage(attempt)
    await house._attempts(0).finish_many([(attempt, Finish(TaskStatus.FAILED, "upload_failed", "no", dead=True))])
    await house.sql("DELETE FROM event")
    await house.sql("INSERT INTO task_secret (task_id, sealed) VALUES ($1, 'x')", attempt.id)
    operator = Operator(house.database)
    job = await operator.order(action=Action.DROP)
    assert await work(house) == 1
    assert await operator.dead.page(None, DeadFilter(), None, 10) == ([], None)
    assert (await operator.dead.groups(None, DeadFilter())).items == []
    assert (await sight_of(house).overview()).dead.value == 0
    assert (await operator.job(job)).results[ItemResult.DROPPED] == 1
    (step,) = await house.sql("SELECT kind, detail FROM history")
    assert (step["kind"], step["detail"]) == ("drop", f"job {job.id} of an operator")
    assert await house.sql("SELECT 1 FROM task_secret UNION ALL SELECT 1 FROM staged_output") == []
    assert (await operator.order()).total == 0
    await house.sql("UPDATE dead_task SET died_at = now() - interval '9 d'")
    await house.sql("UPDATE task SET finished_at = now() - interval '9 d'")
    over = await house.sweeps.dead_over(8, 10)
    assert [task.id for task in over] == [attempt.id]
    assert await house.clean(attempt.id) == [attempt.id]
    assert await operator.results(job) == {str(attempt.public_id): ItemResult.DROPPED}, "the record stays"


async def test_a_job_that_fails_holds_up_no_other(house: House) -> None:
    jobs = []
    for _ in range(2):
        model = await house.model()
        await died(house, model)
        jobs.append(await Operator(house.database, model.tenant_id).order())
    failpoints.arm("janitor/before-replay:1:raise")
    with pytest.raises(FailpointRaised):
        await work(house)
    states = [(await Operator(house.database).job(job)).state for job in jobs]
    assert sorted(states) == [JobState.DONE, JobState.RUNNING]


@pytest.mark.parametrize("point", ["janitor/before-replay", "janitor/after-replay", "janitor/before-replay-hold-up"])
async def test_a_round_that_fails_anywhere_is_made_good_by_the_next(house: House, point: str) -> None:
    model = await house.model(queue_limit=3)
    attempts = await died(house, model, 3)
    operator = Operator(house.database)
    job = await operator.order()
    failpoints.arm(f"{point}:1:raise")
    await save_up(house.database)
    with pytest.raises(FailpointRaised):
        await janitor_of(house.database, house.gate, house.wake).round()
    failpoints.arm("")
    ended: list[Attempt] = []
    for _ in range(3):
        await house.sql("UPDATE replay_item SET due_at = now()")
        await work(house)
        ended += await ends_well(house, model)
    assert sorted(ids_of(ended)) == sorted(ids_of(attempts)), "each once"
    assert set((await operator.results(job)).values()) == {ItemResult.REPLAYED}
    assert await house.value("SELECT count(*) FROM history WHERE kind = 'replay'") == 3
    assert (await house.taken(model))[0] == 0
