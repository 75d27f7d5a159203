"""One API over real servers for each test module; every test is a tenant of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
import structlog

from tests.support import servers
from tests.support.api import Api, Tenant, running_api


@pytest.fixture(scope="package", autouse=True)
def plain_logs() -> Iterator[None]:
    """Plain lines: structlog's own default draws every traceback in boxes, which takes seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="package")
def stores(postgres_server: str, template_database: str, redis_server: str) -> Iterator[tuple[str, str]]:
    """The URLs of a database and a Redis."""
    servers.empty_redis(redis_server)
    with servers.clone(postgres_server, template_database) as database_url:
        yield database_url, redis_server


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def api(stores: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    results = tmp_path_factory.mktemp("results").as_uri()
    async with running_api(*stores, storage_url=results) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="package")
async def resuming(api: Api) -> AsyncIterator[None]:
    """What the test pauses goes on afterwards: a pause of everything holds every tenant."""
    yield
    await api.sql("DELETE FROM pause")
    await api.sql("UPDATE lane SET paused = false WHERE paused")
    await api.sql("UPDATE tenant SET paused = false WHERE paused")


@pytest_asyncio.fixture(loop_scope="package")
async def tenant(api: Api) -> Tenant:
    """A new tenant with a model `m`."""
    caller = await api.tenant()
    await caller.model("m")
    return caller
