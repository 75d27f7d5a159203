"""Attempts from the message to the record, on real stores."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import orjson
import pytest

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.plain_http import open_plain_http
from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.adapters.redis import keys
from libs.common.domain.errors import DatabaseUnavailable, OutcomeUnknown
from libs.common.domain.model import Model
from libs.common.domain.model_errors import (
    Busy,
    ModelError,
    OutOfPorts,
    StagedLost,
    StagingFull,
    StagingShareFull,
    UploadFailed,
    UploadUnauthorized,
)
from libs.common.domain.output import StagedFile, StoredFile
from libs.common.domain.task import TaskStatus
from libs.common.operations.sight import Sight
from libs.common.operations.why import Why
from libs.common.ports import PermitRequest
from libs.common.ports_execution import ModelCall
from libs.common.ports_secrets import KeyMissing
from libs.common.runtime import failpoints, metrics
from services.executor import execution
from services.executor.admission import desk
from tests.support.executor_rig import Rig, Running, Through, answer_lost, until
from tests.support.misbehaving_model import misbehaving_model


async def test_a_task_runs_once_and_leaves_a_result(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    ids = await rig.make_tasks(model, 3, b'{"say":"hi"}')
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert rig.model.calls == [b'{"say":"hi"}'] * 3
    assert set(running.results.stored.values()) == {b'out of {"say":"hi"}'}
    assert running.staging.files == {}
    await rig.nothing_taken(model)
    tasks = await rig.sql("SELECT * FROM task")
    assert {task["oss_file"] for task in tasks} == {f"memory://{key}" for key in running.results.stored}
    assert {task["attempt"] for task in tasks} == {1}
    assert [row["outcome"] for row in await rig.sql("SELECT outcome FROM attempt")] == ["success"] * 3
    assert len(await rig.sql("SELECT 1 FROM event")) == 3
    assert (await rig.sql("SELECT sum(calls) AS calls FROM stat_delta"))[0]["calls"] == 3


@pytest.mark.parametrize("payload", [b"{}", b"{ }"])
async def test_an_empty_payload_is_replaced_by_its_reference(rig: Rig, payload: bytes) -> None:
    model = await rig.make_model()
    await rig.executor()
    ids = await rig.make_tasks(model, 1, payload, input_ref="s3://in/1")
    await rig.dispatch(model)
    await rig.ended(ids)
    assert orjson.loads(rig.model.calls[0]) == {"inputRef": "s3://in/1"}


async def test_a_passing_failure_waits_for_its_retry_without_a_slot(rig: Rig) -> None:
    model = await rig.make_model(retry_times=1)
    running = await rig.executor()
    rig.model.errors.append(ModelError("model_503", "not\x00 now", retryable=True, retry_after=20))
    ids = await rig.make_tasks(model)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.FAILED)
    await rig.nothing_taken(model)
    row = (await rig.sql("SELECT *, extract(epoch FROM due_at - now())::int AS due_in FROM dispatch"))[0]
    assert (row["state"], row["retries"], row["error_code"], row["error_message"]) == (3, 1, "model_503", "not now")
    assert 17 <= row["due_in"] <= 25
    assert running.staging.files == {}


@pytest.mark.parametrize("unreachable", ["for now", "for ever"])
async def test_a_call_of_which_the_model_never_heard_is_not_counted(
    rig: Rig, unreachable: Literal["for now", "for ever"]
) -> None:
    model = await rig.make_model(retry_times=1)
    await rig.executor()
    rig.model.unreachable = unreachable
    ids = await rig.make_tasks(model, 2)
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.FAILED)
    attempts = await rig.sql("SELECT attempt, outcome, called FROM attempt")
    assert [tuple(row.values()) for row in attempts] == [(1, "failed", False)] * 2
    assert (await rig.sql("SELECT sum(calls) AS calls FROM stat_delta"))[0]["calls"] == 0
    assert await rig.database.fetch("audit_statistics") == []
    if unreachable == "for now":
        rig.model.unreachable = ""
        await rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
        await rig.dispatch(model)
        await rig.ended(ids)
        assert (await rig.sql("SELECT sum(calls) AS calls FROM stat_delta"))[0]["calls"] == 2
        assert await rig.database.fetch("audit_statistics") == []


async def test_a_permanent_failure_is_dead_at_once(rig: Rig) -> None:
    model = await rig.make_model(retry_times=5)
    await rig.executor()
    rig.model.errors.append(ModelError("model_400", "bad input", retryable=False))
    ids = await rig.make_tasks(model)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.FAILED)
    await rig.nothing_taken(model)
    assert len(await rig.sql("SELECT 1 FROM dead_task WHERE error_code = 'model_400'")) == 1
    assert len(await rig.sql("SELECT 1 FROM event WHERE status = 7")) == 1


async def test_a_short_upload_outage_is_tried_through_in_line(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    running.results.errors += [UploadFailed("storage_500", "no", retryable=True)] * 2
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert len(rig.model.calls) == 1


async def test_a_store_that_names_a_later_time_is_left_alone_until_then(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    running.results.down = UploadFailed("upload_http_429", "busy", retryable=True, retry_after=120.0)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)

    async def later() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE id = $1 AND due_at > now() + interval '100 s'", ids[0]))

    await until(later, "it is parked for as long as was asked")
    assert len(running.results.credentials) == 1


async def test_a_long_upload_outage_parks_the_output_and_calls_the_model_once(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor(in_line=0.3)
    running.results.down = UploadFailed("storage_503", "down", retryable=True)
    ids = await rig.make_tasks(model)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)

    async def parked() -> bool:
        rows = await rig.sql("SELECT state, phase, staged FROM dispatch")
        return [(row["state"], row["phase"]) for row in rows] == [(2, 2)]

    await until(parked, "it is parked")

    async def slot_only() -> bool:
        return await rig.taken(model) == (1, 0)

    await until(slot_only, "the slot stays, the permit goes back")
    assert len(running.staging.files) == 1
    # Somebody else uses the permit meanwhile: the redispatched upload needs none.
    other = await rig.make_tasks(model)
    rig.model.held = asyncio.Event()
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1, "the other task is being called")
    running.results.down = None
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert len(rig.model.calls) == 2
    rig.model.held.set()
    await rig.ended(other)
    assert running.staging.files == {}
    assert [row["attempt"] for row in await rig.sql("SELECT attempt FROM task")] == [1, 1]


async def test_a_surprise_on_the_way_to_storage_calls_no_model_again(rig: Rig) -> None:
    model = await rig.make_model(retry_times=3)
    running = await rig.executor()
    ids = await rig.make_tasks(model)
    failpoints.arm("executor/after-upload:1:raise")
    try:
        await rig.dispatch(model)

        async def parked() -> bool:
            return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 2 AND phase = 2 AND retries = 0"))

        await until(parked, "it is parked")
    finally:
        failpoints.arm("")
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert len(rig.model.calls) == 1
    assert running.staging.files == {}


async def test_a_refused_credential_ends_the_task_and_keeps_its_output(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    running.results.down = UploadUnauthorized("token expired")
    ids = await rig.make_tasks(model)
    await rig.sql(
        "INSERT INTO task_secret (task_id, sealed) VALUES ($1, $2)",
        ids[0], orjson.dumps({"authorization": "Bearer a", "x_user_info": "{}"}),
    )  # fmt: skip
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.FAILED)
    credentials = running.results.credentials[0]
    assert credentials is not None
    assert (credentials.authorization, credentials.user_info) == ("Bearer a", "{}")
    dead = (await rig.sql("SELECT * FROM dead_task"))[0]
    assert dead["error_code"] == "upload_unauthorized"
    assert dead["staged"] in running.staging.files


async def test_a_lasting_upload_is_shown_and_gives_its_permit_back(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    running.results.seconds = 1.6
    ids = await rig.make_tasks(model)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await rig.ended(ids, TaskStatus.MIGRATING)

    async def slot_only() -> bool:
        return await rig.taken(model) == (1, 0)

    await until(slot_only, "the permit goes back")
    await rig.ended(ids)
    assert (await rig.sql("SELECT migrating_at FROM attempt"))[0]["migrating_at"] is not None
    await rig.nothing_taken(model)


async def test_a_lost_output_is_called_for_once_more_and_recorded(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor(in_line=0.1)
    running.results.down = UploadFailed("storage_503", "down", retryable=True)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: running.staging.files, "the output is staged")

    async def parked() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 2"))

    await until(parked, "it is parked")
    running.staging.files.clear()
    running.results.down = None
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)

    async def ready_again() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 0 AND phase = 0 AND class = 0"))

    await until(ready_again, "it is ready for another call")
    await rig.dispatch(model)
    await rig.ended(ids)
    assert len(rig.model.calls) == 2
    outcomes = await rig.sql("SELECT attempt, outcome FROM attempt ORDER BY attempt")
    assert [(row["attempt"], row["outcome"]) for row in outcomes] == [(1, "staging_lost"), (2, "success")]


async def test_who_lost_an_attempt_and_cannot_read_its_output_leaves_it_to_the_new_owner(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await rig.make_model()
    running = await rig.executor()

    async def unreadable(*_: object) -> StoredFile:
        await rig.sql("UPDATE dispatch SET token = gen_random_uuid(), executor = 999")
        raise StagedLost("a stale file handle")

    monkeypatch.setattr(running.results, "put", unreadable)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: running.staging.files, "the output is staged")
    await until(lambda: len(running.executor.runs) == 0, "the attempt is over here")
    assert len(running.staging.files) == 1
    assert await rig.statuses(ids) == {ids[0]: TaskStatus.GENERATED}


async def test_an_upload_goes_to_the_executor_that_has_its_store(rig: Rig) -> None:
    model = await rig.make_model()
    first = await rig.executor(in_line=0.1, stores=("here",))
    first.results.down = UploadFailed("storage_503", "down", retryable=True)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)

    async def parked() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 2"))

    await until(parked, "it is parked")
    second = await rig.executor(stores=("there",))
    first.results.down = None
    await until(lambda: second.executor._ownership.view.stores_differ(), "they see each other")
    # The one without the file shall read it.
    first.staging.full = True
    await until(lambda: second.executor._ownership.view.readers() == {second.number}, "only the second one reads")
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)

    async def handed_over() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE held_by = $1", first.number))

    await until(handed_over, "it is handed over")
    first.staging.full = False
    await rig.ended(ids)
    assert len(rig.model.calls) == 1
    assert first.results.stored
    assert not second.results.stored


async def test_an_upload_whose_store_nobody_has_is_called_for_again(rig: Rig) -> None:
    model = await rig.make_model()
    ids = await rig.make_tasks(model)
    await rig.sql(
        "UPDATE dispatch SET phase = 2, attempt = 1, staged = 'gone:1', staged_size = 1, staged_hash = 'x',"
        " staged_type = 'txt text/plain', generated_at = now()"
    )
    await rig.executor()
    await rig.dispatch(model)

    async def ready_again() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 0 AND phase = 0"))

    await until(ready_again, "it is ready for another call")
    await rig.dispatch(model)
    await rig.ended(ids)


async def test_a_canceled_call_is_aborted(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await until(lambda: rig.model.running, "the model is called")
    await rig.sql("INSERT INTO cancel_request (task_id) VALUES ($1)", ids[0])
    rig.hints.publish_soon("sw:cancel", str(ids[0]))
    await rig.ended(ids, TaskStatus.CANCELED, seconds=1.5)
    assert rig.model.running == 0
    assert running.staging.files == {}
    await rig.nothing_taken(model)
    assert await rig.sql("SELECT 1 FROM cancel_request") == []


async def counted(rig: Rig) -> int:
    """Calls in the statistics."""
    return int((await rig.sql("SELECT coalesce(sum(calls), 0) AS calls FROM stat_delta"))[0]["calls"])


async def test_a_task_canceled_before_its_call_goes_back_and_is_not_counted(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    failpoints.arm("executor/before-call:1:delay=60000")
    try:
        ids = await rig.make_tasks(model)
        await rig.dispatch(model)
        await until(failpoints.reached, "the attempt is about to call")
        assert await counted(rig) == 1
        running.executor.runs.cancel(ids)
        await until(lambda: len(running.executor.runs) == 0, "the attempt is over")
    finally:
        failpoints.arm("")
    assert rig.model.calls == []
    assert await counted(rig) == 0
    (row,) = await rig.sql("SELECT state, attempt, due_at > now() AS later, error_code, public_id FROM dispatch")
    # for the janitor, which ends what waits and is canceled
    assert tuple(row)[:4] == (2, 0, True, "canceled_before_call")
    known = Why(PostgresInsight(rig.database), Sight(PostgresInsight(rig.database), rig.gate, rig.permits))
    assert "it was canceled" in (await known.task(None, row["public_id"])).message


async def test_a_call_that_staging_refuses_beforehand_is_not_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StagingFull("no room")

    model = await rig.make_model()
    running = await rig.executor()
    monkeypatch.setattr(running.staging, "create", full)
    await rig.make_tasks(model)
    await rig.dispatch(model)

    async def handed_back() -> bool:
        return bool(await rig.sql("SELECT 1 FROM history WHERE kind = 'release'"))

    await until(handed_back, "it is handed back")
    assert rig.model.calls == []
    assert await counted(rig) == 0


@pytest.mark.parametrize(("age", "rest"), [(0, 15), (1_000, 100), (86_400, 300)])
async def test_a_tenant_that_has_its_share_of_staging_waits_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, age: int, rest: int
) -> None:
    """Its backlog comes back more and more seldom: in an outage of storage its share is had for hours."""

    def crowded(*_: object) -> None:
        raise StagingShareFull("no more of this tenant")

    model = await rig.make_model()
    running = await rig.executor()
    monkeypatch.setattr(running.staging, "create", crowded)
    await rig.make_tasks(model)
    await rig.sql("UPDATE task SET created_at = now() - make_interval(secs => $1)", float(age))
    await rig.dispatch(model)

    async def put_off() -> bool:
        return bool(await rig.sql("SELECT 1 FROM history WHERE kind = 'release' AND detail = 'staging_share'"))

    await until(put_off, "it is put off")
    assert rig.model.calls == []
    assert running.executor.posture() == "reading"
    assert running.executor._lacks() is None
    (row,) = await rig.sql("SELECT extract(epoch FROM due_at - now())::float8 AS left FROM dispatch")
    assert rest - 5 < row["left"] < rest * 1.25 + 5


async def test_who_lost_its_token_writes_nothing(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await until(lambda: rig.model.running, "the model is called")
    await rig.sql("UPDATE dispatch SET token = gen_random_uuid(), executor = 999")
    rig.model.held.set()
    await until(lambda: len(running.executor.runs) == 0, "the attempt is over")
    assert await rig.statuses(ids) == {ids[0]: TaskStatus.PROCESSING}
    assert await rig.sql("SELECT 1 FROM event") == []
    assert running.staging.files == {}
    assert (await rig.taken(model))[0] == 1


async def test_an_executor_presumed_dead_drops_everything_and_comes_back(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running, "the model is called")
    before = running.number
    await rig.sql("UPDATE executor SET stopped_at = now()")
    running.executor.heartbeat.soon()
    await until(lambda: running.number != before, "it has a new number")
    await until(lambda: rig.model.running == 0, "its call is aborted")
    assert await rig.statuses(ids) == {ids[0]: TaskStatus.PROCESSING}
    await rig.sweeps.rescue([before], 3)
    rig.model.held.set()
    await rig.dispatch(model)
    await rig.ended(ids)
    assert (await rig.sql("SELECT executor, attempt FROM task"))[0]["executor"] == running.number


async def test_after_a_silence_only_what_is_still_ours_goes_on(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 2)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2, "the model is called")
    await rig.sql("UPDATE dispatch SET token = gen_random_uuid(), executor = 999 WHERE id = $1", ids[0])
    running.executor.heartbeat._trusted_from = float("-inf")
    running.executor.heartbeat.soon()
    await until(lambda: rig.model.running == 1, "the lost one is aborted")
    rig.model.held.set()
    await rig.ended(ids[1:])
    assert (await rig.statuses(ids))[ids[0]] == TaskStatus.PROCESSING


async def test_nothing_new_is_started_while_heartbeats_fail(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    heartbeat = running.executor.heartbeat
    real, heartbeat._membership = heartbeat._membership, Through(heartbeat._membership, beat=_unanswered)
    heartbeat.soon()
    await until(lambda: heartbeat._failed, "a beat fails")
    heartbeat._trusted_from = float("-inf")
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await asyncio.sleep(0.7)
    assert rig.model.calls == []
    assert await rig.statuses(ids) == {ids[0]: TaskStatus.QUEUED}
    heartbeat._membership = real
    await rig.ended(ids)


async def test_who_was_frozen_while_it_connected_calls_nothing_before_it_is_trusted_again(rig: Rig) -> None:
    trusted: list[bool] = []
    async with (
        misbehaving_model() as served,
        open_plain_http(EgressGuard(["127.0.0.0/8"]), 10**6) as plain_http,
    ):

        async def invoke(call: ModelCall, sink: Any) -> StagedFile:
            trusted.append(running.executor.heartbeat.trusted)
            if len(trusted) == 1:
                running.executor.heartbeat._trusted_from = float("-inf")  # as after a freeze
            return await plain_http.invoke(call, sink)

        running = await rig.executor(adapters={"plain-http": Through(plain_http, invoke=invoke)})
        model = await rig.make_model(base_url=served.url, route="ok")
        ids = await rig.make_tasks(model)
        await rig.dispatch(model)
        await rig.ended(ids)
        assert (trusted, len(served.seen)) == ([True, True], 1)


async def test_who_is_trusted_again_when_its_permit_may_be_anothers_calls_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL was away for longer than a permit lives, since a moment after the start."""
    monkeypatch.setattr(execution, "_BEGIN_SECONDS", 0.5)
    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor()
    heartbeat = running.executor.heartbeat
    failpoints.arm("executor/before-call:1:delay=300")
    try:
        ids = await rig.make_tasks(model)
        await rig.dispatch(model)
        await until(failpoints.reached, "the attempt is about to call")
        real, heartbeat._membership = heartbeat._membership, Through(heartbeat._membership, beat=_unanswered)
        heartbeat._trusted_from = float("-inf")
        await asyncio.sleep(0.7)
    finally:
        failpoints.arm("")
    await rig.redis.command_many([("DEL", keys.permits(model.lane))])
    assert await rig.permits.acquire_many([PermitRequest(model.lane, "somebody else's", 1, 60_000)]) == [True]
    heartbeat._membership = real

    async def given_back() -> bool:
        return bool(await rig.sql("SELECT 1 FROM history WHERE detail = 'not run'"))

    await until(given_back, "it is as if never started")
    assert rig.model.calls == []
    assert await counted(rig) == 0
    await rig.permits.release_many([(model.lane, "somebody else's")])
    await rig.dispatch(model)
    await rig.ended(ids)
    assert [tuple(row) for row in await rig.sql("SELECT attempt FROM task")] == [(1,)]
    await rig.nothing_taken(model)


