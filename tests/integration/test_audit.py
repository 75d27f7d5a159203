"""The audit: nothing where nothing is wrong, and each invariant found where one store was corrupted."""

from __future__ import annotations

import asyncio
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.adapters.postgres.control import PostgresControl
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.model import Model
from libs.common.domain.settle import Finish, GiveBack
from libs.common.domain.task import Phase, TaskStatus
from libs.common.operations.audit_events import EventChecks
from libs.common.operations.audit_findings import BY_HAND, Findings
from libs.common.operations.audit_gate import GateChecks
from libs.common.ports import PermitRequest, SlotRequest
from libs.common.ports_attempts import Claim
from libs.common.ports_audit import LogRecord
from libs.common.ports_dead import Action
from libs.common.ports_provider_jobs import JobIntent
from libs.common.ports_sweeps import APART_SECONDS
from libs.common.ports_tasks import NewTask
from services.janitor.beats import BeatWatch
from services.janitor.sweeps.rescue import Rescue
from services.janitor.sweeps.statistics import Statistics
from tests.support import corruptions as broken
from tests.support.auditing import EVENTS, Audited, FakeLog, open_audited
from tests.support.corruptions import ALSO, CORRUPTIONS, REPAIRED, Corruption, Scene
from tests.support.graves import Operator, janitor_of, save_up
from tests.support.house import SLOT_MS, House

INVARIANTS = [
    "I2",
    "I3",
    "I4",
    "I5",
    "I6",
    "I7",
    "I8",
    "I10",
    "I11",
    "I13",
    "I15",
    "I16",
    "I17",
    "I18",
    "I19",
    "I20",
    "I23",
    "I24",
    "I27",
    "I28",
]


@pytest.fixture
async def stores(house: House, tmp_path: Path) -> AsyncIterator[Audited]:
    async with open_audited(house, tmp_path) as opened:
        yield opened


@pytest.fixture
async def scene(stores: Audited) -> Scene:
    house = stores.house
    model, executor = await house.model(queue_limit=50, max_concurrency=20), await house.executor()
    (early,) = await house.running(model, executor)
    await stores.succeed(early)
    # the topic reaches back long before the rest: their events are missed if they are not there
    await house.sql("UPDATE task SET finished_at = finished_at - interval '1 h' WHERE id = $1", early.id)
    await house.sql("UPDATE event SET finished_at = finished_at - interval '1 h'")
    await house.sql("UPDATE attempt SET entered_at = NULL, leased_at = NULL, started_at = NULL")
    await house.sql("UPDATE attempt SET ended_at = ended_at - interval '1 h'")
    succeeded, dead, running = await house.running(model, executor, 3)
    await house.stage_several(succeeded, b"result", b"and more")
    result, second = await stores.succeed_with(succeeded, b"result", b"and more")
    await house.bury(dead)
    await stores.announce()
    (waiting,) = await house.tasks(model)
    return Scene(stores, model, succeeded, result, second, dead, running, waiting, executor)


