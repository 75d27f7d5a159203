"""PostgreSQL goes on from an older state: numbers are given anew that processes still know of others."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.domain.model import Model
from libs.common.ports_tasks import LaneClosed, NewTask
from services.executor.executor import Executor
from tests.support.executor_rig import Rig, until


def mistake(executor: Executor, model: Model) -> None:
    """Have it know a model that PostgreSQL has lost since, and whose number is another tenant's now."""
    stranger = replace(model, tenant_id=model.tenant_id + 1, base_url="http://stranger")
    executor._models._by_id[model.id] = stranger


async def test_a_task_is_never_written_into_another_tenants_lane(rig: Rig) -> None:
    model = await rig.make_model()
    lost = NewTask(uuid4(), model.tenant_id + 1, model.lane, b'"of another tenant"')
    mine = NewTask(uuid4(), model.tenant_id, model.lane, b"{}")
    answers = await PostgresTasks(rig.database).create_many([lost, mine])
    assert answers[0] == LaneClosed()
    assert [row["public_id"] for row in await rig.sql("SELECT public_id FROM task")] == [mine.public_id]


async def test_a_task_never_reaches_another_tenants_model(rig: Rig) -> None:
    model = await rig.make_model()
    running = await rig.executor()
    first = await rig.make_tasks(model)
    await rig.dispatch(model)
    await rig.ended(first)
    mistake(running.executor, model)
    ids = await rig.make_tasks(model)
    await rig.dispatch(model)

    async def back() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 0 AND attempt = 0"))

    await until(back, "it is ready again")
    assert len(rig.model.calls) == 1
    running.executor._models._by_id[model.id] = model
    await rig.dispatch(model)
    await rig.ended(ids)
    await rig.nothing_taken(model)
