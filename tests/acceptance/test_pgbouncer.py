"""PgBouncer between the services and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from libs.common.adapters.postgres import migrate
from libs.common.adapters.postgres.audit import open_audit_database
from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.way_in import SharedSessions
from libs.common.domain.errors import DatabaseUnavailable
from libs.common.operations.doctor_servers import examine_postgres
from tests.support.pgbouncer import PROGRAM, PgBouncer
from tests.support.road import Road, until

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="NO POOLER: `make pooler` installs Debian's PgBouncer")
Through = Callable[[str], Awaitable[Road]]


@pytest.fixture
async def through(road: Road, road_database: str, tmp_path: Path) -> AsyncIterator[Through]:
    """The road with a pooler of that mode in it."""
    made: list[PgBouncer] = []

    async def through(mode: str) -> Road:
        made.append(PgBouncer(tmp_path / "pgbouncer", road_database, mode))
        await made[0].start()
        road.database_url = made[0].url
        return road

    yield through
    await road.stop_all()
    for pooler in made:
        await pooler.stop()


async def test_tasks_go_from_rest_to_their_events_through_a_pooler_of_sessions(through: Through) -> None:
    road = await through("session")
    await road.start_all()
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=20, queue_limit=10_000)
    ids = await road.submit(tenant, 300, seconds=0.05)
    await road.ended(ids, 60)
    assert len(road.mock.calls) == len(ids)
    assert {finding.level for finding in await examine_postgres(road.settings)} == {"ok"}
    await road.assert_whole(ids)


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_that_shares_sessions_is_refused_and_named(through: Through, mode: str) -> None:
    road = await through(mode)
    async with open_database(road.database_url) as database:
        with pytest.raises(DatabaseUnavailable):
            await database.fetch("watch_beats")
        with pytest.raises(DatabaseUnavailable):
            await database.query("find_model", tenant_id=1, name="m")
    with pytest.raises(SharedSessions):
        await migrate.upgrade(road.database_url)
    with pytest.raises(DatabaseUnavailable, match="pool_mode=session"):
        async with open_audit_database(road.database_url):
            pytest.fail("an audit, which may mend, too, was let in")
    (finding,) = await examine_postgres(road.settings)
    assert "pool_mode=session" in finding.do
    dispatcher = await road.launch("dispatcher")
    log = dispatcher.log_path
    await until(lambda: log.exists() and "pool_mode=session" in log.read_text(), 20, "its log says what to do")
    assert dispatcher.pid is not None  # it waits, as it does for a database that is away