async def test_a_house_in_order_is_clean_whatever_happened_in_it(stores: Audited) -> None:
    house = stores.house
    model, executor = await house.model(max_concurrency=50, retry_times=3), await house.executor()
    attempts = await house.running(model, executor, 8)
    await stores.succeed(attempts[0])
    await house.bury(attempts[1])
    await house.fail(attempts[2], delay=60)
    # one is replayed and succeeds, one is dropped
    await house.bury(attempts[4], "http_500")
    await house.bury(attempts[5], "http_404")
    await stores.announce()
    operator = Operator(house.database)
    await operator.order(ids=[str(attempts[4].public_id)])
    await operator.order(ids=[str(attempts[5].public_id)], action=Action.DROP)
    await save_up(house.database)
    assert await janitor_of(house.database, house.gate, house.wake).round() == 2
    (second,) = await house.start(model, executor, await house.lease(model))
    await stores.succeed(second)
    parked = await house.park(attempts[3])
    name = parked.reference.partition(":")[2]
    (stores.staging.root / name).write_bytes(b"out")
    os.utime(stores.staging.root / name, (0, 0))
    canceled, *held = await house.tasks(model, 3)
    rows = await house.lease(model)
    stores.publish(model, rows)
    await house.hold(executor, [row for row in rows if row.id == held[0]])
    (member,) = await house.sql("SELECT public_id FROM task WHERE id = $1", canceled)
    await PostgresTasks(house.database).cancel_waiting(model.tenant_id, [member["public_id"]])
    await house.gate.release_many([(model.lane, str(member["public_id"]))])
    await house.make_overdue([attempts[2].id])
    # one is lost with its executor, and succeeds in another attempt
    gone = await house.executor()
    (lost,) = await house.running(model, gone)
    await house.sql("UPDATE executor SET stopped_at = now() WHERE id = $1", gone)
    await Rescue(house.sweeps, house.returns, house.wake, BeatWatch(), house.clock).look()
    (again,) = await house.start(model, executor, await house.lease(model))
    assert again.id == lost.id
    await stores.succeed(again)
    await Statistics(house.sweeps).sweep()
    await stores.announce()
    # and one is cleaned, its event stays
    (cleaned,) = await house.running(model, executor)
    await stores.succeed(cleaned)
    await stores.announce()
    assert await house.clean(cleaned.id) == [cleaned.id]

    report = await stores.run()
    assert report.violations == []
    assert report.unchecked == {}
    assert sorted(report.checked, key=lambda name: int(name[1:])) == INVARIANTS
    assert all(report.checked[name] for name in INVARIANTS if name not in ("I20",))
    assert report.clean


async def test_the_scene_itself_is_clean(scene: Scene) -> None:
    assert (await scene.stores.run()).clean


async def test_an_empty_house_is_clean(stores: Audited) -> None:
    report = await stores.run()
    assert report.as_dict()["violations"] == []
    assert set(report.checked) == set(INVARIANTS)


@pytest.mark.parametrize(
    ("invariant", "corrupt"), [pytest.param(*case, id=f"{case[0]}-{case[1].__name__}") for case in CORRUPTIONS]
)
async def test_it_finds_exactly_what_was_corrupted(scene: Scene, invariant: str, corrupt: Corruption) -> None:
    await corrupt(scene)
    report = await scene.stores.run()
    assert {violation.invariant for violation in report.violations} == {invariant} | ALSO.get(corrupt, set())
    assert report.unchecked == {}
    fixable = {violation.key for violation in report.violations if violation.fix is not None}
    assert bool(fixable) == (corrupt in REPAIRED)
    after = await scene.stores.run(fix=True)
    assert {violation.key for violation in after.repaired} == fixable, "what is called fixable is repaired"
    assert after.clean == bool(fixable)


def test_every_invariant_has_a_corruption() -> None:
    assert {invariant for invariant, _ in CORRUPTIONS} == set(INVARIANTS)


async def test_a_broker_that_lost_its_memory_is_no_violation(scene: Scene) -> None:
    scene.stores.log.records.clear()
    assert await scene.stores.found() == set()
    (later,) = await scene.house.running(scene.model, scene.executor)
    await scene.stores.succeed(later)
    await scene.stores.announce()
    assert await scene.stores.found() == set()


async def test_a_record_that_is_dated_beyond_every_calendar_ends_no_audit(scene: Scene) -> None:
    log = scene.stores.log.records[EVENTS]
    log[0] = replace(log[0], timestamp_ms=10**17)
    assert (await scene.stores.run()).clean


