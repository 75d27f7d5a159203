"""What operators look at every second costs the same beside few and beside very many rows: asserted by buffers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.dispatch_queue import PostgresEvents, ask_columns
from libs.common.adapters.postgres.insight import COUNT_LIMIT, LANE_LIMIT
from libs.common.ports_dispatch import EventKey, LaneAsk
from tests.support.queue_desk import FIRST

_LANES = 20
_FEW = 22_000  #: more than any count goes up to here
_LIMIT = 1_001
_LANE_LIMIT = 100  #: the same for counts of each lane
_SLICE = 100_000
_PUBLIC = UUID("01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10")
_SCENE = f"""
ALTER TABLE dispatch SET (autovacuum_enabled = false); ALTER TABLE task SET (autovacuum_enabled = false);
ALTER TABLE attempt SET (autovacuum_enabled = false);
INSERT INTO tenant (id) SELECT g FROM generate_series(1, 5) g;
INSERT INTO model (id, tenant_id, name, base_url)
SELECT g, 1 + g % 5, 'm' || g, 'http://model' FROM generate_series(1, {_LANES}) g;
INSERT INTO lane (model_id, tenant_id, window_size) SELECT id, tenant_id, 20 FROM model ORDER BY id;
INSERT INTO executor (id, name, slots) SELECT g, 'e' || g, 100 FROM generate_series(1, 4) g;
INSERT INTO process (role, name, broker_reachable) VALUES ('dispatcher', 'd', true), ('janitor', 'j', NULL);
INSERT INTO pause (scope, tenant_id, lane, paused_by, ended)
SELECT 'model', 1, 5, 'ann', now() FROM generate_series(1, 500) g;
INSERT INTO series_mark VALUES (true, date_trunc('minute', now()), date_trunc('hour', now()));
INSERT INTO series (scope, subject, step, at, success, failed, timeout, canceled, lost, wait_at, wait_n, run_at, run_n)
SELECT s.scope, s.subject, 1, date_trunc('minute', now()) - make_interval(mins => g), 9, 1, 0, 0, 0,
  '{{3,9}}', '{{5,5}}', '{{30}}', '{{10}}'
FROM generate_series(1, 1440) g
CROSS JOIN (SELECT 0 AS scope, 0 AS subject UNION ALL SELECT 2, n FROM generate_series(1, {_LANES}) n) s
"""
#: Buffers that any of these touches at most.
_MOST = 3_000
#: $1 and $2: numbers of the rows. One in a thousand in flight; of the dead every fifth number, up to 50,000.
_ROWS = f"""
INSERT INTO task (id, public_id, tenant_id, model_id, lane, status)
SELECT g, gen_random_uuid(), 1 + (1 + g % {_LANES}) % 5, 1 + g % {_LANES}, 1 + g % {_LANES}, 1
FROM generate_series($1::bigint, $2::bigint) g
"""
_DISPATCH = f"""
INSERT INTO dispatch (id, public_id, lane, state, position, due_at)
SELECT g, gen_random_uuid(), 1 + g % {_LANES}, CASE WHEN g % 5 = 0 THEN 3 WHEN g % 7 = 0 THEN 2 ELSE 0 END, g,
  CASE WHEN g % 5 = 0 OR g % 7 = 0 THEN now() + interval '1 hour' END
FROM generate_series($1::bigint, $2::bigint) g
"""
_DEAD = """
INSERT INTO dead_task (task_id, tenant_id, model_id, error_code, version)
SELECT g, 1, 1, 'http_400', 1 FROM generate_series($1::bigint, $2::bigint) g WHERE g % 20 = 0
"""
_ENDED = """
INSERT INTO attempt (task_id, attempt, outcome, entered_at, started_at, ended_at)
SELECT g, 1, 'failed', now(), now(), now() - make_interval(secs => g % 240)
FROM generate_series($1::bigint, $2::bigint) g WHERE g % 20 = 0
"""
_DELIVERIES = """
INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body)
SELECT 1, g % 9, 'l', 'http://x', gen_random_uuid(), g, 't', '{}'
FROM generate_series($1::bigint, $2::bigint) g WHERE g % 20 = 0
"""
_FLYING = """
UPDATE dispatch SET state = 1, lease = 7, leased_at = now(), held_by = 1 + id % 4 WHERE id <= 240 AND state = 0
"""
#: Events that die while an ACL of their topic is lost for an hour.
_DIED = 50_000
_EXPIRED = """
UPDATE task SET status = 6, finished_at = now() - interval '1 day',
  expire_at = now() - make_interval(secs => 99999 - id)