async def _unanswered(*_: object) -> None:
    raise TimeoutError


@pytest.mark.parametrize("method", ["finish_many", "generated_many", "start_many"])
async def test_a_lost_answer_changes_nothing(rig: Rig, method: str) -> None:
    model = await rig.make_model()
    running = await rig.executor(attempts=answer_lost(method))
    ids = await rig.make_tasks(model, 2)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await rig.ended(ids)
    await rig.nothing_taken(model)
    assert len(rig.model.calls) == 2
    assert running.staging.files == {}
    assert [row["attempt"] for row in await rig.sql("SELECT attempt FROM task")] == [1, 1]


@pytest.mark.parametrize("method", ["finish_many", "generated_many"])
async def test_a_want_of_memory_while_it_is_recorded_fails_no_attempt(rig: Rig, method: str) -> None:
    """A success became a failure, its output was dropped: what could not be written was taken for what cannot be."""
    model = await rig.make_model()
    running = await rig.executor(attempts=answer_lost(method, times=2, why=MemoryError))
    ids = await rig.make_tasks(model, 1)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await rig.ended(ids)
    await rig.nothing_taken(model)
    assert len(rig.model.calls) == len(running.results.stored) == 1
    assert [row["status"] for row in await rig.sql("SELECT status FROM task")] == [TaskStatus.SUCCESS]