async def test_events_of_very_many_cleaned_tasks_need_no_memory(scene: Scene) -> None:
    many = 20_000
    await scene.sql("INSERT INTO cleaned VALUES ($1, 'c', $2, 0)", scene.model.tenant_id, many)
    log, found = OfCleaned(scene.stores.log.records[EVENTS][-1], many), Findings()
    tracemalloc.start()
    try:
        await EventChecks(scene.stores.tasks, log, EVENTS).run(found)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.violations, found.checked["I6"]) == ([], many)
    assert most < 5_000_000
    log.many += 1
    await EventChecks(scene.stores.tasks, log, EVENTS).run(found)
    found.summarise()
    assert found.violations[-1].detail == f"and at least {many + 1 - 1_000} more", (
        "one of them was never there, nobody knows which"
    )


class OfCleaned(FakeLog):
    """A topic of events of tasks that are no longer stored."""

    def __init__(self, like: LogRecord, many: int) -> None:
        super().__init__()
        self.like, self.many = like, many

    async def read(self, topics: Sequence[str]) -> AsyncIterator[list[LogRecord]]:
        said, headers = orjson.loads(self.like.value or b""), dict(self.like.headers)
        version = headers["ce_sequence"].decode()
        for number in range(self.many):
            task = str(UUID(int=number))
            headers["ce_id"] = f"{task}:{version}".encode()
            value = orjson.dumps(said | {"taskId": task})
            yield [replace(self.like, offset=number, key=task.encode(), value=value, headers=tuple(headers.items()))]


async def test_the_same_event_twice_is_no_violation_and_a_recorded_replay_explains_a_second_end(scene: Scene) -> None:
    for record in list(scene.stores.log.records[EVENTS]):
        scene.stores.log.again(record)
    await broken.an_end_changed_without_a_replay(scene)
    await scene.sql(
        "INSERT INTO history (task_id, kind, attempt, version) SELECT id, 'replay', 1, version FROM task WHERE id = $1",
        scene.dead.id,
    )
    assert await scene.stores.found() == set()


async def test_an_event_that_still_waits_is_not_missed(scene: Scene) -> None:
    (later,) = await scene.house.running(scene.model, scene.executor)
    await scene.stores.succeed(later)
    assert await scene.stores.found() == set()


async def test_fix_repairs_what_is_safe_to_repair(scene: Scene) -> None:
    for corrupt in (
        broken.an_open_task_lost_its_row,
        broken.a_final_task_has_a_row,
        broken.a_slot_has_no_owner,
        broken.an_open_task_lost_its_slot,
        broken.a_permit_has_no_owner,
        broken.a_call_lost_its_permit,
        broken.half_a_staged_file_was_left_behind,
        broken.a_lane_is_held_and_no_pause_says_so,
        broken.a_result_is_gone,
    ):
        await corrupt(scene)
    report = await scene.stores.run(fix=True)
    assert [violation.invariant for violation in report.violations] == ["I19"]
    assert len(report.repaired) == 8
    assert not report.clean
    assert (await scene.house.state(scene.waiting))["state"] == 0
    assert await scene.house.value("SELECT count(*) FROM history WHERE kind = 'heal'") == 1
    assert await scene.house.lease(scene.model) == [], "what was held stays held, and says so"
    assert await PostgresControl(scene.house.database).resume("model", scene.model.lane, "ann", "")
    assert await scene.house.start(scene.model, scene.executor, await scene.house.lease(scene.model))
    scene.result.write_bytes(b"result")
    assert (await scene.stores.run()).clean


