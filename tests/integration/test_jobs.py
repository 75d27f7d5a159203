"""A provider's job from the intent to the result, on real stores and against a provider over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from libs.common.adapters.postgres.control import PostgresControl
from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.adapters.postgres.task_states import PostgresTaskStates
from libs.common.domain.errors import Unavailable
from libs.common.domain.model import Model
from libs.common.domain.model_errors import OutOfFiles, UploadFailed
from libs.common.domain.task import Phase, TaskStatus
from libs.common.operations.control import Controls
from libs.common.operations.model_cache import ModelCache
from libs.common.operations.wake import Wake
from libs.common.ports_attempts import Attempt
from libs.common.ports_dead import Action, DeadFilter
from libs.common.ports_provider_jobs import JobIntent, JobNews
from libs.common.ports_secrets import KeyMissing
from libs.common.ports_sweeps import Ending
from libs.common.runtime import failpoints
from services.executor.runs import Runs, Stop
from tests.support.executor_rig import Rig, Through, answer_lost, until
from tests.support.graves import Operator, janitor_of, save_up
from tests.support.job_rig import Jobs, die, open_jobs


@pytest.fixture
async def jobs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jobs]:
    async with open_jobs(rig, monkeypatch) as opened:
        yield opened


async def test_a_job_is_submitted_followed_and_collected_once(jobs: Jobs) -> None:
    jobs.hurry = 1.0
    model = await jobs.model(max_concurrency=1)
    running = await jobs.rig.executor(slots=1)
    ids = await jobs.begin(model, output="a picture")
    await jobs.waits(running)
    assert running.executor.load()[0] == 0  # its slot is others' meanwhile
    assert await jobs.rig.taken(model) == (1, 1)
    await jobs.rig.ended(ids)
    assert set(running.results.stored.values()) == {b"a picture"}
    await jobs.rig.nothing_taken(model)
    await jobs.clean()
    job = await jobs.job()
    assert (job["status"], job["provider_id"], job["cancel_at"]) == ("succeeded", "p1", None)
    assert jobs.provider.submits == [str(job["intent_key"])]
    face = (await jobs.rig.sql("SELECT provider_job_id FROM task_face"))[0]
    assert face["provider_job_id"] == "p1"
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 1


async def test_a_job_whose_id_cannot_be_written_keeps_no_slot_from_others(jobs: Jobs) -> None:
    model = await jobs.model()
    await jobs.rig.executor(slots=1)
    jobs.provider.held = asyncio.Event()
    (stuck,) = await jobs.begin(model)
    await until(lambda: jobs.provider.submits, "the submit")
    somebody = await asyncpg.connect(jobs.rig.database_url)
    try:
        await somebody.execute(f"BEGIN; UPDATE dispatch SET version = version WHERE id = {stuck}")
        jobs.provider.held.set()
        await jobs.rig.ended(await jobs.begin(model, 2))
        assert (await jobs.rig.statuses([stuck]))[stuck] < 6
    finally:
        await somebody.close()
    await jobs.rig.ended([stuck])
    await jobs.clean()


async def test_what_the_provider_says_is_shown_when_it_changes_and_never_backwards(jobs: Jobs) -> None:
    jobs.hurry = 1.0
    steps = [
        "queued",
        "queued",
        {"status": "processing", "progress": 40, "message": "half\x00way"},
        {"status": "queued", "progress": 10, "message": "half\x00way"},
        {"status": "processing", "progress": 150},
        "succeeded",
    ]
    model = await jobs.model()
    seen: list[tuple[Any, ...]] = []

    async def watch() -> bool:
        rows = await jobs.rig.sql("SELECT status, unit_progress, job_message, version FROM task_face")
        row = rows[0] if rows else None
        if row and (not seen or seen[-1] != tuple(row)):
            seen.append(tuple(row))
        return bool(row) and row["status"] == TaskStatus.SUCCESS

    await jobs.rig.executor()
    await jobs.begin(model, steps=steps)
    await until(watch, "it ends", 20)
    shown = [(status, progress) for status, progress, _, _ in seen]
    order = [TaskStatus(status) for status, _ in shown]
    assert order == sorted(order)
    assert TaskStatus.QUEUED in order
    assert [progress for status, progress in shown if status == TaskStatus.PROCESSING] == [40.0, 100.0]
    assert "halfway" in {message for _, _, message, _ in seen}
    assert len(await jobs.rig.sql("SELECT 1 FROM history")) == 0


async def test_what_is_pushed_of_a_job_has_the_time_of_its_news(jobs: Jobs) -> None:
    model = await jobs.model()
    states = PostgresTaskStates(jobs.rig.database)
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["queued", {"status": "processing", "progress": 40}, *["processing"] * 999])
    await jobs.waits(running)

    async def works() -> bool:
        (state,) = await states.by_ids([(model.tenant_id, ids[0])])
        return state.status == TaskStatus.PROCESSING

    await until(works, "the provider works")
    (state,) = await states.by_ids([(model.tenant_id, ids[0])])
    (times,) = await jobs.rig.sql(
        "SELECT p.told_at, p.submitted_at, d.started_at FROM provider_job p JOIN dispatch d ON d.id = p.task_id"
    )
    assert state.at == times["told_at"] > times["submitted_at"] > times["started_at"]


@pytest.mark.parametrize(
    ("config", "code"),
    [({"finds": True}, None), ({"dedupes": True}, None), ({}, "submit_unknown")],
    ids=["found", "deduped", "unknown"],
)
async def test_a_lost_submit_answer_never_buys_a_second_job(
    jobs: Jobs, config: dict[str, Any], code: str | None
) -> None:
    jobs.provider.dedupes = bool(config.get("dedupes"))
    jobs.provider.submit_faults.append("lost")
    model = await jobs.model(config, retry_times=3)
    await jobs.rig.executor()
    ids = await jobs.begin(model)
    await jobs.rig.ended(ids, TaskStatus.FAILED if code else TaskStatus.SUCCESS)
    await jobs.rig.nothing_taken(model)
    await jobs.clean()
    assert len(jobs.provider.jobs) == 1
    if code:
        assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == [code]
        assert len(jobs.provider.submits) == 1


@pytest.mark.parametrize(
    "refusals",
    [[(503, {})], [(400, {})], [(429, {"Retry-After": "1"})]],
    ids=["unavailable", "refused", "full"],
)
@pytest.mark.parametrize("who", ["the same executor", "another one"])
async def test_a_refusal_of_the_same_submit_again_is_no_refusal_of_the_first(
    jobs: Jobs, refusals: list[Any], who: str
) -> None:
    jobs.provider.dedupes = True
    model = await jobs.model({"dedupes": True}, retry_times=3)
    first = await jobs.rig.executor()
    if who == "another one":
        jobs.provider.held = asyncio.Event()
        ids = await jobs.begin(model)
        await until(lambda: jobs.provider.submits, "it is submitted")
        await die(first)
        jobs.provider.held = None
        jobs.provider.submit_faults.extend(refusals)
        await jobs.rig.executor()
        await jobs.rescued(first, model)
    else:
        jobs.provider.submit_faults.extend(["lost", *refusals])
        ids = await jobs.begin(model)
    await jobs.rig.ended(ids)
    assert len(jobs.provider.jobs) == 1
    await jobs.rig.nothing_taken(model)
    await jobs.clean()
    assert [row["attempt"] for row in await jobs.rig.sql("SELECT attempt FROM task")] == [1]
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 1


@pytest.mark.parametrize("away", ["refuses", "is not reached"])
async def test_a_provider_that_never_says_what_it_made_of_a_submit_leaves_it_to_operators(
    jobs: Jobs, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.jobs.submission._TRIES", 2)
    jobs.provider.dedupes = True
    jobs.provider.submit_faults.append("lost")
    model = await jobs.model({"dedupes": True}, retry_times=3)
    running = await jobs.rig.executor()
    ids = await jobs.begin(model)
    await jobs.waits(running)
    if away == "refuses":
        jobs.provider.submit_faults.extend([(503, {})] * 2)
    else:
        changed = await PostgresModels(jobs.rig.database).update(model, "", {"base_url": "http://127.0.0.1:9"})
        assert changed is not None
        running.executor._models.put(changed)
    await jobs.rig.ended(ids, TaskStatus.FAILED)
    (dead,) = await jobs.rig.sql("SELECT error_code FROM dead_task")
    assert dead["error_code"] == "submit_unknown"
    assert (await jobs.job())["status"] == "intended"  # so it leaves a mark, and no new attempt begins
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 1
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_operators_have_a_job_that_nobody_knows_of_made_again_or_drop_it(jobs: Jobs) -> None:
    jobs.provider.submit_faults.extend(["lost", "lost"])
    model = await jobs.model(retry_times=3)
    await jobs.rig.executor()
    ids = await jobs.begin(model, 2)
    await jobs.rig.ended(ids, TaskStatus.FAILED)
    operator = Operator(jobs.rig.database)
    entries, _ = await operator.dead.page(None, DeadFilter(code="submit_unknown"), None, 10)
    again, never = (entry.id for entry in entries)
    await operator.order(ids=[again])
    await operator.order(ids=[never], action=Action.DROP)
    await save_up(jobs.rig.database)
    await janitor_of(jobs.rig.database, jobs.rig.gate, Wake(jobs.rig.hints)).round()
    await jobs.rig.dispatch(model)
    (first,) = await jobs.rig.sql("SELECT id FROM task WHERE public_id = $1", UUID(again))
    await jobs.rig.ended([first["id"]])
    assert len(set(jobs.provider.submits)) == len(jobs.provider.submits) == 3  # an intent of its own
    assert await operator.dead.page(None, DeadFilter(), None, 10) == ([], None)
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_a_submit_that_nobody_heard_is_made_when_nothing_is_found(jobs: Jobs) -> None:
    jobs.provider.submit_faults.append("cut")
    model = await jobs.model({"finds": True})
    await jobs.rig.executor()
    await jobs.rig.ended(await jobs.begin(model))
    assert len(jobs.provider.submits) == 1


async def test_a_refused_submit_is_a_failure_and_a_new_attempt_a_new_job(jobs: Jobs) -> None:
    jobs.provider.submit_faults.append((503, {}))
    model = await jobs.model(retry_times=1)
    await jobs.rig.executor()
    ids = await jobs.begin(model)
    await jobs.rig.ended(ids, TaskStatus.FAILED)
    first = await jobs.job()
    assert (first["status"], first["cancel_at"]) == ("failed", None)
    await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    assert (await jobs.job())["intent_key"] != first["intent_key"]
    await jobs.clean()


async def test_a_full_provider_burns_nothing(jobs: Jobs) -> None:
    jobs.provider.submit_faults.append((429, {"Retry-After": "30"}))
    model = await jobs.model()
    await jobs.rig.executor()
    ids = await jobs.begin(model)

    async def later() -> bool:
        rows = await jobs.rig.sql(
            "SELECT state, phase, attempt, extract(epoch FROM due_at - now()) AS due FROM dispatch"
        )
        return [(row["state"], row["phase"], row["attempt"]) for row in rows] == [(2, 0, 0)] and 25 < rows[0][
            "due"
        ] < 40

    await until(later, "it is tried later")
    assert await jobs.job() is None
    await until(lambda: _only_slot(jobs, model), "the permit goes back, the slot stays")
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 0
    await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    assert [row["attempt"] for row in await jobs.rig.sql("SELECT attempt FROM task")] == [1]


async def test_a_task_whose_model_gets_another_adapter_as_it_begins_is_begun_by_that_one(jobs: Jobs) -> None:
    """The executor has not heard of the change when it writes down what it is about to do."""
    jobs.rig.jobs["other"] = jobs.rig.jobs["test"]
    model = await jobs.model()

    class Late(PostgresProviderJobs):
        async def intend_many(self, rows: Sequence[tuple[Attempt, JobIntent]]) -> dict[int, float | None]:
            if rows[0][1].adapter == "test":
                await PostgresModels(jobs.rig.database).update(model, "", {"adapter": "other"})
            return await super().intend_many(rows)

    known = ModelCache(PostgresModels(jobs.rig.database))
    await jobs.rig.executor(provider_jobs=Late(jobs.rig.database), models=known)
    ids = await jobs.begin(model)

    async def later() -> bool:
        (row,) = await jobs.rig.sql("SELECT state, phase, attempt FROM dispatch")
        return (row["state"], row["phase"], row["attempt"]) == (2, 0, 0)

    await until(later, "it is begun again")
    assert await jobs.job() is None
    assert jobs.provider.submits == []
    await until(lambda: _only_slot(jobs, model), "the permit goes back, the slot stays")

    async def heard_of() -> bool:
        found = await known.by_id(model.id)
        return found is not None and found.adapter == "other"

    await until(heard_of, "its executor hears of the change")
    await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    assert (await jobs.job())["adapter"] == "other"
    assert [row["attempt"] for row in await jobs.rig.sql("SELECT attempt FROM task")] == [1]


async def _only_slot(jobs: Jobs, model: Model) -> bool:
    return await jobs.rig.taken(model) == (1, 0)


async def test_a_provider_that_is_not_there_gets_no_job_and_counts_no_call(jobs: Jobs) -> None:
    model = await jobs.rig.make_model(base_url="http://127.0.0.1:9", adapter="test", poll_seconds=1)
    await jobs.rig.executor()
    ids = await jobs.begin(model)
    await jobs.rig.ended(ids, TaskStatus.FAILED)
    assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == [
        "model_unreachable"
    ]
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 0
    await jobs.clean()


async def test_a_cancel_before_anything_was_sent_counts_no_call(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.jobs.submission._UNSENT_PAUSES", (60.0,))
    model = await jobs.rig.make_model(base_url="http://127.0.0.1:9", adapter="test", poll_seconds=1)
    running = await jobs.rig.executor()
    ids = await jobs.begin(model)
    await until(jobs.job, "its submit is intended")
    (run,) = running.executor.runs._by_token.values()
    await until(lambda: run.phase is Phase.SUBMITTED and not run.called, "nobody was there, and is tried again")
    running.executor.cancel(ids)
    await jobs.rig.ended(ids, TaskStatus.CANCELED)
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 0
    assert [row["called"] for row in await jobs.rig.sql("SELECT called FROM attempt")] == [False]
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


@pytest.mark.parametrize(("failures", "status"), [(5, TaskStatus.SUCCESS), (6, TaskStatus.FAILED)])
async def test_polls_may_fail_five_times_in_a_row(jobs: Jobs, failures: int, status: TaskStatus) -> None:
    jobs.provider.look_faults.extend([(500, {})] * failures)
    model = await jobs.model(retry_times=2)
    await jobs.rig.executor()
    ids = await jobs.begin(model)
    await jobs.rig.ended(ids, status, 20)
    await jobs.rig.nothing_taken(model)
    await jobs.clean()
    if status is TaskStatus.FAILED:
        assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == ["poll_failed"]
        await until(lambda: jobs.provider.canceled == ["p1"], "the provider is told")


def without_files(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
    """For so many times the adapter finds that its process may open no more files."""
    adapter = jobs.rig.jobs["test"]
    real, left = getattr(adapter, name), iter(range(times))

    async def asked(*arguments: Any) -> Any:
        if next(left, None) is not None:
            raise OutOfFiles
        return await real(*arguments)

    monkeypatch.setattr(adapter, name, asked)


async def test_looks_without_a_file_for_them_are_no_failures_of_the_provider(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_files(jobs, monkeypatch, "get", 12)
    model = await jobs.model()
    await jobs.rig.executor()
    ids = await jobs.begin(model)
    await jobs.rig.ended(ids, TaskStatus.SUCCESS, 20)
    assert len(jobs.provider.submits) == 1
    await jobs.clean()


async def test_a_submit_without_a_file_for_it_burns_nothing(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    without_files(jobs, monkeypatch, "submit", 1)
    model = await jobs.model(retry_times=0)
    running = await jobs.rig.executor()
    ids = await jobs.begin(model)

    async def put_off() -> bool:
        rows = await jobs.rig.sql("SELECT state, phase, attempt FROM dispatch")
        return [tuple(row) for row in rows] == [(2, 0, 0)]

    await until(put_off, "it is put off")
    assert await jobs.job() is None
    await until(lambda: running.executor.posture() == "out_of_files", "it takes nothing for a while")
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 0
    await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids, TaskStatus.SUCCESS, 20)
    assert len(jobs.provider.submits) == 1
    await jobs.clean()


async def test_looks_come_as_often_as_the_model_says_spread_and_later_where_the_provider_asks_for_it(
    jobs: Jobs,
) -> None:
    jobs.hurry = 10_000.0
    jobs.provider.look_faults.extend([(503, {"Retry-After": "90"}), (429, {"Retry-After": "120"})])
    jobs.provider.look_faults.append((503, {"Retry-After": "100000"}))  # no longer than the job has
    model = await jobs.model(poll_seconds=20, job_timeout_seconds=3_000)
    await jobs.rig.executor()
    steps = ["queued", *["processing"] * 8, {"status": "processing", "after": 200.0}, "processing", "succeeded"]
    await jobs.rig.ended(await jobs.begin(model, steps=steps))
    usual = [pause for pause in jobs.pauses if pause < 30]
    assert len(usual) == len(set(usual)) == 10
    assert 17 <= min(usual) < max(usual) <= 23
    assert [pause for pause in jobs.pauses if pause >= 30] == [90, 120, pytest.approx(3_000, abs=60), 200]


async def test_a_job_that_vanished_fails_its_task(jobs: Jobs) -> None:
    jobs.provider.gone = True
    model = await jobs.model()
    await jobs.rig.executor()
    await jobs.rig.ended(await jobs.begin(model), TaskStatus.FAILED)
    assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == ["job_gone"]
    assert (await jobs.job())["cancel_at"] is None


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"output": None}, "no_outputs"),
        ({"steps": [{"status": "failed", "error_code": "nsfw", "message": "no"}]}, "nsfw"),
        ({"steps": ["processing", {"status": "failed"}]}, "provider_failed"),
        ({"steps": ["processing", {"status": "canceled"}]}, "provider_canceled"),
    ],
)
async def test_an_end_without_an_output_says_why(jobs: Jobs, payload: dict[str, Any], code: str) -> None:
    model = await jobs.model()
    await jobs.rig.executor()
    await jobs.rig.ended(await jobs.begin(model, **payload), TaskStatus.FAILED)
    assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == [code]
    assert (await jobs.job())["cancel_at"] is None
    assert jobs.provider.canceled == []
    await jobs.rig.nothing_taken(model)


async def test_a_failure_that_may_pass_is_retried_with_a_new_job(jobs: Jobs) -> None:
    model = await jobs.model(retry_times=1)
    await jobs.rig.executor()
    ids = await jobs.begin(model, steps=[{"status": "failed", "error_code": "worker_lost", "retryable": True}])
    await jobs.rig.ended(ids, TaskStatus.FAILED)
    assert [row["state"] for row in await jobs.rig.sql("SELECT state FROM dispatch")] == [3]
    await jobs.rig.nothing_taken(model)
    await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await jobs.rig.dispatch(model)

    async def dead() -> bool:
        return [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == ["worker_lost"]

    await until(dead, "the second job fails, too, and there is no third")
    assert len(set(jobs.provider.submits)) == len(jobs.provider.jobs) == 2
    assert jobs.provider.canceled == []
    await jobs.clean()


async def test_a_job_that_stays_queued_ends_by_its_deadline_and_the_provider_is_told(jobs: Jobs) -> None:
    model = await jobs.model(job_timeout_seconds=2, retry_times=3)
    await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["queued"])
    await jobs.rig.ended(ids, TaskStatus.TIMEOUT)
    assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == ["job_timeout"]
    await until(lambda: jobs.provider.canceled == ["p1"], "the provider is told")
    await jobs.rig.nothing_taken(model)
    await jobs.clean()

    async def told() -> bool:
        return (await jobs.job())["cancel_at"] is None

    await until(told, "that is written")


async def test_one_providers_id_never_serves_two_tasks(jobs: Jobs) -> None:
    jobs.provider.same_id = "always-me"
    model = await jobs.model({"finds": True}, poll_seconds=3_600)
    running = await jobs.rig.executor()
    first = await jobs.begin(model, steps=["processing"])
    await jobs.waits(running)
    second = await jobs.begin(model)
    await jobs.rig.ended(second, TaskStatus.FAILED)
    dead = await jobs.rig.sql("SELECT task_id, error_code FROM dead_task")
    assert [(row["task_id"], row["error_code"]) for row in dead] == [(second[0], "provider_id_taken")]
    assert await jobs.rig.sql("SELECT 1 FROM provider_job WHERE cancel_at IS NOT NULL") == []
    assert jobs.provider.canceled == []
    assert (await jobs.rig.statuses(first))[first[0]] == TaskStatus.PROCESSING


async def test_a_running_job_is_canceled_here_and_there(jobs: Jobs) -> None:
    model = await jobs.model()
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"])
    await jobs.waits(running)
    await jobs.rig.sql("INSERT INTO cancel_request (task_id) VALUES ($1)", ids[0])
    await jobs.rig.ended(ids, TaskStatus.CANCELED)
    await until(lambda: jobs.provider.canceled == ["p1"], "the provider is told")
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_a_cancel_in_the_middle_of_a_submit_still_reaches_the_provider(jobs: Jobs) -> None:
    jobs.provider.held = asyncio.Event()
    model = await jobs.model()
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"])
    await until(lambda: jobs.provider.submits, "it is submitted")
    running.executor.cancel(ids)
    jobs.provider.held.set()
    await jobs.rig.ended(ids, TaskStatus.CANCELED)
    await until(lambda: jobs.provider.canceled == ["p1"], "the provider is told")
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_a_cancel_waits_for_no_submit_and_the_job_that_it_makes_is_ended(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.jobs.asking._ABORT_SECONDS", 0.2)
    jobs.provider.held = asyncio.Event()
    model = await jobs.model(max_concurrency=1)
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"])
    await until(lambda: jobs.provider.submits, "it is submitted")
    running.executor.cancel(ids)
    await jobs.rig.ended(ids, TaskStatus.CANCELED)
    await jobs.rig.nothing_taken(model)

    async def told() -> bool:
        return (await jobs.job())["cancel_at"] is None

    await until(told, "the provider knows nothing of it yet")
    jobs.provider.held.set()
    await until(lambda: jobs.provider.canceled == ["p1"], "its late answer names the job, and it is ended")
    await jobs.clean()


async def test_a_job_that_is_named_late_while_postgresql_is_away_is_ended(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.jobs.asking._ABORT_SECONDS", 0.2)
    refused = 0

    def flapping(real: PostgresProviderJobs) -> Through:
        async def named_late(key: UUID, provider_id: str) -> bool:
            nonlocal refused
            refused += 1
            if refused <= 2:
                raise Unavailable("away")
            return await real.named_late(key, provider_id)

        return Through(real, named_late=named_late)

    jobs.provider.held = asyncio.Event()
    model = await jobs.model()
    running = await jobs.rig.executor(provider_jobs=flapping)
    ids = await jobs.begin(model, steps=["processing"])
    await until(lambda: jobs.provider.submits, "it is submitted")
    running.executor.cancel(ids)
    await jobs.rig.ended(ids, TaskStatus.CANCELED)
    jobs.provider.held.set()
    await until(lambda: jobs.provider.canceled == ["p1"], "its late answer names the job, and it is ended")
    await jobs.clean()


@pytest.mark.parametrize("fault", [(503, {}), (429, {"Retry-After": "30"})], ids=["refused", "full"])
async def test_a_submit_that_is_refused_while_its_executor_stops_is_refused(
    jobs: Jobs, fault: tuple[int, dict[str, str]]
) -> None:
    """Nobody is left with the question whether there is a job."""
    jobs.provider.held = asyncio.Event()
    jobs.provider.submit_faults.append(fault)
    model = await jobs.model()
    running = await jobs.rig.executor()
    ids = await jobs.begin(model)
    await until(lambda: jobs.provider.keys, "it is submitted")
    (run,) = running.executor.runs._by_token.values()
    running.executor.stop()
    await until(lambda: run.stop is Stop.DRAINED, "it is interrupted")
    jobs.provider.held.set()
    await running.stop()
    if fault[0] == 503:
        await jobs.rig.ended(ids, TaskStatus.FAILED)
        assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == [
            "model_http_503"
        ]
        assert (await jobs.job())["cancel_at"] is None
    else:
        (row,) = await jobs.rig.sql("SELECT state, phase, attempt FROM dispatch")
        assert tuple(row) == (2, 0, 0)
        assert await jobs.job() is None
    await jobs.clean()


async def test_a_stopping_executor_hands_its_jobs_over_at_once(jobs: Jobs) -> None:
    jobs.hurry = 1.0
    model = await jobs.model(max_concurrency=1)
    first = await jobs.rig.executor(drain=60)
    ids = await jobs.begin(model, steps=["processing"] * 4 + ["succeeded"])
    await jobs.waits(first)
    await first.stop()
    assert await jobs.rig.taken(model) == (1, 1)  # the provider works on
    row = (await jobs.rig.sql("SELECT state, phase, class FROM dispatch"))[0]
    assert tuple(row) == (0, 1, 0)
    second = await jobs.rig.executor()
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    assert len(jobs.provider.submits) == 1
    assert second.results.stored
    await jobs.rig.nothing_taken(model)
    assert [row["attempt"] for row in await jobs.rig.sql("SELECT attempt FROM task")] == [1]


async def test_who_is_asked_to_leave_waits_for_no_provider(jobs: Jobs) -> None:
    jobs.hurry = 0.1
    model, rig = await jobs.model(), jobs.rig
    first = await rig.executor()
    ids = await jobs.begin(model)
    await jobs.waits(first)
    assert await Controls(PostgresControl(rig.database), PostgresInsight(rig.database), rig.hints).drain(
        "rig-0", "ann", "kernel update"
    )
    await asyncio.wait_for(first.pending, 10)
    row = (await rig.sql("SELECT state, phase FROM dispatch"))[0]
    assert tuple(row) == (0, 1)
    jobs.hurry = 8.0
    await rig.executor()
    await rig.dispatch(model)
    await rig.ended(ids)
    assert len(jobs.provider.submits) == 1
    await rig.nothing_taken(model)


async def test_a_dead_executors_job_is_gone_on_with_under_its_own_permit(jobs: Jobs) -> None:
    jobs.hurry = 1.0
    model = await jobs.model(max_concurrency=1)
    first = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"] * 6 + ["succeeded"])
    await jobs.waits(first)
    await die(first)
    second = await jobs.rig.executor()
    waiting = await jobs.rig.make_tasks(model, 1, b"{}")
    await jobs.rescued(first, model)
    await jobs.waits(second)
    (token,) = await jobs.rig.sql("SELECT token FROM dispatch WHERE id = $1", ids[0])

    async def renamed() -> bool:
        members = (await jobs.rig.permits.members(model.lane, 0, 10))[1]
        row = await jobs.job()
        return members == [str(token["token"])] and row["permit_token"] == token["token"]

    await until(renamed, "the permit has the new attempt's token, and there is one")
    assert len(jobs.provider.submits) == 1  # no permit was free for the task that waits
    await jobs.rig.ended([*ids, *waiting], seconds=20)
    await jobs.rig.nothing_taken(model)
    await jobs.clean()
    assert sorted(row["attempt"] for row in await jobs.rig.sql("SELECT attempt FROM task")) == [1, 1]


@pytest.mark.parametrize("where", ["at the desk", "before its first step"])
async def test_who_stops_before_it_goes_on_with_a_job_forgets_nothing_of_it(
    jobs: Jobs, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await jobs.model(max_concurrency=1)
    first = await jobs.rig.executor()
    jobs.hurry = 0.1
    ids = await jobs.begin(model)
    await jobs.waits(first)
    await die(first)
    jobs.hurry = 8.0
    before = await jobs.job()
    if where == "at the desk":
        failpoints.arm("executor/after-claim:1:raise")
    else:
        begin, interrupted = Runs.begin, []

        def stopped_at_once(runs: Runs, attempt: Attempt, *given: Any, **more: Any) -> None:
            begin(runs, attempt, *given, **more)
            if not interrupted:
                interrupted.append(attempt.id)
                runs.interrupt_all(Stop.DRAINED)

        monkeypatch.setattr(Runs, "begin", stopped_at_once)
    await jobs.rig.executor()
    await jobs.rescued(first, model)

    async def given_back() -> bool:
        rows = await jobs.rig.sql("SELECT count(*) FROM history WHERE kind = 'release'")
        return bool(rows[0][0] == 1)

    await until(given_back, "it was started, and given back")
    row = (await jobs.rig.sql("SELECT phase, attempt FROM dispatch"))[0]
    assert tuple(row) == (1, 1)
    assert (await jobs.job())["permit_token"] == before["permit_token"]
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    assert len(jobs.provider.submits) == 1
    assert [row["attempt"] for row in await jobs.rig.sql("SELECT attempt FROM task")] == [1]
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 1


@pytest.mark.parametrize(("config", "status"), [({"finds": True}, TaskStatus.SUCCESS), ({}, TaskStatus.FAILED)])
async def test_who_finds_an_intent_without_an_id_submits_nothing_again(
    jobs: Jobs, config: dict[str, Any], status: TaskStatus
) -> None:
    jobs.provider.held = asyncio.Event()
    model = await jobs.model(config)
    first = await jobs.rig.executor()
    ids = await jobs.begin(model)
    await until(lambda: jobs.provider.submits, "it is submitted")
    await jobs.rig.executor()
    await jobs.rescued(first, model)
    await jobs.rig.ended(ids, status)
    assert len(jobs.provider.submits) == 1
    first.executor.runs.interrupt_all(Stop.LOST)
    jobs.provider.held.set()

    async def named() -> bool:
        return (await jobs.job())["provider_id"] == "p1"

    await until(named, "the late answer is kept")
    if status is TaskStatus.FAILED:
        await until(lambda: jobs.provider.canceled == ["p1"], "nobody wants that job")
    else:
        assert jobs.provider.canceled == []
    await jobs.clean()


class SlowNews(PostgresProviderJobs):
    """What providers say of jobs is written only when the test lets it go on."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def news_many(self, rows: Sequence[tuple[Attempt, JobNews]]) -> dict[int, str]:
        self.asked.set()
        await self.go_on.wait()
        return await super().news_many(rows)


