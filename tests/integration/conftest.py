"""What tests of one service share: a database of theirs, emptied for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from libs.common.runtime import failpoints, metrics
from tests.support import servers
from tests.support.executor_rig import Rig, open_rig
from tests.support.house import House, open_house


@pytest.fixture(scope="session")
def house_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """The URL of a migrated database; cloning one for each test would take most of their time."""
    with servers.clone(postgres_server, template_database) as url:
        yield url


@pytest.fixture
async def house(house_database: str, redis_url: str) -> AsyncIterator[House]:
    """A janitor's view of empty stores."""
    async with open_house(house_database, redis_url) as opened:
        await opened.empty()
        yield opened
    failpoints.arm("")


@pytest.fixture(scope="session")
def rig_database(postgres_server: str, template_database: str) -> Iterator[str]:
    """The same for the executor's tests."""
    with servers.clone(postgres_server, template_database) as url:
        yield url


@pytest.fixture
async def rig(
    rig_database: str,
    redis_url: str,
    kafka_bootstrap: str,
    broker_choice: servers.BrokerChoice,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Rig]:
    """Executors in this process, over emptied stores."""
    monkeypatch.setattr(metrics, "_models", set())  # those of other tests leave no room to tell these apart
    async with open_rig(rig_database, redis_url, kafka_bootstrap, broker_choice.kind, topic_prefix) as opened:
        yield opened
    failpoints.arm("")
