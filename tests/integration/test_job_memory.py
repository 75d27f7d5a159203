"""Jobs that end together with their outputs inside their answers: they come into memory as there is room."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.job_http import open_job_http
from libs.common.adapters.models.replicate import Replicate
from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Attempt
from libs.common.ports_provider_jobs import JobCallback
from services.executor.jobs import calls
from services.executor.jobs.memory import AnswerMemory
from tests.support.executor_rig import Rig, Running, Through, until
from tests.support.job_rig import Jobs, open_jobs
from tests.support.replicate_provider import PNG, Plan, ReplicateProvider, replicate_provider

MB = 2**20


class Watched(AnswerMemory):
    """Remembers the most that was taken."""

    def __init__(self, everything: int) -> None:
        super().__init__(everything=everything, of_a_tenant=everything)
        self.everything, self.most = everything, 0

    @property
    def taken(self) -> int:
        return self.everything - self._free

    async def take(self, tenant: int, size: int, about_to_wait: Callable[[], None] | None = None) -> int:
        got = await super().take(tenant, size, about_to_wait)
        self.most = max(self.most, self.taken)
        return got


@pytest.fixture
async def memory(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched(8 * MB)
    monkeypatch.setattr(calls, "AnswerMemory", lambda: watched)
    return watched


@pytest.fixture
async def provider(rig: Rig) -> AsyncIterator[ReplicateProvider]:
    content = base64.b64encode(PNG + bytes(2 * MB)).decode()
    plan = Plan(("succeeded",), output=f"data:image/png;base64,{content}")
    async with (
        replicate_provider(checks_token=False, plan=plan) as opened,
        open_job_http(EgressGuard(["127.0.0.0/8"])) as http,
    ):
        rig.jobs["replicate"] = Replicate(http)
        yield opened


async def begin(
    rig: Rig, provider: ReplicateProvider, count: int, payload: bytes = b'{"input":{"prompt":"x"}}', **fields: object
) -> tuple[Model, list[int]]:
    told = {"adapter": "replicate", "route": "v1/predictions", "poll_seconds": 1, "max_concurrency": 50, **fields}
    model = await rig.make_model(base_url=provider.url, **told)
    ids = await rig.make_tasks(model, count, payload)
    await rig.take_slots(model, ids)
    await rig.dispatch(model)
    return model, ids


@pytest.mark.parametrize("statuses", [("succeeded",), ("processing", "succeeded")], ids=["submit", "poll"])
async def test_large_answers_come_as_there_is_room(
    rig: Rig, provider: ReplicateProvider, memory: Watched, statuses: tuple[str, ...]
) -> None:
    provider.plan = Plan(statuses, output=provider.plan.output)
    running = await rig.executor()
    model, ids = await begin(rig, provider, 16)
    await rig.ended(ids, seconds=30)
    assert len(running.results.stored) == 16
    assert 5 * MB < memory.most <= 8 * MB  # an answer of 2.7 MB at a time would be too careful
    assert memory.taken == 0
    assert len(provider.jobs) == 16
    await rig.nothing_taken(model)


@pytest.mark.parametrize("statuses", [("succeeded",), ("processing", "succeeded")], ids=["submit", "poll"])
async def test_the_time_for_which_an_answer_waits_for_room_is_not_its_providers(
    rig: Rig, provider: ReplicateProvider, memory: Watched, statuses: tuple[str, ...]
) -> None:
    provider.plan = Plan(statuses, output=provider.plan.output)
    await rig.executor()
    await memory.take(0, 8 * MB)
    _, ids = await begin(rig, provider, 1, timeout_seconds=1)
    await until(lambda: memory._waiting, "its answer waits")
    gets = provider.calls["get"]
    await asyncio.sleep(7.5)  # past the grace that adapters have, too
    assert provider.calls["get"] == gets
    memory.give_back(0, 8 * MB)
    await rig.ended(ids)
    assert (len(provider.jobs), provider.twice()) == (1, [])


async def test_a_large_answer_that_comes_after_its_attempt_takes_no_slot(
    rig: Rig, provider: ReplicateProvider, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.jobs.asking._ABORT_SECONDS", 0.1)
    provider.creates.append(1.0)
    running = await rig.executor()
    _, ids = await begin(rig, provider, 1)
    await until(lambda: provider.submits, "it is submitted")
    running.executor.cancel(ids)
    await rig.ended(ids, TaskStatus.CANCELED)
    await until(lambda: memory.most, "the answer comes late, and is read")
    await until(lambda: memory.taken == 0, "it is read")
    assert running.executor.load() == (0, 0)


async def test_a_large_answer_to_a_cancel_gives_its_room_back(
    rig: Rig, provider: ReplicateProvider, memory: Watched
) -> None:
    """Replicate answers with the whole prediction, its input included."""
    provider.plan = Plan(("processing",))
    running = await rig.executor()
    _, ids = await begin(rig, provider, 1, b'{"input":{"prompt":"%s"}}' % (b"x" * MB))
    await until(lambda: running.executor.runs.waiting() == 1, "its provider works")
    memory.most = 0
    running.executor.cancel(ids)
    await rig.ended(ids, TaskStatus.CANCELED)
    await until(lambda: provider.calls["cancel"] and memory.most > MB, "its provider is told, and answers")
    await until(lambda: memory.taken == 0, "the answer is forgotten")


async def test_a_large_answer_to_a_late_cancel_gives_its_room_back(
    rig: Rig, provider: ReplicateProvider, memory: Watched
) -> None:
    """Of a job that was made beside the attempt's own one."""
    running = await rig.executor()
    provider.plan = Plan(("processing",))
    _, ids = await begin(rig, provider, 1, b'{"input":{"prompt":"%s"}}' % (b"x" * MB))
    await until(lambda: running.executor.runs.waiting() == 1, "its provider works")
    (run,) = running.executor.runs._by_token.values()
    life = running.executor.runs._story.__self__._calls._jobs
    row = (await rig.sql("SELECT intent_key FROM provider_job"))[0]
    stray = SimpleNamespace(run=run, key=row["intent_key"], intended_at=0.0, adapter=rig.jobs["replicate"])
    (name,) = provider.jobs
    await life._late._end(stray, name)
    assert provider.calls["cancel"] == 1
    running.executor.cancel(ids)
    await rig.ended(ids, TaskStatus.CANCELED)
    await until(lambda: memory.taken == 0, "the answer is forgotten")