async def test_who_loses_an_attempt_while_it_writes_the_jobs_id_writes_it_all_the_same(jobs: Jobs) -> None:
    """Thawed, it reads the answer to its submit, and hears in the middle of writing it that others went on."""
    model = await jobs.model()
    news = SlowNews(jobs.rig.database)
    first = await jobs.rig.executor(provider_jobs=news)
    ids = await jobs.begin(model, steps=["processing"])
    await until(news.asked.is_set, "the id is being written")
    await jobs.rig.executor()
    await jobs.rescued(first, model)
    await jobs.rig.ended(ids, TaskStatus.FAILED)
    first.executor.runs.interrupt_all(Stop.LOST)
    await until(lambda: not first.executor.runs.tokens(), "it has let go of the attempt")
    news.go_on.set()
    await until(lambda: jobs.provider.canceled == ["p1"], "nobody wants that job")
    assert (await jobs.job())["provider_id"] == "p1"
    await jobs.clean()


async def test_who_loses_an_attempt_whose_end_was_asked_for_keeps_the_jobs_id_all_the_same(jobs: Jobs) -> None:
    """It was to end in the middle of its submit, whose answer came a moment later."""
    jobs.provider.held = asyncio.Event()
    model = await jobs.model()
    news = SlowNews(jobs.rig.database)
    first = await jobs.rig.executor(provider_jobs=news)
    ids = await jobs.begin(model, steps=["processing"])
    await until(lambda: jobs.provider.submits, "it is submitted")
    first.executor.cancel(ids)
    jobs.provider.held.set()
    await until(news.asked.is_set, "the id is being written")
    await jobs.rig.executor()
    await jobs.rescued(first, model)
    await jobs.rig.ended(ids, TaskStatus.FAILED)
    first.executor.runs.interrupt_all(Stop.LOST)
    await until(lambda: not first.executor.runs.tokens(), "it has let go of the attempt")
    news.go_on.set()
    await until(lambda: jobs.provider.canceled == ["p1"], "nobody wants that job")
    assert (await jobs.job())["provider_id"] == "p1"
    await jobs.clean()