@pytest.mark.parametrize("kind", ["slot", "permit"])
async def test_fix_takes_no_place_from_a_create_or_a_start_that_is_under_way(scene: Scene, kind: str) -> None:
    house, loop = scene.house, asyncio.get_running_loop()
    looks: list[float] = []
    (row,) = await house.lease(scene.model)
    task, claim = (
        NewTask(uuid4(), scene.model.tenant_id, scene.model.lane, b"{}"),
        Claim(row.id, row.lease, uuid4(), 60),
    )

    async def commit() -> None:
        if kind == "slot":
            await PostgresTasks(house.database).create_many([task])
        else:
            await PostgresAttempts(house.database, scene.executor, "UTC").start_many([claim])

    if kind == "slot":
        await house.gate.take_many([SlotRequest(scene.model.lane, str(task.public_id), 50, SLOT_MS)])
    else:
        await house.permits.acquire_many([PermitRequest(scene.model.lane, str(claim.token), 50, SLOT_MS)])
    found = Findings()
    await GateChecks(scene.stores.tasks, house.gate, house.permits).run(found)
    assert [violation.apart_seconds for violation in found.violations] == [APART_SECONDS]
    absent = getattr(scene.stores.tasks, f"absent_{kind}s")

    async def stalled(lane: int, owners: list[UUID]) -> list[UUID]:
        looks.append(loop.time())
        if len(looks) == 3:
            await commit()  # PostgreSQL wrote no log for a while
        return list(await absent(lane, owners))

    setattr(scene.stores.tasks, f"absent_{kind}s", stalled)
    scene.stores.apart_seconds = 0.7
    report = await scene.stores.run(fix=True)
    assert looks[2] - looks[0] >= 0.7
    assert (report.repaired, report.violations) == ([], [])


async def test_a_draft_that_lost_its_row_waits_for_its_time_again(stores: Audited) -> None:
    house = stores.house
    model, due = await house.model(), datetime.now(UTC) + timedelta(days=1)
    (draft,) = await house.tasks(model, not_before=due)
    await house.sql("DELETE FROM dispatch")
    assert len((await stores.run(fix=True)).repaired) == 1
    row = await house.state(draft)
    assert (row["state"], row["due_at"], row["attempt"]) == (2, due, 0)
    assert (await house.row(draft))["status"] == TaskStatus.DRAFT
    assert await house.lease(model) == []
    assert (await stores.run()).clean


async def test_an_open_job_is_gone_on_with_and_not_submitted_again_when_its_row_was_lost(stores: Audited) -> None:
    house = stores.house
    model, executor = await house.model(adapter="test", retry_times=3), await house.executor()
    (attempt,) = await house.running(model, executor)
    await house.fail(attempt)
    await house.make_overdue([attempt.id])
    await house.gate.restore(model.lane, [(str(attempt.public_id), SLOT_MS)])
    await house.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    (second,) = await house.start(model, executor, await house.lease(model))
    jobs, key = PostgresProviderJobs(house.database), uuid4()
    await jobs.intend_many([(second, JobIntent(key, "test", True, 600))])
    await house.sql("DELETE FROM dispatch")
    (lost,) = (await stores.run(fix=True)).repaired
    assert lost.invariant == "I3"
    row = await house.state(second.id)
    assert (row["state"], row["phase"], row["class"], row["job"]) == (0, 1, 0, 2)
    assert (row["attempt"], row["retries"]) == (2, 1)
    assert (await stores.run()).clean
    (claim,) = [Claim(row.id, row.lease, uuid4(), 60) for row in await house.lease(model)]
    (taken,) = await PostgresAttempts(house.database, executor, "UTC").start_many([claim])
    assert (taken.number, taken.phase) == (2, Phase.SUBMITTED)
    assert (await jobs.resume_many([taken]))[taken.id].key == key


async def test_a_call_that_a_busy_model_answered_is_not_forgotten_when_its_row_was_lost(stores: Audited) -> None:
    house = stores.house
    model, executor = await house.model(), await house.executor()
    (attempt,) = await house.running(model, executor)
    await PostgresAttempts(house.database, executor, "UTC").release_many([(attempt, GiveBack("busy", 0.0), True)])
    await house.permits.release_many([(model.lane, str(attempt.token))])
    await _is_whole_again(stores, model, executor, attempt.id, 2)