"""
_EVENTS = """
INSERT INTO event (task_id, version, status, attempt) SELECT g, 1, 6, 1 FROM generate_series($1::bigint, $2::bigint) g
"""


async def _fill(connection: Any, first: int, last: int) -> None:
    for start in range(first, last + 1, _SLICE):  # hot connections give up after 20 s
        end = min(start + _SLICE - 1, last)
        for statement in (_ROWS, _DISPATCH, _DEAD, _ENDED, _DELIVERIES):
            await connection.execute(statement.replace("$1", str(start)).replace("$2", str(end)))


def _statements() -> dict[str, tuple[Any, ...]]:
    """What is asked every second, or by every `why`."""
    lanes = list(range(1, _LANES + 1))
    return {
        "why_task": (None, _PUBLIC),
        "place_of": (5, 1, 0, 2**62, 1_001),
        "lanes_after": (2, 0, 101),
        "busy_lanes_after": (None, 0, 101),
        "lane_facts": (lanes, LANE_LIMIT + 1),
        "lane_waits": (5, 101),
        "recent_ends": (5, 500),
        "open_pauses": (1,),
        "executors_live": (),
        "executors_models": (20_000,),
        "processes_seen": (),
        "outbox_channels": (_LIMIT,),
        "overview_counts": (_LIMIT,),
        "lane_backlogs": (_LANE_LIMIT,),
        "series_settled": (5.0,),
        "beat": (1, 0, 0, "reading", "e"),
        "lease_due": (*ask_columns([LaneAsk(lane, 50, 0, FIRST, FIRST) for lane in lanes]), 500, 1, []),
    }


@pytest.fixture
async def hot(database_url: str) -> AsyncIterator[tuple[Database, Any]]:
    """A connection as the hot pool has them."""
    async with open_database(database_url) as database, database.pool.acquire() as connection:
        yield database, connection


async def buffers(database: Database, connection: Any, name: str, arguments: tuple[Any, ...]) -> int:
    transaction = connection.transaction()
    await transaction.start()
    try:
        text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {database.statement(name)}"
        plan = json.loads(await connection.fetchval(text, *arguments))[0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("many", [66_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
async def test_looking_costs_the_same_beside_few_and_beside_very_many(hot: tuple[Database, Any], many: int) -> None:
    database, connection = hot
    await connection.execute(_SCENE)
    await _fill(connection, 1, _FEW)
    await connection.execute("UPDATE task SET public_id = $1 WHERE id = 777", _PUBLIC)
    await connection.execute(_FLYING)
    await connection.execute("VACUUM ANALYZE")
    few = {name: await buffers(database, connection, name, given) for name, given in _statements().items()}
    await _fill(connection, _FEW + 1, many)
    await connection.execute("VACUUM ANALYZE")
    cost = {name: await buffers(database, connection, name, given) for name, given in _statements().items()}
    assert {name: (few[name], cost[name]) for name in cost if cost[name] > 1.5 * few[name] + 50} == {}
    assert {name: cost[name] for name in cost if cost[name] > _MOST} == {}
    counting = ("overview_counts", "outbox_channels", "lane_backlogs")
    real = [await buffers(database, connection, name, (COUNT_LIMIT + 1,)) for name in counting]
    assert max(real) < COUNT_LIMIT


async def test_events_that_died_cost_nobody_who_looks_at_the_others(hot: tuple[Database, Any]) -> None:
    database, connection = hot
    await connection.execute(_SCENE)
    await connection.execute(_ROWS.replace("$1", "1").replace("$2", str(_DIED + 300)))
    await connection.execute(_EXPIRED)
    looks: dict[str, tuple[Any, ...]] = {
        "overview_counts": (_LIMIT,),
        "outbox_channels": (_LIMIT,),
        "outbox_figures": (_LIMIT,),
        "events_after": (0, 500, [], [], []),
        "events_due": (500,),
        "expired_tasks": (datetime(1970, 1, 1, tzinfo=UTC), 0, 500),
        "dead_over": (0, 500),
        "delete_tasks": (list(range(_DIED + 1, _DIED + 201)), [1] * 200),
    }
    await connection.execute(_EVENTS.replace("$1", str(_DIED + 201)).replace("$2", str(_DIED + 300)))
    await connection.execute("VACUUM ANALYZE")
    few = {name: await buffers(database, connection, name, given) for name, given in looks.items()}
    await connection.execute("ALTER SEQUENCE event_ids RESTART WITH 1000")
    await connection.execute("UPDATE event SET id = id + 1000000")  # those that died came first
    await connection.execute(_EVENTS.replace("$1", "1").replace("$2", str(_DIED)))
    rows = await connection.fetch("SELECT id, finished_at FROM event WHERE id < 1000000 ORDER BY id")
    for start in range(0, len(rows), 500):
        refused = [(EventKey(*row), 1.0, "not authorized") for row in rows[start : start + 500]]
        assert len(await PostgresEvents(database).refused(refused, 1)) == len(refused)
    await connection.execute("VACUUM ANALYZE")
    cost = {name: await buffers(database, connection, name, given) for name, given in looks.items()}
    # tasks on their way out ask for their own event each: a few pages more than where there is none
    assert {name: (few[name], cost[name]) for name in cost if cost[name] > 1.5 * few[name] + 1_000} == {}


async def test_a_forgotten_vacuum_makes_looking_no_dearer_than_its_counts(hot: tuple[Database, Any]) -> None:
    database, connection = hot
    await connection.execute(_SCENE)
    await _fill(connection, 1, _FEW)
    await connection.execute("ANALYZE")
    cost = await buffers(database, connection, "overview_counts", (COUNT_LIMIT + 1,))
    assert cost < 7 * COUNT_LIMIT


async def test_folding_a_minute_reads_that_minute(hot: tuple[Database, Any]) -> None:
    database, connection = hot
    await connection.execute(_SCENE)
    await _fill(connection, 1, _FEW)
    await connection.execute("UPDATE series_mark SET upto = date_trunc('minute', now()) - interval '1 minute'")
    await connection.execute("DELETE FROM series WHERE at >= date_trunc('minute', now()) - interval '1 minute'")
    await connection.execute("VACUUM ANALYZE")
    settled = await connection.fetchval("SELECT now()")
    cost = await buffers(database, connection, "fold_series", (settled, 5, [], [], []))
    await connection.execute(
        "INSERT INTO attempt (task_id, attempt, outcome, ended_at)"
        " SELECT g, 2, 'failed', now() - make_interval(secs => 600 + g % 9000) FROM generate_series(1, 22000) g"
    )
    await connection.execute("VACUUM ANALYZE attempt")
    assert await buffers(database, connection, "fold_series", (settled, 5, [], [], [])) < 1.2 * cost + 50