async def test_a_cancel_while_the_jobs_id_is_being_written_ends_the_job_by_that_id(jobs: Jobs) -> None:
    model = await jobs.model()
    news = SlowNews(jobs.rig.database)
    running = await jobs.rig.executor(provider_jobs=news)
    ids = await jobs.begin(model, steps=["processing"])
    await until(news.asked.is_set, "the id is being written")
    running.executor.runs.interrupt_all(Stop.CANCELED)
    await asyncio.sleep(0.2)
    assert await jobs.rig.statuses(ids) == {ids[0]: TaskStatus.QUEUED}
    news.go_on.set()
    await jobs.rig.ended(ids, TaskStatus.CANCELED)
    await until(lambda: jobs.provider.canceled == ["p1"], "its provider is told")
    await jobs.clean()


async def test_who_was_frozen_ends_the_job_that_it_made_beside_its_successors(jobs: Jobs) -> None:
    """Its request was on its way when it froze, and its provider breaks its promise to know a repeated one."""
    jobs.provider.held = held = asyncio.Event()
    model = await jobs.model({"dedupes": True})
    first = await jobs.rig.executor()
    ids = await jobs.begin(model)
    await until(lambda: jobs.provider.submits, "it is submitted")
    jobs.provider.held = None
    await jobs.rig.executor()
    await jobs.rescued(first, model)
    await jobs.rig.ended(ids)
    assert (await jobs.job())["provider_id"] == "p2"
    first.executor.runs.interrupt_all(Stop.LOST)
    held.set()
    await until(lambda: jobs.provider.canceled == ["p1"], "it ends what is on no record")
    assert (await jobs.job())["provider_id"] == "p2"