async def test_calls_of_an_old_gateway_are_not_forgotten_when_its_tasks_row_was_lost(stores: Audited) -> None:
    house = stores.house
    model, executor = await house.model(), await house.executor()
    (task,) = await house.tasks(model)
    await house.sql("INSERT INTO history (task_id, kind, attempt, version) VALUES ($1, 'import', 2, 1)", task)
    await house.sql("UPDATE dispatch SET attempt = 2 WHERE id = $1", task)
    await house.sql("INSERT INTO cleaned (tenant_id, creator, tasks, calls) SELECT tenant_id, creator, 0, -2 FROM task")
    await _is_whole_again(stores, model, executor, task, 3)


async def test_a_replayed_upload_whose_row_was_lost_is_a_call_after_all(stores: Audited) -> None:
    house = stores.house
    model, executor = await house.model(), await house.executor()
    (attempt,) = await house.running(model, executor)
    await house.stage(attempt)
    await PostgresAttempts(house.database, executor, "UTC").finish_many(
        [(attempt, Finish(TaskStatus.FAILED, "upload_failed", "no", dead=True))]
    )
    await house._give_back(attempt)
    await stores.announce()
    await Operator(house.database).order(ids=[str(attempt.public_id)])
    await save_up(house.database)
    assert await janitor_of(house.database, house.gate, house.wake).round() == 1
    assert (await house.state(attempt.id))["phase"] == Phase.GENERATED
    await _is_whole_again(stores, model, executor, attempt.id, 2)


async def _is_whole_again(stores: Audited, model: Model, executor: int, task: int, attempt: int) -> None:
    """Its row is lost and put back, and nothing is wrong when its next attempt, of this number, has succeeded."""
    house = stores.house
    assert (await stores.run()).clean
    await house.sql("DELETE FROM dispatch")
    assert [violation.invariant for violation in (await stores.run(fix=True)).repaired] == ["I3"]
    (second,) = await house.start(model, executor, await house.lease(model))
    assert (second.id, second.number) == (task, attempt)
    await stores.succeed(second)
    await stores.announce()
    report = await stores.run()
    assert report.clean, report.violations


async def test_the_job_of_a_row_that_is_dropped_ends_at_its_provider(stores: Audited) -> None:
    house = stores.house
    model = await house.model(adapter="test")
    (attempt,) = await house.running(model, await house.executor())
    await PostgresProviderJobs(house.database).intend_many([(attempt, JobIntent(uuid4(), "test", True, 600))])
    await house.sql("DELETE FROM task")
    await house.sql(
        "UPDATE dispatch SET state = 0, lease = NULL, token = NULL, executor = NULL, started_at = NULL, until = NULL"
    )
    await house.sql("DELETE FROM stat_delta")
    await house.permits.release_many([(model.lane, str(attempt.token))])
    report = await stores.run(fix=True)
    assert [violation.invariant for violation in report.repaired] == ["I3", "I13"]
    assert report.clean, report.violations
    assert await house.taken(model) == (0, 0)
    assert await house.value("SELECT ended_at IS NOT NULL AND cancel_at <= now() FROM provider_job")


async def test_a_canceled_task_keeps_a_whole_story_when_its_row_is_dropped(stores: Audited) -> None:
    house = stores.house
    model = await house.model()
    (task,) = await house.tasks(model)
    (member,) = await house.public([task])
    await PostgresTasks(house.database).cancel_waiting(model.tenant_id, [UUID(member)])
    await stores.announce()
    await house.sql(
        "INSERT INTO dispatch (id, public_id, lane, state, position) SELECT id, public_id, lane, 0, id FROM task"
    )
    report = await stores.run(fix=True)
    assert report.clean, report.violations
    assert [step["kind"] for step in await house.sql("SELECT kind FROM history ORDER BY id")] == ["cancel", "drop"]
    assert await house.taken(model) == (0, 0)


async def test_an_attempt_that_runs_keeps_its_row_though_its_task_is_over(scene: Scene) -> None:
    await scene.sql("UPDATE task SET status = 9, finished_at = now() WHERE id = $1", scene.running.id)
    (running,) = [one for one in (await scene.stores.run(fix=True)).violations if one.invariant == "I3"]
    assert (running.fix, running.repair) == (None, BY_HAND["I3"])
    assert await scene.house.state(scene.running.id)