@pytest.mark.parametrize("notices", [False, True], ids=["buried", "asks again"])
async def test_an_output_that_may_be_on_record_outlives_the_executor_that_lost_it(rig: Rig, notices: bool) -> None:
    cut_off = True

    def unanswered(real: Any) -> Through:
        async def written(*arguments: Any) -> Any:
            answer = await real.generated_many(*arguments)
            if cut_off:
                raise OutcomeUnknown("the answer is lost")
            return answer

        return Through(real, generated_many=written)

    model = await rig.make_model()
    running = await rig.executor(attempts=unanswered)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)

    async def on_record() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE phase = 2"))

    await until(on_record, "the output is on record")
    before = running.number
    await rig.sql("UPDATE executor SET stopped_at = now()")
    await rig.sweeps.rescue([before], 3)
    if notices:
        cut_off = False
    else:
        running.executor.heartbeat.soon()
    await until(lambda: len(running.executor.runs) == 0, "it has let go of the attempt")
    cut_off = False
    running.executor.heartbeat.soon()
    await until(lambda: running.number != before, "it has a new number")
    await rig.dispatch(model)
    await rig.ended(ids)
    assert len(rig.model.calls) == 1
    assert running.staging.files == {}


async def test_draining_lets_short_calls_end_and_hands_long_ones_back(rig: Rig) -> None:
    model = await rig.make_model(max_concurrency=2, retry_times=0)
    running = await rig.executor(drain=1.5)
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model, 4)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 2, "two are called")
    await until(lambda: len(running.executor.desk.room) == 2, "two are held")
    number = running.number
    await running.stop()
    rows = await rig.sql("SELECT id, state, attempt, retries, token, held_by, class FROM dispatch ORDER BY id")
    assert [(row["state"], row["token"], row["held_by"], row["retries"]) for row in rows] == [(0, None, None, 0)] * 4
    assert [row["attempt"] for row in rows] == [1, 1, 0, 0]
    assert await rig.taken(model) == (4, 0)
    assert (await rig.sql("SELECT stopped_at FROM executor WHERE id = $1", number))[0]["stopped_at"] is not None
    rig.model.held.set()
    await rig.executor()
    for _ in range(2):
        await rig.dispatch(model)
    await rig.ended(ids)