async def test_a_job_that_was_named_late_is_ended_when_its_successors_has_another_name(jobs: Jobs) -> None:
    """The same, but the thawed one hears the answer to its submit first."""
    jobs.provider.held = held = asyncio.Event()
    model = await jobs.model({"dedupes": True})
    first = await jobs.rig.executor()
    ids = await jobs.begin(model)
    await until(lambda: jobs.provider.submits, "it is submitted")
    (frozen,) = first.executor.runs._by_token.values()
    jobs.provider.held = its_own = asyncio.Event()
    await jobs.rig.executor()
    await jobs.rescued(first, model)
    await until(lambda: len(jobs.provider.submits) == 2, "it is submitted again")
    frozen.interrupt(Stop.LOST)
    held.set()

    async def named() -> bool:
        return (await jobs.job())["provider_id"] == "p1"

    await until(named, "the late answer is kept")
    its_own.set()
    await jobs.rig.ended(ids)
    assert (await jobs.job())["provider_id"] == "p2"
    await until(lambda: jobs.provider.canceled == ["p1"], "what is on no record any more is ended")
    assert (await jobs.job())["provider_id"] == "p2"


async def test_a_job_that_was_named_late_is_ended_when_its_interrupted_successors_has_another_name(jobs: Jobs) -> None:
    jobs.provider.held = held = asyncio.Event()
    model = await jobs.model({"dedupes": True})
    first = await jobs.rig.executor()
    await jobs.begin(model)
    await until(lambda: jobs.provider.submits, "it is submitted")
    (frozen,) = first.executor.runs._by_token.values()
    jobs.provider.held = its_own = asyncio.Event()
    second = await jobs.rig.executor()
    await jobs.rescued(first, model)
    await until(lambda: len(jobs.provider.submits) == 2, "it is submitted again")
    frozen.interrupt(Stop.LOST)
    held.set()

    async def named(name: str) -> bool:
        return (await jobs.job())["provider_id"] == name

    await until(lambda: named("p1"), "the late answer is kept")
    runs = [*first.executor.runs._by_token.values(), *second.executor.runs._by_token.values()]
    (successor,) = (run for run in runs if run is not frozen)
    successor.interrupt(Stop.CANCELED)
    its_own.set()
    await until(lambda: named("p2"), "its own answer is written down")
    await until(lambda: sorted(jobs.provider.canceled) == ["p1", "p2"], "nobody wants either")


