"""The dispatch queue in PostgreSQL: every transition, and what no transition may do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.domain.outcome import ResultFile
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import CallAgain, Finish, GiveBack, Park, Retry
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Claim
from libs.common.ports_dispatch import Key, LaneAsk, Placed
from libs.common.ports_provider_jobs import JobIntent
from libs.common.ports_sweeps import Ending
from services.dispatcher.lanes import LaneBook
from tests.support.queue_desk import FIRST, TENANT, QueueDesk, open_desk

SOON = timedelta(seconds=0.15)
STAGED = StagedFile("local:/a/b", 10, b"h" * 32, "png", "image/png")


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


async def until_due(desk: QueueDesk) -> None:
    """Everything that waits for a time is due now."""
    await desk.sql("UPDATE dispatch SET due_at = now() - interval '1 second' WHERE due_at IS NOT NULL")


async def test_a_turn_takes_the_window_and_no_more(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=2)
    ids = await desk.create(lane, 10)
    assert await desk.lease(lane) == ids[:4]
    assert await desk.lease(lane) == []
    assert len(await desk.sql("SELECT * FROM lease")) == 1, "a turn that takes nothing opens no lease"
    (attempt,) = await desk.start(ids[:1])
    await desk.executor.finish_many([(attempt, Finish(TaskStatus.SUCCESS))])
    assert await desk.lease(lane) == ids[4:5]


async def test_priority_is_strict_within_a_class(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=10)
    low = await desk.create(lane, 2, priority=5)
    high = await desk.create(lane, 2, priority=-5)
    middle = await desk.create(lane, 1)
    taken = []
    for _ in range(5):
        taken += await desk.lease(lane, 1)
    assert taken == [*high, *middle, *low]


async def test_what_one_turn_takes_lies_in_the_order_of_its_priorities(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=10)
    low, high, middle = [await desk.create(lane, 2, priority=priority) for priority in (5, -5, 0)]
    turn = await desk.queue.lease_due([LaneAsk(lane, 500, 0, FIRST, FIRST)], 500, 1, [])
    assert [row.id for row in turn.rows] == [*high, *middle, *low]


async def test_returning_rows_share_with_fresh_ones_one_to_one(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=50)
    returning = await desk.create(lane, 10)
    fresh = await desk.create(lane, 10)
    await desk.sql("UPDATE dispatch SET class = 0 WHERE id = ANY ($1::bigint[])", returning)
    taken = await desk.lease(lane, 500, quantum=8)
    assert set(taken) == {*returning[:4], *fresh[:4]}


async def test_a_lane_with_room_for_one_gives_either_class_as_it_is_told(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=50)
    returning, fresh = await desk.create(lane, 4), await desk.create(lane, 4)
    await desk.sql("UPDATE dispatch SET class = 0 WHERE id = ANY ($1::bigint[])", returning)
    taken = []
    for fresh_first in (False, True, False, True):
        turn = await desk.queue.lease_due([LaneAsk(lane, 1, 0, FIRST, FIRST, fresh_first)], 1, 1, [])
        taken += [row.id for row in turn.rows]
    assert taken == [returning[0], fresh[0], returning[1], fresh[1]]
    turn = await desk.queue.lease_due([LaneAsk(lane, 3, 0, FIRST, FIRST, True)], 3, 1, [])
    assert {row.id for row in turn.rows} == {fresh[2], returning[2], fresh[3]}


async def test_quanta_interleave_lanes_and_the_batch_cuts_them_fairly(desk: QueueDesk) -> None:
    lanes = [await desk.lane(concurrency=50) for _ in range(3)]
    for lane in lanes:
        await desk.create(lane, 50)
    asks = [LaneAsk(lane, quantum, 0, FIRST, FIRST) for lane, quantum in zip(lanes, (20, 20, 40), strict=True)]
    turn = await desk.queue.lease_due(asks, 40, 1, [])
    counts = [sum(row.lane == lane for row in turn.rows) for lane in lanes]
    assert counts == [10, 10, 20]
    assert [room.room for room in turn.rooms] == [100, 100, 100]


async def test_paused_and_closed_lanes_answer_nothing(desk: QueueDesk) -> None:
    open_, paused, closed, tenant_paused = [await desk.lane(tenant=tenant) for tenant in (1, 1, 1, 2)]
    for lane in (open_, paused, closed, tenant_paused):
        await desk.create(lane)
    await desk.sql("UPDATE lane SET paused = true WHERE id = $1", paused)
    await desk.sql("UPDATE tenant SET paused = true WHERE id = 2")
    await desk.models.delete(1, desk.lanes[closed].id, "tester")
    assert await desk.queue.lanes_with_work() == [open_]
    asks = [LaneAsk(lane, 9, 0, FIRST, FIRST) for lane in (open_, paused, closed, tenant_paused)]
    turn = await desk.queue.lease_due(asks, 100, 1, [])
    assert [room.lane for room in turn.rooms] == [open_]
    assert not turn.busy


async def test_lanes_that_somebody_has_locked_are_left_to_them(desk: QueueDesk) -> None:
    lanes = [await desk.lane(), await desk.lane()]
    for lane in lanes:
        await desk.create(lane)
    other = await asyncpg.connect(desk.url)
    await other.execute("SELECT pg_advisory_lock(7001, $1)", lanes[0])
    asks = [LaneAsk(lane, 9, 0, FIRST, FIRST) for lane in lanes]
    turn = await desk.queue.lease_due(asks, 100, 1, [])
    await other.close()
    assert turn.busy == lanes[:1]
    assert {row.lane for row in turn.rows} == {lanes[1]}


async def test_cursors_hide_what_lies_before_them(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=10)
    ids = await desk.create(lane, 5)
    turn = await desk.queue.lease_due([LaneAsk(lane, 9, 0, FIRST, Key(0, ids[3]))], 100, 1, [])
    assert sorted(row.id for row in turn.rows) == ids[3:]
    turn = await desk.queue.lease_due([LaneAsk(lane, 9, 10**6, FIRST, Key(1, 0))], 100, 1, [])
    assert [(room.room, room.low) for room in turn.rooms] == [(20, None)], "no lease above the low water is in flight"


async def test_acknowledged_leases_are_forgotten_by_the_next_turn(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=10)
    ids = await desk.create(lane, 2)
    await desk.lease(lane, 1)
    await desk.lease(lane, 1, done=[desk.leases[ids[0]]])
    assert [row["id"] for row in await desk.sql("SELECT id FROM lease")] == [desk.leases[ids[1]]]
    await desk.queue.close_leases([desk.leases[ids[1]]])
    assert await desk.sql("SELECT id FROM lease") == []


async def test_what_the_broker_did_not_acknowledge_is_first_again_and_burns_nothing(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=2)
    ids = await desk.create(lane, 6)
    await desk.lease(lane)
    old = desk.leases[ids[0]]
    back = await desk.queue.give_back(old, ids[:2])
    assert [(row.id, row.place) for row in back] == [(id_, Placed(lane, 1, Key(0, id_))) for id_ in ids[:2]]
    assert await desk.lease(lane) == ids[:2]
    row = await desk.row(ids[0])
    assert row is not None
    assert (row["sends"], row["retries"], row["attempt"]) == (0, 0, 0)
    assert await desk.history(ids[0]) == ["heal"]
    assert await desk.queue.give_back(old, ids[:2]) == [], "the lease of old gives nothing back any more"
    assert await desk.start(ids[:1], leases=[old]) == [], "nor does its message start anything"


async def test_a_started_or_held_row_is_not_given_back(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=2)
    ids = await desk.create(lane, 4)
    await desk.lease(lane)
    lease = desk.leases[ids[0]]
    await desk.start(ids[:1])
    assert await desk.executor.hold_many([(ids[1], lease)]) == {(ids[1], lease)}
    assert [row.id for row in await desk.queue.give_back(lease, ids)] == ids[2:]


async def test_a_message_starts_its_row_once(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    assert (attempt.number, attempt.payload, attempt.tenant_id) == (1, b"{}", TENANT)
    assert await desk.start([id_]) == []
    assert await desk.executor.alive([attempt]) == {attempt.token}


async def test_held_rows_go_back_to_their_place(desk: QueueDesk) -> None:
    lane = await desk.lane()
    ids = await desk.create(lane, 4)
    await desk.lease(lane)
    messages = [(id_, desk.leases[id_]) for id_ in ids]
    assert await desk.executor.hold_many(messages) == set(messages)
    assert len(await desk.executor.release_held(ids[:2])) == 2
    assert await desk.executor.release_held(ids[:2]) == []
    assert await desk.lease(lane) == ids[:2]
    assert await desk.history(ids[0]) == ["release"]


async def test_a_hand_back_uses_up_no_attempt_and_goes_first(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=1)
    ids = await desk.create(lane, 4)
    await desk.lease(lane)
    first, second = await desk.start(ids[:2])
    (place,) = await desk.executor.release_many([(first, GiveBack("drain", 0.0), False)])
    assert (place.klass, place.key) == (0, Key(0, ids[0]))
    await desk.executor.release_many([(second, GiveBack("busy", 30.0), True)])
    row = await desk.row(ids[0])
    assert row is not None
    assert row["attempt"] == 0
    later = await desk.row(ids[1])
    assert later is not None
    assert later["state"] == 2
    assert await desk.lease(lane, 1) == ids[:1]
    (again,) = await desk.start(ids[:1])
    assert again.number == 1
    assert sum(row["calls"] for row in await desk.sql("SELECT calls FROM stat_delta")) == 2, (
        "the uncalled one is not counted"
    )


async def test_a_retry_waits_without_a_slot_then_goes_to_the_head_or_the_tail(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=2, retry_times=3)
    ids = await desk.create(lane, 6)
    await desk.lease(lane)
    head, tail = await desk.start(ids[:2])
    ends = [(head, Retry("c", "m", 0.0, True, False)), (tail, Retry("c", "m", 0.0, False, True))]
    assert await desk.executor.retry_many(ends) == {head.id, tail.id}
    assert await desk.executor.retry_many(ends) == set(), "fenced"
    assert await desk.lease(lane) == ids[4:6], "they wait for their slot"
    await until_due(desk)
    retries = await desk.sweeps.due_retries(10)
    assert {(retry.id, retry.public_id) for retry in retries} == {(id_, await desk.public_id(id_)) for id_ in ids[:2]}
    assert {row.id for row in await desk.sweeps.requeue(retries)} == set(ids[:2])
    assert await desk.sweeps.requeue(retries) == [], "changed meanwhile"
    (waiting_head,), (waiting_tail,) = [
        await desk.sql("SELECT class, position, retries, attempt FROM dispatch WHERE id = $1", id_) for id_ in ids[:2]
    ]
    assert (waiting_head["class"], waiting_head["position"], waiting_head["retries"]) == (0, ids[0], 1)
    assert (waiting_tail["class"], waiting_tail["attempt"]) == (1, 1)
    assert waiting_tail["position"] > ids[-1]
    outcomes = await desk.sql("SELECT outcome FROM attempt ORDER BY task_id")
    assert [row["outcome"] for row in outcomes] == ["failed", "timeout"]


async def test_a_parked_upload_keeps_what_was_staged(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    assert await desk.executor.park_many([(attempt, Park("upload", "m", 5.0))]) == set(), "nothing is staged yet"
    assert await desk.executor.generated_many([(attempt, [STAGED])]) == {id_}
    assert await desk.executor.migrating_many([attempt]) == {id_}
    assert await desk.executor.park_many([(attempt, Park("upload", "m", 5.0))]) == {id_}
    assert await desk.lease(lane) == []
    assert (await desk.row(id_))["started_at"] == attempt.started_at, "it goes on with what it has begun"
    await until_due(desk)
    (ready,) = await desk.sweeps.promote_due(10)
    assert ready.place.klass == 0
    assert await desk.lease(lane) == [id_]
    (again,) = await desk.start([id_])
    assert again.number == 1
    assert again.started_at == attempt.started_at
    assert await desk.executor.finish_many(
        [(again, Finish(TaskStatus.SUCCESS, files=(ResultFile("http://s/1.png", "png", 3, "ab", "1.png"),)))]
    ) == {id_}
    (ended,) = await desk.sql("SELECT leased_at, started_at, ended_at FROM attempt")
    assert ended["leased_at"] <= ended["started_at"] == attempt.started_at < ended["ended_at"]
    assert [file.reference for file in again.staged] == [STAGED.reference]


async def test_an_upload_that_goes_on_is_no_call_and_comes_too_late_for_nothing(desk: QueueDesk) -> None:
    lane = await desk.lane()
    ids = await desk.create(lane, 2)
    await desk.lease(lane)
    (attempt,) = await desk.start(ids[:1])
    await desk.executor.generated_many([(attempt, [STAGED])])
    await desk.executor.release_many([(attempt, GiveBack("drain", 0.0), True)])
    await desk.lease(lane)
    await desk.sql("UPDATE dispatch SET expires_at = now() - interval '1 s'")
    (again,) = await desk.start(ids)  # its executor ends it; the other has not begun, and never will
    assert (again.id, again.number) == (attempt.id, 1)
    calls = await desk.sql("SELECT sum(calls) AS calls FROM stat_delta")
    assert calls[0]["calls"] == 1


@pytest.mark.parametrize("called", [True, False])
async def test_a_job_that_goes_on_elsewhere_began_when_it_did(desk: QueueDesk, called: bool) -> None:
    lane = await desk.lane(adapter="test")
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    await PostgresProviderJobs(desk.database).intend_many([(attempt, JobIntent(uuid4(), "test", True, 60))])
    await desk.executor.release_many([(attempt, GiveBack("drain", 0.0), called)])
    row = await desk.row(id_)
    assert row is not None
    assert (row["phase"], row["started_at"]) == ((1, attempt.started_at) if called else (0, None))


async def test_start_by_holds_again_for_what_was_never_called_and_no_longer_for_a_retry(desk: QueueDesk) -> None:
    lane = await desk.lane()
    later = datetime.now(UTC) + timedelta(hours=1)
    (id_,) = await desk.create(lane, start_by=later)
    await desk.lease(lane)
    (first,) = await desk.start([id_])
    await desk.executor.release_many([(first, GiveBack("drain", 0.0), False)])
    assert (await desk.row(id_))["expires_at"] == later
    await desk.lease(lane)
    (first,) = await desk.start([id_])
    await desk.executor.retry_many([(first, Retry("x", "", 0.0, True, False))])
    await desk.sweeps.requeue(await desk.sweeps.due_retries(10))
    await desk.lease(lane)
    (second,) = await desk.start([id_])
    await desk.executor.release_many([(second, GiveBack("drain", 0.0), False)])
    assert (await desk.row(id_))["expires_at"] is None, "it had begun in time"


async def test_a_task_that_ends_while_its_upload_is_parked_says_when_it_had_begun(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=3)
    ids = await desk.create(lane, 3)
    await desk.lease(lane)
    attempts = await desk.start(ids)
    await desk.executor.generated_many([(attempt, [STAGED]) for attempt in attempts])
    await desk.executor.park_many([(attempt, Park("upload", "m", 5.0)) for attempt in attempts])
    canceled, late, refused = attempts
    assert await desk.tasks.cancel_waiting(TENANT, [await desk.public_id(canceled.id)])
    version = (await desk.sql("SELECT version FROM dispatch WHERE id = $1", late.id))[0]["version"]
    assert await desk.sweeps.end_waiting([Ending(late.id, version, TaskStatus.TIMEOUT, "waited", "m", True)])
    await desk.sql("UPDATE dispatch SET error_code = 'publish_refused'")
    assert await desk.queue.bury_refused([refused.id], "too large")
    begun = {attempt.id: attempt.started_at for attempt in attempts}
    tasks = await desk.sql("SELECT id, started_at FROM task")
    assert {row["id"]: row["started_at"] for row in tasks} == begun
    events = await desk.sql("SELECT task_id, started_at FROM event")
    assert {row["task_id"]: row["started_at"] for row in events} == begun


async def test_a_lost_staged_file_costs_one_more_call_from_the_head(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    await desk.executor.generated_many([(attempt, [STAGED])])
    (place,) = await desk.executor.call_again_many([(attempt, CallAgain("gone"))])
    assert place.klass == 0
    await desk.lease(lane)
    (again,) = await desk.start([id_])
    assert (again.number, again.staged, again.retries) == (2, (), 0)
    assert [row["outcome"] for row in await desk.sql("SELECT outcome FROM attempt")] == ["staging_lost"]


async def test_the_end_is_written_once_by_the_holder_of_the_token(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    files = (ResultFile("http://s/1.png", "png", 3, "ab", "1.png"),)
    end = Finish(TaskStatus.SUCCESS, files=files)
    stranger = [(replace(attempt, token=uuid4()), end)]
    assert await desk.executor.finish_many(stranger) == set()
    assert await desk.executor.finish_many([(attempt, end)]) == {id_}
    assert await desk.executor.finish_many([(attempt, end)]) == set()
    assert await desk.row(id_) is None
    (task,) = await desk.sql("SELECT status, oss_file, file_type, attempt, version FROM task")
    assert (task["status"], task["oss_file"], task["file_type"], task["attempt"]) == (6, "http://s/1.png", "png", 1)
    (event,) = await desk.sql("SELECT task_id, status, version FROM event")
    assert (event["task_id"], event["status"], event["version"]) == (id_, 6, task["version"])


async def test_a_cancel_ends_what_nobody_started(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=1)
    ids = await desk.create(lane, 3)
    await desk.lease(lane)
    (running,) = await desk.start(ids[:1])
    public = [await desk.public_id(id_) for id_ in ids]
    gone = await desk.tasks.cancel_waiting(TENANT, public)
    assert {task.public_id for task in gone} == set(public[1:])
    assert await desk.tasks.cancel_waiting(TENANT + 1, public) == []
    assert await desk.start(ids[1:2]) == [], "its message finds nothing"
    assert await desk.tasks.request_cancel(TENANT, public) == 1
    assert await desk.executor.finish_many([(running, Finish(TaskStatus.CANCELED))]) == {ids[0]}
    assert await desk.sql("SELECT * FROM cancel_request") == []
    assert len(await desk.sql("SELECT * FROM event WHERE status = 9")) == 3


async def test_drafts_become_ready_when_their_time_has_come(desk: QueueDesk) -> None:
    lane = await desk.lane()
    ids = await desk.create(lane, 2, not_before=datetime.now(UTC) + timedelta(hours=1))
    assert await desk.lease(lane) == []
    assert await desk.sweeps.promote_due(10) == []
    await until_due(desk)
    assert len(await desk.sweeps.promote_due(1)) == 1
    assert len(await desk.sweeps.promote_due(10)) == 1
    assert await desk.lease(lane) == ids


async def test_the_lease_of_a_dead_dispatcher_is_healed(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=2)
    ids = await desk.create(lane, 4)
    await desk.lease(lane)
    lease = desk.leases[ids[0]]
    await desk.start(ids[:1])
    await desk.executor.hold_many([(ids[1], lease)])
    assert await desk.sweeps.heal_leases(60) == []
    assert sorted(row.id for row in await desk.sweeps.heal_leases(0)) == ids[2:]
    assert await desk.sweeps.heal_leases(0) == []
    assert await desk.lease(lane) == ids[2:]
    assert await desk.start(ids[2:], leases=[lease, lease]) == []
    assert await desk.history(ids[2]) == ["heal"]


async def test_what_was_published_and_never_picked_up_is_published_again(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=2)
    ids = await desk.create(lane, 3)
    await desk.lease(lane)
    assert await desk.sweeps.republish_lost(0, 10) == [], "its dispatcher may still be sending"
    await desk.queue.close_leases([desk.leases[ids[0]]])
    await desk.start(ids[:1])
    assert await desk.sweeps.republish_lost(60, 10) == []
    assert [row.id for row in await desk.sweeps.republish_lost(0, 1)] == ids[1:2]
    assert len(await desk.sweeps.republish_lost(0, 10)) == 1
    assert await desk.lease(lane) == ids[1:]


async def test_what_is_given_back_to_wait_once_more_goes_not_backwards(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)

    async def shown() -> tuple[int, int]:
        (row,) = await desk.sql("SELECT attempt, status FROM task_face WHERE id = $1", id_)
        return row["attempt"], row["status"]

    async def leased() -> int:
        assert await desk.lease(lane) == [id_]
        assert (await shown())[1] == TaskStatus.QUEUED
        return desk.leases[id_]

    assert await shown() == (0, TaskStatus.SUBMITTED)
    await desk.queue.give_back(await leased(), [id_])
    assert await shown() == (0, TaskStatus.QUEUED)
    await desk.executor.hold_many([(id_, await leased())])
    await desk.executor.release_held([id_])
    assert await shown() == (0, TaskStatus.QUEUED)
    await desk.queue.postpone_refused([(id_, await leased(), 0.0, "no")])
    assert await shown() == (0, TaskStatus.QUEUED)
    await desk.sweeps.promote_due(1)
    await leased()
    await desk.sweeps.heal_leases(0)
    assert await shown() == (0, TaskStatus.QUEUED)
    await leased()
    (attempt,) = await desk.start([id_])
    assert await shown() == (1, TaskStatus.PROCESSING)
    await desk.executor.release_many([(attempt, GiveBack("drain", 0.0), False)])
    assert await shown() == (0, TaskStatus.QUEUED), "that attempt has not been"
    await leased()
    await desk.start([id_])
    await desk.sweeps.rescue([7], 3)
    assert await shown() == (1, TaskStatus.SUBMITTED), "that attempt is over"


async def test_work_of_a_silent_executor_is_rescued(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=4)
    ids = await desk.create(lane, 4)
    await desk.lease(lane)
    running, staged, spent = await desk.start(ids[:3])
    await desk.executor.hold_many([(ids[3], desk.leases[ids[3]])])
    await desk.executor.generated_many([(staged, [STAGED])])
    await desk.sql("UPDATE dispatch SET lost = 3 WHERE id = $1", spent.id)
    assert await desk.sweeps.executors_with_work() == {7}
    rescued = {entry.moved.id: entry for entry in await desk.sweeps.rescue([7], 3)}
    assert {id_: entry.token for id_, entry in rescued.items()} == {
        running.id: running.token,
        staged.id: staged.token,
        ids[3]: None,
    }
    assert [attempt.id for attempt in await desk.sweeps.lost_for_good([7], 3)] == [spent.id]
    assert await desk.executor.finish_many([(running, Finish(TaskStatus.SUCCESS))]) == set(), "the zombie is fenced"
    await desk.lease(lane)
    again = {attempt.id: attempt for attempt in await desk.start([running.id, staged.id, ids[3]])}
    assert (again[running.id].number, again[running.id].lost, again[running.id].retries) == (2, 1, 0)
    assert (again[staged.id].number, again[staged.id].lost) == (1, 0)
    assert again[staged.id].started_at == staged.started_at
    assert again[running.id].started_at > running.started_at
    assert again[staged.id].staged
    assert (again[ids[3]].number, again[ids[3]].lost) == (1, 0)


async def test_the_work_of_executors_that_live_is_left_to_them(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=4)
    silent, lives, held = await desk.create(lane, 3)
    await desk.lease(lane)
    other = PostgresAttempts(desk.database, 8, "UTC")
    await desk.start([silent])
    await other.start_many([Claim(lives, desk.leases[lives], uuid4(), 60)])
    await other.hold_many([(held, desk.leases[held])])
    await desk.sql("UPDATE dispatch SET lost = 3")
    before = [await desk.row(id_) for id_ in (lives, held)]
    assert [attempt.id for attempt in await desk.sweeps.lost_for_good([7], 3)] == [silent]
    assert [entry.moved.id for entry in await desk.sweeps.rescue([7], 4)] == [silent]
    assert [await desk.row(id_) for id_ in (lives, held)] == before
    await desk.sql("DELETE FROM dispatch WHERE id = $1", lives)
    assert await desk.sweeps.executors_with_work() == {8}, "what it holds is work, too"


async def test_a_retry_that_another_janitor_has_brought_back_is_not_put_off(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    await desk.executor.retry_many([(attempt, Retry("x", "", 0.0, True, False))])
    retries = await desk.sweeps.due_retries(10)
    await desk.sweeps.requeue(retries)
    before = await desk.row(id_)
    await desk.sweeps.put_off([(retry, 60.0) for retry in retries])
    assert await desk.row(id_) == before


async def test_a_retry_of_a_deleted_model_is_not_brought_back(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    await desk.executor.retry_many([(attempt, Retry("x", "", 0.0, True, False))])
    await desk.sql("UPDATE lane SET closed = true")
    assert await desk.sweeps.due_retries(10) == []


async def test_a_refused_row_backs_off_twice_as_long_each_time_and_is_buried_with_its_event(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    waits = []
    for sends in range(1, 8):
        await desk.lease(lane)
        assert await desk.queue.postpone_refused([(id_, desk.leases[id_], 1.0, "too large")]) == [(id_, sends)]
        (row,) = await desk.sql("SELECT extract(epoch FROM due_at - now())::float8 AS wait FROM dispatch")
        waits.append(row["wait"])
        await until_due(desk)
        await desk.sweeps.promote_due(10)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 32], abs=0.5)
    assert await desk.queue.postpone_refused([(id_, desk.leases[id_], 1.0, "late")]) == []
    await desk.lease(lane)
    assert await desk.queue.bury_refused([id_], "too large") == [], "it is on its way once more"
    assert await desk.queue.postpone_refused([(id_, desk.leases[id_], 1.0, "too large")]) == [(id_, 8)]
    assert await desk.queue.bury_refused([id_], "too large") == [(await desk.public_id(id_), lane)]
    (task,) = await desk.sql("SELECT status, error_code FROM task")
    assert (task["status"], task["error_code"]) == (7, "undeliverable")
    assert len(await desk.sql("SELECT * FROM dead_task")) == len(await desk.sql("SELECT * FROM event")) == 1


async def test_ends_of_waiting_rows_are_fenced_by_their_version(desk: QueueDesk) -> None:
    lane = await desk.lane()
    ids = await desk.create(lane, 2)
    ending = [Ending(id_, 1, TaskStatus.TIMEOUT, "waited", "m", False) for id_ in ids]
    await desk.lease(lane, 1)
    assert len(await desk.sweeps.end_waiting(ending)) == 1
    assert await desk.row(ids[1]) is None
    assert await desk.row(ids[0]) is not None, "it was leased meanwhile"


async def test_a_smaller_window_stops_new_leases_only(desk: QueueDesk) -> None:
    lane = await desk.lane(concurrency=4)
    ids = await desk.create(lane, 12)
    await desk.lease(lane)
    changed = await desk.models.update(desk.lanes[lane], "tester", {"max_concurrency": 1})
    assert changed is not None
    turn = await desk.queue.lease_due([LaneAsk(lane, 9, 0, FIRST, FIRST)], 100, 1, [])
    assert [(room.room, turn.rows) for room in turn.rooms] == [(3 - 8, [])]
    for attempt in await desk.start(ids[:6]):
        await desk.executor.finish_many([(attempt, Finish(TaskStatus.SUCCESS))])
    assert await desk.lease(lane) == ids[8:9]


async def test_the_versions_of_a_task_only_grow(desk: QueueDesk) -> None:
    lane = await desk.lane(retry_times=1)
    (id_,) = await desk.create(lane)
    versions = []

    async def look() -> None:
        (row,) = await desk.sql("SELECT version FROM task_face WHERE id = $1", id_)
        versions.append(row["version"])

    await look()
    await desk.lease(lane)
    await look()
    await desk.queue.give_back(desk.leases[id_], [id_])
    await look()
    await desk.lease(lane)
    await look()
    (attempt,) = await desk.start([id_])
    await look()
    await desk.executor.retry_many([(attempt, Retry("c", "m", 0.0, True, False))])
    await look()
    await desk.sweeps.requeue(await desk.sweeps.due_retries(1))
    await look()
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    await desk.executor.finish_many([(attempt, Finish(TaskStatus.FAILED, "c", "m", dead=True))])
    await look()
    assert versions == sorted(set(versions))


async def test_a_dispatcher_that_was_frozen_before_it_buried_a_row_does_not_end_what_went_on(desk: QueueDesk) -> None:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    await desk.sql("UPDATE dispatch SET sends = 19")
    assert await desk.queue.postpone_refused([(id_, desk.leases[id_], 1.0, "not authorized")]) == [(id_, 20)]
    await until_due(desk)
    await desk.sweeps.promote_due(10)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    assert await desk.executor.retry_many([(attempt, Retry("model_error", "m", 60.0, True, False))]) == {id_}
    assert await desk.queue.bury_refused([id_], "not authorized") == []
    row = await desk.row(id_)
    assert row is not None
    assert (row["state"], row["error_code"]) == (3, "model_error"), "it waits for its retry"


async def test_a_window_holds_when_lease_numbers_begin_anew(desk: QueueDesk) -> None:
    """As after a restore, or a failover to a standby that lagged, beneath a dispatcher that goes on."""
    lane = await desk.lane(concurrency=2)
    book = LaneBook()
    book.learn(await desk.queue.lanes_changed(None))
    book.open([lane])

    async def turn() -> None:
        asks = book.take()
        book.settle(await desk.queue.lease_due(asks, book.limit, 1, []))

    await desk.sql("ALTER SEQUENCE lease_ids RESTART WITH 1000")
    await desk.create(lane, 1)
    await turn()
    await desk.sql("DELETE FROM dispatch")
    book.swept([lane])
    await turn()
    await desk.sql("ALTER SEQUENCE lease_ids RESTART WITH 500")
    await desk.create(lane, 40)
    for _ in range(5):
        book.swept([lane])
        await turn()
    assert len(await desk.sql("SELECT FROM dispatch WHERE state = 1")) <= 4