async def test_a_call_that_ends_in_time_is_not_handed_back(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor(drain=5)
    rig.model.held = asyncio.Event()
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running, "it is called")
    running.executor.stop()
    await until(lambda: running.executor.posture() != "reading", "it leaves the hash")
    rig.model.held.set()
    await asyncio.wait_for(running.pending, 3)
    assert await rig.statuses(ids) == {ids[0]: TaskStatus.SUCCESS}


async def test_without_room_in_staging_nothing_is_called(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    running.staging.full = True
    await until(lambda: running.executor.posture() != "reading", "it stops reading")
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)
    await asyncio.sleep(0.5)
    assert rig.model.calls == []
    running.staging.full = False
    await rig.ended(ids)


async def test_a_full_staging_lets_out_what_is_in_it(rig: Rig) -> None:
    """Storage was away until staging was full. Now it is back, and nobody else is there to upload what was parked."""
    model = await rig.make_model()
    running = await rig.executor(in_line=0.1)
    parked = await _parked(rig, model, running)
    running.staging.full = True
    await until(lambda: running.executor.posture() != "reading", "it takes no work")
    fresh = await rig.make_tasks(model)
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)
    await rig.ended(parked)
    await asyncio.sleep(1)
    assert len(rig.model.calls) == 1, "nothing new is called"
    running.staging.full = False
    await rig.ended(fresh)


