"""The same road on the broker that `sluiceway up` starts; it keeps its log in memory, and its restart forgets it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libs.common.embedded.tansu import EmbeddedTansu
from tests.support import servers
from tests.support.road import Road, Servers, road_over


@pytest.fixture
def tansu(servers_folder: Path) -> Iterator[EmbeddedTansu]:
    server = EmbeddedTansu(servers_folder / f"tansu-{uuid.uuid4().hex[:6]}")
    with servers.running(server):
        yield server


@pytest.fixture
async def memory_road(
    road_servers: Servers, road_database: str, tansu: EmbeddedTansu, tmp_path: Path
) -> AsyncIterator[Road]:
    async with road_over(tansu, "tansu", road_servers, road_database, tmp_path / "road") as opened:
        yield opened


async def test_tasks_go_from_rest_to_their_events(memory_road: Road) -> None:
    await memory_road.start_all()
    tenant = await memory_road.tenant()
    await memory_road.model(tenant, retry_times=1)
    ids = [*await memory_road.submit(tenant, 50), *await memory_road.submit(tenant, 3, fail=1)]
    await memory_road.ended(ids, 40)
    assert len(memory_road.mock.calls) == 56
    await memory_road.assert_whole(ids)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_broker_that_lost_its_memory_loses_no_task(memory_road: Road) -> None:
    await memory_road.start_all()
    tenant = await memory_road.tenant()
    await memory_road.model(tenant, max_concurrency=2, queue_limit=5_000)
    before = await memory_road.submit(tenant, 10)
    await memory_road.ended(before)
    await memory_road.announced(before)
    during = await memory_road.submit(tenant, 40, seconds=0.2)
    await memory_road.servers.broker.kill()
    await memory_road.servers.broker.start()
    after = await memory_road.submit(tenant, 10)
    await memory_road.ended([*during, *after], 120)
    assert len(memory_road.mock.calls) == 60
    events = await memory_road.announced(after)
    assert {task: len(found) for task, found in events.items()} == dict.fromkeys(after, 1)
    await memory_road.assert_clean(60)