async def test_a_staged_file_that_cannot_be_deleted_ends_no_repair(scene: Scene) -> None:
    await broken.a_staged_file_was_left_behind(scene)
    (path,) = scene.stores.staging.root.iterdir()
    path.unlink()
    path.mkdir()  # not to be unlinked, whoever runs the audit
    os.utime(path, (0, 0))
    await broken.a_call_lost_its_permit(scene)
    report = await scene.stores.run(fix=True)
    assert [violation.invariant for violation in report.violations] == ["I20"]
    assert [violation.invariant for violation in report.repaired] == ["I13"]


async def test_results_of_others_and_cleaned_tasks_are_not_looked_for(scene: Scene) -> None:
    elsewhere = "https://files.example/x"
    await scene.sql(
        "UPDATE task SET oss_file = $1, files = jsonb_set(files, '{0,url}', to_jsonb($1::text)) WHERE id = $2",
        elsewhere, scene.succeeded.id,
    )  # fmt: skip
    scene.result.unlink()
    scene.stores.log.records.clear()
    assert await scene.stores.found() == set()


async def test_a_file_service_may_keep_another_size_than_it_was_given(scene: Scene) -> None:
    """One that packs or converts what it gets: each of its results was told as one that nobody may use."""
    await scene.sql(
        "UPDATE task SET oss_file = 'http://files.example/x', file_size = 3,"
        """ files = '[{"url": "http://files.example/x", "name": "x", "size": 3, "type": "zip"}]' WHERE id = $1""",
        scene.succeeded.id,
    )
    scene.stores.log.records.clear()
    assert await scene.stores.found() == set()


async def test_young_staged_files_and_those_of_open_and_dead_tasks_are_in_order(scene: Scene) -> None:
    await scene.stores.stage(uuid4(), age=60)
    await scene.stores.stage(scene.running.public_id, age=9_999)
    reference = await scene.stores.stage(scene.dead.public_id, age=9_999)
    await scene.sql("UPDATE dead_task SET staged = $1", reference)
    assert await scene.stores.found() == set()


async def test_it_waits_until_it_is_clean(scene: Scene) -> None:
    await broken.a_slot_has_no_owner(scene)
    began = time.monotonic()

    async def heal() -> None:
        await asyncio.sleep(0.3)
        members = await scene.house.members(scene.model)
        own = set(await scene.house.public([scene.running.id, scene.waiting]))
        await scene.house.gate.release_many([(scene.model.lane, member) for member in members - own])

    healing = asyncio.create_task(heal())
    report = await scene.stores.audit.run(wait_seconds=20)
    await healing
    assert report.clean
    assert time.monotonic() - began < 15


async def test_of_very_many_two_looks_tell_of_the_same_and_each_run_repairs_as_many(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await house.model(queue_limit=2_000)
    await house.tasks(model, 1_300)
    await house.sql("DELETE FROM dispatch")
    async with open_audited(house, tmp_path, slice_tasks=20_000) as stores:
        look = stores.tasks.shortest_life_seconds

        async def while_rows_move() -> int:
            # near the end of each look: the next one finds the rows lying in another order
            await house.sql("UPDATE task SET biz_name = 'moved' WHERE id % 2 = 0 AND biz_name = ''")
            return await look()

        monkeypatch.setattr(stores.tasks, "shortest_life_seconds", while_rows_move)
        report = await stores.audit.run()
        told = [violation for violation in report.violations if violation.invariant == "I3"]
        assert len(told) == 1_001
        assert (told[-1].detail, "run this again" in told[-1].repair) == ("and at least 1 more", True)
        for left in (300, 0):
            await stores.audit.run(fix=True)
            (rows,) = await house.sql("SELECT count(*) AS n FROM dispatch")
            assert rows["n"] == 1_300 - left