async def test_a_rescued_job_whose_end_was_asked_for_ends_canceled_there_too(jobs: Jobs) -> None:
    model = await jobs.model()
    first = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"])
    await jobs.waits(first)
    await die(first)
    await jobs.rig.sweeps.rescue([first.number], 3)
    await jobs.rig.sql("INSERT INTO cancel_request (task_id) VALUES ($1)", ids[0])
    (row,) = await jobs.rig.sweeps.requested_waiting(10)
    await jobs.rig.sweeps.end_waiting([Ending(*row, TaskStatus.CANCELED, "canceled", "by the caller", dead=False)])
    await jobs.rig.executor()
    await until(lambda: jobs.provider.canceled == ["p1"], "whoever lives tells the provider")
    await jobs.clean()

    async def permit_back() -> bool:
        return (await jobs.rig.taken(model))[1] == 0

    await until(permit_back, "its permit goes back")


@pytest.mark.parametrize("method", ["intend_many", "resume_many", "news_many"])
async def test_lost_answers_of_postgresql_change_nothing(jobs: Jobs, method: str) -> None:
    jobs.hurry = 1.0
    model = await jobs.model()
    first = await jobs.rig.executor(provider_jobs=answer_lost(method))
    ids = await jobs.begin(model, steps=["processing"] * 3 + ["succeeded"])
    await jobs.waits(first)
    await first.stop()
    await jobs.rig.executor(provider_jobs=answer_lost(method))
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    assert len(jobs.provider.submits) == 1
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_many_jobs_wait_on_one_slot(jobs: Jobs) -> None:
    model = await jobs.model(max_concurrency=64)
    running = await jobs.rig.executor(slots=1)
    ids = await jobs.begin(model, 40, steps=["processing", "processing", "succeeded"])
    await jobs.rig.ended(ids, seconds=20)
    assert len(jobs.provider.submits) == 40
    assert running.executor.load() == (0, 0)
    await jobs.clean()