async def test_calls_that_find_no_room_keep_no_upload_from_its_lanes_window(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "_ROUND_SECONDS", (0.5, 0.5))
    model = await rig.make_model(max_concurrency=1)
    running = await rig.executor(in_line=0.1)
    parked = await _parked(rig, model, running)
    running.staging.full = True
    await until(lambda: running.executor.posture() != "reading", "it takes no work")
    await rig.make_tasks(model, 9)
    window = len(await rig.dispatch(model))
    await until(lambda: len(running.executor.desk.room) == window, "its window is full of calls")
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)

    async def left() -> bool:
        await rig.dispatch(model)
        return (await rig.statuses(parked))[parked[0]] == TaskStatus.SUCCESS

    await until(left, "the upload left")
    assert len(rig.model.calls) == 1


async def test_jobs_that_find_no_room_keep_no_upload_of_their_lane_from_its_slot(rig: Rig) -> None:
    """Neither needs a permit, and a lane is asked for its first four: the upload stood behind them for minutes."""
    model = await rig.make_model()
    running = await rig.executor(slots=1, in_line=0.1)
    parked = await _parked(rig, model, running, 2)
    running.staging.full = True
    await until(lambda: running.executor.posture() != "reading", "it takes no work")
    jobs = await rig.make_tasks(model, 5)
    await rig.sql("UPDATE dispatch SET phase = 1, attempt = 1, started_at = now() WHERE id = ANY ($1::bigint[])", jobs)
    await rig.dispatch(model)
    await until(lambda: len(running.executor.desk.room) == 5, "jobs wait here")
    running.results.seconds = 1.0
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)
    await asyncio.wait_for(rig.ended(parked), 8)


