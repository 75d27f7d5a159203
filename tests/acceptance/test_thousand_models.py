"""A new model among a thousand: usable at once, and the others hardly notice."""

from __future__ import annotations

import asyncio
import time
from statistics import median

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.road import Road, until
from tests.support.stream import streaming

pytestmark = [pytest.mark.long, pytest.mark.quiet]

MODELS = 1_000
NEWCOMERS = 20
PER_SECOND = 50


async def topics(road: Road) -> int:
    """How many model topics of this road the broker has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=road.servers.broker.address)
    await admin.start()
    try:
        return sum(name.startswith(f"{road.prefix}.model.") for name in await admin.list_topics())
    finally:
        await admin.close()


@pytest.mark.timeout(600)
async def test_a_new_model_among_a_thousand_is_usable_within_two_seconds_and_disturbs_nobody(road: Road) -> None:
    await road.start_all()
    tenant = await road.tenant()
    for start in range(0, MODELS, 20):
        await asyncio.gather(*(road.model(tenant, f"m{number}") for number in range(start, start + 20)))

    async def all_there() -> bool:
        return await topics(road) == MODELS

    await until(all_there, 120, "every model has its topic")
    usable, disturbed = [], []
    async with streaming(road, tenant, [f"m{number}" for number in range(40)], PER_SECOND) as stream:
        await until(lambda: len(road.mock.calls) > 10 * PER_SECOND, 60, "the stream flows")
        for number in range(NEWCOMERS):
            await asyncio.sleep(2)  # the stream by itself, to compare with
            began = time.monotonic()
            await road.model(tenant, f"new{number}")
            name = await stream.send(f"new{number}")
            await until(lambda: road.mock.by_name[name], 30, f"model {number} is used")  # noqa: B023  asked at once
            usable.append(next(call.began for call in road.mock.calls if call.name == name) - began)
            await asyncio.sleep(max(0.0, began + 2 - time.monotonic()))
            await asyncio.sleep(1)  # who was handed in last has its call by now
            disturbed.append(stream.waits(began, began + 2)[-1] - stream.waits(began - 2, began)[-1])
    assert max(usable) <= 2, usable
    assert median(disturbed) <= 0.2, disturbed
    assert max(disturbed) <= 1, disturbed
