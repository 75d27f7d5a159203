"""Attempts from the message to the record, on real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.executor_rig import Rig, open_rig, until
from tests.support.servers import BrokerChoice


@pytest.fixture
async def rig(
    database_url: str, redis_url: str, kafka_bootstrap: str, broker_choice: BrokerChoice, topic_prefix: str
) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, kafka_bootstrap, broker_choice.kind, topic_prefix) as rig:
        yield rig


async def test_a_task_runs_once_and_leaves_a_result(rig: Rig) -> None:
    model = await rig.make_model()
    await rig.executor()
    ids = await rig.make_tasks(model, 3)
    await rig.dispatch(model)
    await rig.ended(ids)
    assert len(rig.model.calls) == 3
    events = await rig.sql("SELECT * FROM event ORDER BY id")
    assert len(events) == 3
    await until(lambda: rig.permits.in_use([model.lane]), "in use")