async def test_what_is_handed_to_a_full_staging_leaves_it(rig: Rig) -> None:
    model = await rig.make_model()
    first = await rig.executor(in_line=0.1, stores=("here",))
    parked = await _parked(rig, model, first)
    second = await rig.executor(stores=("there",))
    await until(lambda: second.executor._ownership.view.stores_differ(), "they see each other")
    first.staging.full = True
    await until(lambda: second.executor._ownership.view.readers() == {second.number}, "only the second one reads")
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)
    await rig.ended(parked)
    assert len(rig.model.calls) == 1
    assert first.results.stored


async def test_what_is_handed_to_an_executor_that_drains_is_uploaded(rig: Rig) -> None:
    model, other = await rig.make_model(), await rig.make_model()
    first = await rig.executor(in_line=0.1, stores=("here",))
    parked = await _parked(rig, model, first)
    rig.model.held = asyncio.Event()
    longer = await rig.make_tasks(other)
    await rig.dispatch(other)
    await until(lambda: rig.model.running == 1, "it has a long call")
    await rig.sql("UPDATE executor SET draining = true")
    second = await rig.executor(stores=("there",))
    await until(lambda: second.executor._ownership.view.readers() == {second.number}, "only the second one reads")
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)
    await rig.dispatch(model)
    await rig.ended(parked)
    rig.model.held.set()
    await rig.ended(longer)
    await asyncio.wait_for(first.pending, 5)
    assert len(rig.model.calls) == 2