async def test_large_callbacks_are_read_a_few_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def watched(real: PostgresProviderJobs) -> Through:
        async def callbacks(attempts: list[Attempt]) -> dict[int, list[JobCallback]]:
            found = await real.callbacks(attempts)
            batches.append(sum(len(one.body) for kept in found.values() for one in kept))
            return found

        return Through(real, callbacks=callbacks)

    async with open_jobs(rig, monkeypatch) as jobs:
        await large_callbacks(jobs, watched)
    assert sum(batches) >= 12 * 3 * MB
    assert max(batches) < 12 * MB


async def test_jobs_that_are_canceled_together_leave_all_room_to_others(
    rig: Rig, memory: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that have room wait for staging, and give it back while those that wait for it are being canceled."""
    async with open_jobs(rig, monkeypatch) as jobs:
        model = await jobs.model({"polls": False}, max_concurrency=50)
        running = await rig.executor()
        running.staging.refuses = True
        ids = await jobs.begin(model, 4, steps=["processing"])
        await jobs.waits(running, 4)
        await call_back(jobs, running, ids)
        await until(lambda: len(memory._waiting) == 2, "two have room, two wait for it")
        running.executor.cancel(ids)
        await rig.ended(ids, TaskStatus.CANCELED)
        assert memory.taken == 0
        await jobs.clean()


async def large_callbacks(jobs: Jobs, provider_jobs: object) -> None:
    """Twelve jobs whose ends come together, 3 MB each."""
    model = await jobs.model({"polls": False}, max_concurrency=50)
    running = await jobs.rig.executor(provider_jobs=provider_jobs)
    ids = await jobs.begin(model, 12, steps=["processing"])
    await jobs.waits(running, 12)
    await call_back(jobs, running, ids)
    await jobs.rig.ended(ids, seconds=20)


async def call_back(jobs: Jobs, running: Running, ids: list[int]) -> None:
    """All jobs end, each with an output of 3 MB in its callback."""
    await jobs.rig.sql(
        "INSERT INTO job_callback (task_id, attempt, headers, body)"
        " SELECT task_id, attempt, '{}', convert_to(json_build_object('key', intent_key, 'id', provider_id,"
        " 'status', 'succeeded', 'outputs', json_build_array(repeat('x', 3 * 1024 * 1024)))::text, 'UTF8')"
        " FROM provider_job"
    )
    for task in ids:
        running.executor._waits.called(task)