async def _called_back(jobs: Jobs, told: dict[str, Any], *, hint: bool = True) -> None:
    """What the API does with a callback about the only job."""
    job = await jobs.job()
    body = orjson.dumps({"key": str(job["intent_key"]), **told})
    task = await PostgresProviderJobs(jobs.rig.database).keep(job["intent_key"], {}, body)
    if hint and task is not None:
        jobs.rig.hints.publish_soon("sw:jobs", str(task))


async def test_a_provider_that_cannot_be_asked_is_believed_by_its_callbacks(jobs: Jobs) -> None:
    model = await jobs.model({"polls": False}, poll_seconds=3_600)
    running = await jobs.rig.executor(callback_url=lambda _: lambda key, seconds: f"http://us/{key}")
    ids = await jobs.begin(model, steps=["queued"])
    await jobs.waits(running)
    key = str((await jobs.job())["intent_key"])
    assert jobs.provider.callbacks == [f"http://us/{key}"]
    await _called_back(jobs, {"status": "processing", "progress": 30})

    async def shown() -> bool:
        (row,) = await jobs.rig.sql("SELECT status, unit_progress FROM task_face")
        return (row["status"], row["unit_progress"]) == (TaskStatus.PROCESSING, 30.0)

    await until(shown, "it is shown")
    await _called_back(jobs, {"status": "succeeded", "outputs": ["by call"]})
    await _called_back(jobs, {"status": "processing", "progress": 10})  # older, but later
    await jobs.rig.ended(ids)
    assert set(running.results.stored.values()) == {b"by call"}
    assert jobs.provider.looks == {}
    await _called_back(jobs, {"status": "failed"})
    assert (await jobs.rig.statuses(ids))[ids[0]] == TaskStatus.SUCCESS
    await jobs.rig.sweeps.prune(100)
    assert await jobs.rig.sql("SELECT 1 FROM job_callback") == []
    await jobs.clean()