async def test_what_was_handed_to_an_executor_just_before_it_drains_is_uploaded(rig: Rig) -> None:
    """It had nothing to do, and left before it looked."""
    model = await rig.make_model()
    first = await rig.executor(in_line=0.1, stores=("here",))
    parked = await _parked(rig, model, first)
    await rig.executor(stores=("there",))
    await until(lambda: first.executor._ownership.view.stores_differ(), "it sees the other one, who hands it over")
    await rig.sql(
        "UPDATE dispatch SET state = 1, lease = 7, leased_at = now(), due_at = NULL, held_by = $1, error_code = NULL,"
        " error_message = NULL",
        first.number,
    )
    await rig.sql("UPDATE executor SET draining = true WHERE id = $1", first.number)
    first.executor.heartbeat.soon()
    await asyncio.wait_for(first.pending, 8)
    assert await rig.statuses(parked) == {parked[0]: TaskStatus.SUCCESS}
    assert len(rig.model.calls) == 1


async def test_what_is_handed_to_an_executor_that_drains_with_all_slots_taken_is_uploaded(rig: Rig) -> None:
    """Given back it would be nobody's: others find the store of one that has left."""
    model = await rig.make_model()
    first = await rig.executor(slots=1, in_line=0.1, stores=("here",))
    parked = await _parked(rig, model, first)
    rig.model.held = asyncio.Event()
    longer = await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1, "it has a long call")
    await rig.executor(stores=("there",))
    await until(lambda: first.executor._ownership.view.stores_differ(), "it sees the other one, who hands it over")
    await rig.sql("UPDATE executor SET draining = true WHERE id = $1", first.number)
    first.executor.heartbeat.soon()
    await until(lambda: first.executor.posture() == "draining", "it drains")
    await rig.sql(
        "UPDATE dispatch SET state = 1, lease = 7, leased_at = now(), due_at = NULL, held_by = $1, error_code = NULL,"
        " error_message = NULL WHERE id = ANY ($2::bigint[])",
        first.number,
        parked,
    )
    drains_from = time.monotonic()
    await until(lambda: first.executor._handed_at > drains_from, "it has seen it")
    await asyncio.sleep(0.5)
    rig.model.held.set()
    await asyncio.wait_for(first.pending, 8)
    assert await rig.statuses(parked + longer) == dict.fromkeys(parked + longer, TaskStatus.SUCCESS)
    assert len(rig.model.calls) == 2


async def test_those_whose_staging_is_full_share_what_nobody_else_reads(rig: Rig) -> None:
    model = await rig.make_model(partitions=24, max_concurrency=40)
    first, second = await rig.executor(in_line=0.1), await rig.executor(in_line=0.1)
    views = [one.executor._ownership.view for one in (first, second)]
    first.staging.full = True  # it is the folder of both
    await until(lambda: not any(view.others_start(0) for view in views), "they know that nobody reads")
    await rig.make_tasks(model, 40)
    await rig.dispatch(model)
    await until(lambda: len(first.executor.desk.room) + len(second.executor.desk.room) == 40, "all wait here")
    read = [{place.spot for place in one.places.assigned()} for one in (first, second)]
    assert all(read)
    assert not read[0] & read[1]


async def _parked(rig: Rig, model: Model, running: Running, count: int = 1) -> list[int]:
    """Tasks whose outputs wait in staging until storage is back, which it is."""
    running.results.down = UploadFailed("storage_503", "down", retryable=True)
    ids = await rig.make_tasks(model, count)
    await rig.dispatch(model)

    async def parked() -> bool:
        return len(await rig.sql("SELECT 1 FROM dispatch WHERE state = 2")) == count

    await until(parked, "it is parked")
    running.results.down = None
    return ids


async def test_an_output_that_finds_no_room_is_handed_back_unharmed(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    running.staging.refuses = True
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)

    async def put_off() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 2 AND retries = 0 AND attempt = 1"))

    await until(put_off, "it is put off")
    assert running.executor.posture() != "reading" or running.executor._lacks() == "staging_full"
    assert (await rig.statuses(ids))[ids[0]] < TaskStatus.PROCESSING


@pytest.mark.parametrize(("age", "rest"), [(0, 15), (1_000, 100), (86_400, 300)])
async def test_an_output_that_finds_no_room_again_and_again_is_called_for_more_and_more_seldom(
    rig: Rig, age: int, rest: int
) -> None:
    """Each call costs, and on a disk that has no room for its answer nothing comes of it."""
    model = await rig.make_model()
    running = await rig.executor()
    running.staging.refuses = True
    await rig.make_tasks(model)
    await rig.sql("UPDATE task SET created_at = now() - make_interval(secs => $1)", float(age))
    await rig.dispatch(model)

    async def put_off() -> bool:
        return bool(await rig.sql("SELECT 1 FROM history WHERE kind = 'release' AND detail = 'staging_full'"))

    await until(put_off, "it is put off")
    assert len(rig.model.calls) == 1
    (row,) = await rig.sql("SELECT extract(epoch FROM due_at - now())::float8 AS left FROM dispatch")
    assert rest - 5 < row["left"] < rest * 1.25 + 5


