"""An adapter's package is installed on one executor after the other: nothing fails on those that do not have it yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.task import TaskStatus
from libs.common.operations.doctor_servers import examine_postgres
from libs.common.operations.sight import Sight
from libs.common.operations.why import Why
from libs.common.settings import Settings
from services.executor import execution
from tests.support.executor_rig import Rig, until
from tests.support.job_rig import Jobs, die, open_jobs


@pytest.fixture
async def jobs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jobs]:
    async with open_jobs(rig, monkeypatch) as opened:
        opened.rig.jobs["acme"] = opened.rig.jobs.pop("test")
        monkeypatch.setattr(execution, "_OTHERS_SECONDS", (600.0, 600.0))
        yield opened


async def put_off(jobs: Jobs) -> None:
    """Wait until the task has been given back for a while."""

    async def later() -> bool:
        rows = await jobs.rig.sql("SELECT state, token FROM dispatch")
        return [(row["state"], row["token"]) for row in rows] == [(2, None)]

    await until(later, "it went back")


async def due_again(jobs: Jobs) -> None:
    await jobs.rig.sql("UPDATE dispatch SET state = 0, due_at = NULL")


async def test_a_task_waits_for_somebody_who_has_its_adapter(jobs: Jobs) -> None:
    model = await jobs.model(adapter="acme")
    await jobs.rig.executor(jobs={})
    ids = await jobs.begin(model)
    await put_off(jobs)
    (row,) = await jobs.rig.sql("SELECT attempt, phase FROM dispatch")
    assert (row["attempt"], row["phase"]) == (0, 0)
    assert (await jobs.rig.sql("SELECT sum(calls)::int AS calls FROM stat_delta"))[0]["calls"] == 0
    assert (await jobs.rig.taken(model))[1] == 0
    await jobs.rig.executor()
    await due_again(jobs)
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    assert len(jobs.provider.submits) == 1


async def test_models_are_read_by_those_who_have_their_adapter(jobs: Jobs) -> None:
    """As many executors without it as with it: by chance alone some of these models would be theirs."""
    models = [await jobs.model(adapter="acme") for _ in range(6)]
    without = await jobs.rig.executor(jobs={})
    able = await jobs.rig.executor()
    await until(lambda: without.executor._ownership.view.readers() == {without.number, able.number}, "all see all")
    ids = [id_ for model in models for id_ in await jobs.begin(model)]
    await jobs.rig.ended(ids)
    assert {row["executor"] for row in await jobs.rig.sql("SELECT executor FROM task")} == {able.number}
    assert await jobs.rig.sql("SELECT 1 FROM history WHERE kind = 'release'") == []


async def test_a_job_goes_on_with_somebody_who_has_its_adapter(jobs: Jobs) -> None:
    model = await jobs.model(adapter="acme", max_concurrency=1)
    first = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"] * 20 + ["succeeded"])
    await jobs.waits(first)
    without = await jobs.rig.executor(jobs={})
    await die(first)
    await until(lambda: without.executor._ownership.view.readers() == {without.number}, "it reads alone")
    await jobs.rescued(first, model)
    await put_off(jobs)
    (row,) = await jobs.rig.sql("SELECT attempt, phase FROM dispatch")
    assert (row["attempt"], row["phase"]) == (1, 1)
    assert await jobs.rig.taken(model) == (1, 1)  # its provider works on
    await jobs.rig.executor()
    await due_again(jobs)
    await jobs.rig.dispatch(model)
    await jobs.rig.ended(ids)
    await jobs.clean()
    assert len(jobs.provider.submits) == 1


async def test_a_job_that_nobody_can_ask_about_ends_by_its_deadline_and_is_ended_by_who_can(jobs: Jobs) -> None:
    model = await jobs.model(adapter="acme")
    first = await jobs.rig.executor()
    ids = await jobs.begin(model, steps=["processing"])
    await jobs.waits(first)
    await jobs.rig.executor(jobs={})
    await die(first)
    await jobs.rig.sql("UPDATE provider_job SET deadline = now() - interval '1 s'")
    await jobs.rescued(first, model)
    await jobs.rig.ended(ids, TaskStatus.TIMEOUT)
    await jobs.rig.nothing_taken(model)
    (dead,) = await jobs.rig.sql("SELECT error_code FROM dead_task")
    assert dead["error_code"] == "job_timeout"
    assert jobs.provider.canceled == []
    await jobs.rig.executor()
    await until(lambda: jobs.provider.canceled == ["p1"], "who has the adapter tells the provider")


@pytest.mark.parametrize(("age", "rest"), [(0, 30), (1_000, 100), (86_400, 300)])
async def test_what_nobody_can_call_comes_back_more_and_more_seldom(
    jobs: Jobs, age: int, rest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    model = await jobs.model(adapter="acme")
    await jobs.rig.executor(jobs={})
    await jobs.rig.make_tasks(model)
    await jobs.rig.sql("UPDATE task SET created_at = now() - make_interval(secs => $1)", float(age))
    await jobs.rig.dispatch(model)
    await put_off(jobs)
    (row,) = await jobs.rig.sql("SELECT extract(epoch FROM due_at - now())::float8 AS left FROM dispatch")
    assert rest - 5 < row["left"] < rest * 1.25 + 5


async def test_why_and_doctor_name_the_adapter_that_nobody_has(jobs: Jobs) -> None:
    model, insight = await jobs.model(adapter="acme"), PostgresInsight(jobs.rig.database)
    why = Why(insight, Sight(insight, jobs.rig.gate, jobs.rig.permits))
    await jobs.rig.executor(jobs={})
    (task,) = await jobs.begin(model)
    await put_off(jobs)
    (row,) = await jobs.rig.sql("SELECT public_id FROM task WHERE id = $1", task)
    said = await why.task(model.tenant_id, row["public_id"])
    assert said.holds[0].code == "no_adapter"
    assert "'acme'" in said.holds[0].message
    findings = await examine_postgres(Settings(database_url=jobs.rig.database_url))
    assert any("'acme'" in finding.what and "name it: 1," in finding.what for finding in findings)
    await PostgresTasks(jobs.rig.database).cancel_waiting(model.tenant_id, [row["public_id"]])
    await jobs.rig.executor()
    await asyncio.sleep(1.1)  # what is looked at is shared for a second
    findings = await examine_postgres(Settings(database_url=jobs.rig.database_url))
    assert not any("'acme'" in finding.what for finding in findings)
    assert [hold.code for hold in (await why.model(model.tenant_id, model.name)).holds] == ["idle"]