@pytest.mark.parametrize("when", ["before its executor died", "after the answer was lost", "never"])
async def test_a_callback_adopts_the_job_whose_submit_was_answered_to_nobody(
    jobs: Jobs, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.jobs.submission._CALLBACK_SECONDS", 1.0 if when == "never" else 60.0)
    model = await jobs.model({"polls": False}, poll_seconds=3_600)
    running = await jobs.rig.executor()
    if when == "before its executor died":
        jobs.provider.held = asyncio.Event()
        ids = await jobs.begin(model, steps=["processing"])
        await until(lambda: jobs.provider.submits, "it is submitted")
        await _called_back(jobs, {"status": "processing", "id": "p1"})
        await die(running)
        running = await jobs.rig.executor()
        await jobs.rescued(jobs.rig.started[0], model)
    else:
        jobs.provider.submit_faults.append("lost")
        ids = await jobs.begin(model, steps=["processing"])
    if when == "never":
        await jobs.rig.ended(ids, TaskStatus.FAILED)
        assert [row["error_code"] for row in await jobs.rig.sql("SELECT error_code FROM dead_task")] == [
            "submit_unknown"
        ]
    else:
        await jobs.waits(running)
        await _called_back(jobs, {"status": "processing", "id": "p1"})

        async def adopted() -> bool:
            return (await jobs.job())["provider_id"] == "p1"

        await until(adopted, "the job is ours")
        await _called_back(jobs, {"status": "succeeded", "outputs": ["by call"]})
        await jobs.rig.ended(ids)
    assert len(jobs.provider.submits) == 1
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_a_callback_may_come_before_the_answer_to_the_submit(jobs: Jobs) -> None:
    jobs.provider.held = asyncio.Event()
    model = await jobs.model({"polls": False}, poll_seconds=3_600)
    await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["queued"])
    await until(lambda: jobs.provider.submits, "it is submitted")
    await _called_back(jobs, {"status": "succeeded", "outputs": ["early"]})
    jobs.provider.held.set()
    await jobs.rig.ended(ids)
    await jobs.clean()


async def test_a_callback_whose_hint_was_lost_is_found(jobs: Jobs) -> None:
    model = await jobs.model({"polls": False}, poll_seconds=1)
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["queued"])
    await jobs.waits(running)
    await _called_back(jobs, {"status": "succeeded", "outputs": ["found"]}, hint=False)
    await jobs.rig.ended(ids)


async def test_a_callback_of_a_provider_that_can_be_asked_makes_us_ask_now(jobs: Jobs) -> None:
    model = await jobs.model(poll_seconds=3_600)
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["queued", "succeeded"])
    await jobs.waits(running)
    await _called_back(jobs, {"status": "failed"})
    await jobs.rig.ended(ids)
    assert await jobs.rig.sql("SELECT 1 FROM job_callback") == []


async def test_a_job_that_is_never_called_back_about_ends_by_its_deadline(jobs: Jobs) -> None:
    model = await jobs.model({"polls": False}, job_timeout_seconds=2)
    await jobs.rig.executor()
    await jobs.rig.ended(await jobs.begin(model, steps=["processing"]), TaskStatus.TIMEOUT)
    await until(lambda: jobs.provider.canceled == ["p1"], "the provider is told")


async def test_a_provider_that_answers_when_it_is_done_is_shown_at_work(jobs: Jobs) -> None:
    jobs.provider.held = asyncio.Event()
    model = await jobs.model()
    await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["succeeded"])
    await until(lambda: jobs.provider.submits, "it is submitted")
    assert (await jobs.rig.statuses(ids))[ids[0]] == TaskStatus.QUEUED
    await jobs.rig.ended(ids, TaskStatus.PROCESSING)
    jobs.provider.held.set()
    await jobs.rig.ended(ids)
    assert (await jobs.job())["provider_id"] == "p1"
    assert jobs.provider.looks == {}


async def test_a_jobs_permit_outlives_redis(jobs: Jobs) -> None:
    """A lane that Redis forgot is rebuilt with the jobs that nobody runs at the moment."""
    model = await jobs.model(max_concurrency=1)
    first = await jobs.rig.executor()
    await jobs.begin(model, steps=["processing"])
    await jobs.waits(first)
    await first.stop()
    token = (await jobs.job())["permit_token"]
    await jobs.rig.redis.command_many([("FLUSHALL",)])

    async def there() -> bool:
        return (await jobs.rig.permits.members(model.lane, 0, 10))[1] == [str(token)]

    await until(there, "its permit is there again")
    assert await jobs.rig.sweeps.absent_permits(model.lane, [token]) == []