@pytest.mark.parametrize("what", ["the model's api_key", "the creator's credential"])
async def test_who_lacks_the_key_of_a_secret_leaves_it_to_who_has_it(rig: Rig, what: str) -> None:
    opened = []

    def lacking(sealed: bytes, _owner: str) -> bytes:
        opened.append(sealed)
        raise KeyMissing("no key 'new' in SLUICEWAY_SECRET_KEYS")

    model = await rig.make_model(retry_times=0, bindings=b"Authorization:a" if what == "the model's api_key" else None)
    running = await rig.executor(open_sealed=lambda _: lacking)
    ids = await rig.make_tasks(model)
    if what != "the model's api_key":
        sealed = orjson.dumps({"authorization": "Bearer a", "x_user_info": "{}"})
        await rig.sql("INSERT INTO task_secret (task_id, sealed) VALUES ($1, $2)", ids[0], sealed)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    known = Why(PostgresInsight(rig.database), Sight(PostgresInsight(rig.database), rig.gate, rig.permits))
    (row,) = await rig.sql("SELECT public_id FROM task")

    async def put_off() -> bool:
        return "SLUICEWAY_SECRET_KEYS" in (await known.task(None, row["public_id"])).message

    await until(put_off, "why says what is missing")
    assert len(opened) == 1
    assert await rig.sql("SELECT 1 FROM attempt") == []
    await running.stop()
    other = await rig.executor()
    await rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await rig.dispatch(model)
    await rig.ended(ids)
    assert (len(rig.model.calls), other.staging.files) == (1, {})
    (task,) = await rig.sql("SELECT attempt, retries FROM task")
    assert tuple(task) == (1, 0)


@pytest.mark.parametrize(
    ("error", "seconds"), [(Busy("at capacity", retry_after=30), 25), (OutOfPorts(), 3)], ids=["busy", "no port"]
)
async def test_a_full_model_burns_nothing_and_is_called_later(rig: Rig, error: ModelError, seconds: float) -> None:
    model = await rig.make_model(retry_times=0)
    running = await rig.executor()
    rig.model.errors.append(error)
    ids = await rig.make_tasks(model)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)

    async def later() -> bool:
        sql = "SELECT state, attempt, retries FROM dispatch WHERE due_at > now() + make_interval(secs => $1)"
        return [tuple(row) for row in await rig.sql(sql, seconds)] == [(2, 0, 0)]

    await until(later, "it is called later")
    assert running.executor.posture() == "reading"  # others are called meanwhile
    assert (await rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 0

    async def slot_only() -> bool:
        return await rig.taken(model) == (1, 0)

    await until(slot_only, "the permit goes back, the slot stays")
    await rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")
    await rig.dispatch(model)
    await rig.ended(ids)
    assert [row["attempt"] for row in await rig.sql("SELECT attempt FROM task")] == [1]
    # the figure of run times knows the call alone, not the refusal before it
    ran = f'sluiceway_attempt_run_seconds_count{{model="{model.id}"}} 1.0'
    await until(lambda: ran in metrics.exposition().decode().splitlines(), "one attempt ran")


async def test_who_is_cancelled_while_it_hands_back_ends_all_that_it_began(rig: Rig) -> None:
    away = False

    def change(real: Any) -> Through:
        async def release_many(rows: Any) -> Any:
            if away:
                raise DatabaseUnavailable("no connection to PostgreSQL")
            return await real.release_many(rows)

        return Through(real, release_many=release_many)

    model = await rig.make_model()
    running = await rig.executor(attempts=change)
    rig.model.held = asyncio.Event()
    await rig.make_tasks(model)
    await rig.dispatch(model)
    await until(lambda: rig.model.running == 1, "the model is called")
    away = True
    running.executor.stop()
    await until(lambda: any(run.stop for run in running.executor.runs._by_token.values()), "it is handed back")
    running.pending.cancel()
    await asyncio.wait([running.pending], timeout=12)
    assert running.pending.cancelled()
    await until(lambda: not len(running.executor.runs), "nothing asks PostgreSQL any more", seconds=3)
    assert not {"beat", "models", "steward", "admission"} & {task.get_name() for task in asyncio.all_tasks()}
