"""One set of servers of its own for the acceptance tests: they stop, freeze and kill them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from libs.common.embedded.kafka import EmbeddedKafka
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.server_process import ServerProcess
from libs.common.embedded.tansu import EmbeddedTansu
from tests.support import servers
from tests.support.road import Road, Servers, open_road


@pytest.fixture(scope="session")
def road_servers(servers_folder: Path, broker_choice: servers.BrokerChoice) -> Iterator[Servers]:
    """PostgreSQL, Redis and the broker under test, as processes of ours."""
    folder = servers_folder / "road"
    folder.mkdir(mode=0o711)
    broker: ServerProcess
    broker = EmbeddedKafka(folder / "kafka") if broker_choice.kind == "kafka" else EmbeddedTansu(folder / "tansu")
    postgres, redis = EmbeddedPostgres(folder / "postgres"), EmbeddedRedis(folder / "redis")
    with servers.running(postgres), servers.running(redis), servers.running(broker):
        yield Servers(postgres, redis, broker, broker_choice.kind)
    postgres.remove()


@pytest.fixture(scope="session")
def road_template(road_servers: Servers) -> Iterator[str]:
    with servers.migrated_template(road_servers.postgres.address) as name:
        yield name


@pytest.fixture
def road_database(road_servers: Servers, road_template: str) -> Iterator[str]:
    """The URL of a fresh database; whatever the test did to the servers, they run again afterwards."""
    with servers.clone(road_servers.postgres.address, road_template) as url:
        servers.empty_redis(road_servers.redis.address)
        yield url
        for server in (road_servers.postgres, road_servers.redis, road_servers.broker):
            servers.run_alone(server.start())


@pytest.fixture
async def road(road_servers: Servers, road_database: str, tmp_path: Path) -> AsyncIterator[Road]:
    """A road of this test's own: fresh database, empty Redis, topics of its own; no process runs yet."""
    async with open_road(tmp_path / "road", road_servers, road_database, f"t{uuid.uuid4().hex[:10]}") as opened:
        yield opened