async def test_a_job_whose_output_finds_no_room_is_collected_later(jobs: Jobs) -> None:
    model = await jobs.model()
    running = await jobs.rig.executor()
    running.staging.refuses = True
    ids = await jobs.begin(model, steps=["processing", "succeeded"])

    async def put_off() -> bool:
        rows = await jobs.rig.sql("SELECT state, phase FROM dispatch")
        return [tuple(row) for row in rows] == [(2, 1)]

    await until(put_off, "it is put off, its job is kept")
    assert await jobs.rig.taken(model) == (1, 1)
    running.staging.refuses = False
    # What it starts while it closes goes back to the dispatcher, which is us.
    await until(lambda: running.executor.posture() == "staging_full", "it takes nothing for a while")
    await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids, seconds=20)
    assert len(jobs.provider.submits) == 1
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_an_end_that_waits_for_room_in_staging_leaves_its_slot_to_uploads_that_make_some(jobs: Jobs) -> None:
    """Nobody says it again, so it waits: with all slots taken by such ends nothing that was staged ever left."""
    plain, model = await jobs.rig.make_model(), await jobs.model({"polls": False}, poll_seconds=3_600)
    running = await jobs.rig.executor(slots=1, in_line=0.1)
    running.results.down = UploadFailed("storage_503", "down", retryable=True)
    parked = await jobs.rig.make_tasks(plain)
    await jobs.rig.dispatch(plain)

    async def is_parked() -> bool:
        return bool(await jobs.rig.sql("SELECT 1 FROM dispatch WHERE state = 2"))

    await until(is_parked, "its output waits for storage")
    running.results.down, running.staging.refuses = None, True
    ids = await jobs.begin(model, steps=["succeeded"])

    async def over_there() -> bool:
        return bool(await jobs.rig.sql("SELECT 1 FROM provider_job WHERE status = 'succeeded'"))

    await until(over_there, "its end is written")
    await jobs.rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await jobs.rig.sweeps.promote_due(10)
    await jobs.rig.dispatch(plain)
    await jobs.rig.ended(parked)
    running.staging.refuses = False
    await jobs.rig.ended(ids)


@pytest.mark.parametrize("lost", ["its output", "its failure", "nothing"])
async def test_an_end_that_nobody_can_be_asked_about_again_is_not_waited_for(jobs: Jobs, lost: str) -> None:
    """It came in the answer to the submit, and whoever got it could not keep its output."""
    model = await jobs.model({"polls": False}, max_concurrency=1, retry_times=3, poll_seconds=3_600)
    running = await jobs.rig.executor()
    running.staging.refuses = True
    ids = await jobs.begin(model, steps=["succeeded"])

    async def over_there() -> bool:
        return bool(await jobs.rig.sql("SELECT 1 FROM provider_job WHERE status = 'succeeded'"))

    await until(over_there, "its end is written")
    before = running.number
    await jobs.rig.sql("UPDATE executor SET stopped_at = now()")
    running.executor.heartbeat.soon()
    await until(lambda: running.number != before, "its executor was presumed dead")
    await jobs.rig.sweeps.rescue([before], 3)
    running.staging.refuses = False
    if lost == "its failure":
        await jobs.rig.sql("UPDATE provider_job SET status = 'failed', message = 'no cats'")
    elif lost == "nothing":
        await _called_back(jobs, {"status": "succeeded", "outputs": ["by call"]})
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids, TaskStatus.SUCCESS if lost == "nothing" else TaskStatus.FAILED, seconds=20)
    dead = [tuple(row) for row in await jobs.rig.sql("SELECT error_code, error_message FROM task_face")]
    match lost:
        case "its output":
            assert dead[0][0] == "output_lost"
        case "its failure":
            assert dead == [("provider_failed", "no cats")]
        case _:
            assert set(running.results.stored.values()) == {b"by call"}
    assert len(jobs.provider.submits) == 1
    assert jobs.provider.canceled == []
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_a_new_key_of_the_model_holds_for_jobs_that_run(jobs: Jobs) -> None:
    jobs.hurry = 1.0
    model = await jobs.model(bindings=b"Authorization:old")
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"] * 3 + ["succeeded"])
    await jobs.waits(running)
    changed = await PostgresModels(jobs.rig.database).update(model, "", {"bindings": b"Authorization:new"})
    assert changed is not None
    running.executor._models.put(changed)
    await jobs.rig.ended(ids)
    assert jobs.provider.keys[0] == "old"
    assert jobs.provider.keys[-1] == "new"


async def test_who_lacks_the_key_of_the_model_leaves_its_jobs_to_who_has_it(jobs: Jobs) -> None:
    def lacking(_sealed: bytes, _owner: str) -> bytes:
        raise KeyMissing("no key 'new' in SLUICEWAY_SECRET_KEYS")

    async def put_off() -> bool:
        return bool(await jobs.rig.sql("SELECT 1 FROM dispatch WHERE state = 2 AND error_code = 'secret_key_missing'"))

    async def dispatched() -> None:
        await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL WHERE state = 2")
        await jobs.rig.dispatch(model)

    model = await jobs.model(bindings=b"Authorization:a", max_concurrency=1)
    without = await jobs.rig.executor(open_sealed=lambda _: lacking)
    ids = await jobs.begin(model, steps=["processing"] * 40 + ["succeeded"])
    await until(put_off, "nobody was asked for a job")
    assert (await jobs.job(), jobs.provider.submits) == (None, [])
    await without.stop()
    first = await jobs.rig.executor()
    await dispatched()
    await jobs.waits(first)
    await die(first)
    another = await jobs.rig.executor(open_sealed=lambda _: lacking)
    await jobs.rescued(first, model)
    await until(put_off, "the job is left to others")
    await another.stop()
    await jobs.rig.executor()
    await dispatched()
    await jobs.rig.ended(ids, seconds=20)
    assert len(jobs.provider.submits) == 1
    await jobs.rig.nothing_taken(model)
    await jobs.clean()


async def test_a_model_that_is_called_in_another_way_now_loses_no_job_that_runs(jobs: Jobs) -> None:
    jobs.hurry = 1.0
    model = await jobs.model()
    running = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"] * 2 + ["succeeded"])
    await jobs.waits(running)
    # PostgreSQL refuses such a change while there are jobs; whoever holds another model all the same asks as it began.
    running.executor._models.put(replace(model, adapter="plain-http", base_url="http://127.0.0.1:1"))
    await jobs.rig.ended(ids)
    await jobs.clean()
