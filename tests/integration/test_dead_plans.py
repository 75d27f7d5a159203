"""What lists of the dead, their jobs and waiting deliveries cost with 50,000 of each: bounded, by buffers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.statements import load_statements
from tests.support import servers
from tests.support.looks import Look, buffers_of, plan_of

DEAD = 50_000
STORED = f"""
INSERT INTO tenant (id) SELECT generate_series(1, 20);
INSERT INTO model (id, tenant_id, name, base_url)
SELECT g, 1 + g % 20, 'm' || g, 'http://m' FROM generate_series(1, 40) g;
INSERT INTO lane (model_id, tenant_id, window_size) SELECT id, tenant_id, 4 FROM model ORDER BY id;
INSERT INTO task (id, public_id, tenant_id, model_id, lane, status, finished_at, error_code, error_message)
SELECT g, gen_random_uuid(), m.tenant_id, m.id, m.id, 7, now(), 'http_503', 'the model answered 503'
FROM generate_series(1, {DEAD}) g JOIN model m ON m.id = 1 + g % 40;
INSERT INTO task_input SELECT id, '' FROM task;
INSERT INTO dead_task (task_id, tenant_id, model_id, died_at, error_code, version)
SELECT id, tenant_id, model_id, now() - make_interval(secs => id),
  CASE WHEN id % 5000 = 0 THEN 'rare' ELSE 'http_503' END, 1 FROM task;
INSERT INTO replay_job (action, kind, asked, most, rate, reason, asked_by, total)
VALUES ('replay', 'task', '{{}}', 100000, 100, 'r', 'b', 25000);
INSERT INTO replay_item (job_id, kind, target, lane, public_id, error_code)
SELECT 1, 'task', id, lane, public_id::text, 'x' FROM task WHERE id % 2 = 0;
INSERT INTO webhook (tenant_id, kind, url, secrets)
SELECT g, CASE g WHEN 20 THEN 'tasks' ELSE 'endpoint' END, CASE g WHEN 20 THEN '' ELSE 'http://h' END, ''
FROM generate_series(1, 20) g;
INSERT INTO pause (scope, tenant_id, lane, webhook_id, paused_by, ended)
SELECT CASE g % 2 WHEN 0 THEN 'model' ELSE 'webhook' END, g % 7, CASE g % 2 WHEN 0 THEN g END,
  CASE g % 2 WHEN 1 THEN 20 + g END, 'x', CASE WHEN g > 500 THEN now() END
FROM generate_series(1, 50000) g;
INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, next_at)
SELECT 1 + g % 20, 1 + g % 20, CASE g % 20 WHEN 19 THEN 'host ' || g % 7 ELSE '' END, '',
  gen_random_uuid(), g || ':1', 'task.failed', '{{}}',
  now() + make_interval(secs => CASE WHEN g % 20 < 10 THEN 3600 ELSE -g END)
FROM generate_series(1, {DEAD}) g;
INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, status, next_at, last_code,
                      last_error, ended_at, dead_at, dropped_at)
SELECT tenant_id, 1, '', '', public_id, id || ':1', 'task.failed', repeat('x', 500), 'dead', NULL, 500, 'no', now(),
  now() - make_interval(secs => id), CASE WHEN id % 10 = 1 THEN now() END FROM task;
INSERT INTO dead_event (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends, last_error,
                        dead_at, dropped_at)
SELECT id, id, tenant_id, model_id, 1, 7, 1, now(), 20, 'too large', now() - make_interval(secs => id),
  CASE WHEN id % 10 = 1 THEN now() END FROM task;
INSERT INTO dead_message (topic, "partition", "offset", digest, value, size, code, cause, died_at, settled_at)
SELECT 't', 0, id, '', 'x', 1, 'not_json', 'not JSON', now() - make_interval(secs => id),
  CASE WHEN id % 10 = 1 THEN now() END FROM task;
UPDATE dead_task SET dropped_at = now() WHERE task_id % 10 = 1;
"""
_ALL = {
    "tenant_id": "NULL",
    "at": "'9999-01-01'",
    "id": "-1",
    "since": "'1000-01-01'",
    "code": "NULL",
    "model": "NULL",
    "model_id": "NULL",
    "part": "NULL",
}
_GROUPS = {name: value for name, value in _ALL.items() if name != "id"} | {"limit": "200", "examine": "50000"}
_PAGE = {**_ALL, "limit": "51", "examine": "51"}
_FEWER = {**_GROUPS, "examine": "10000"}
_DELIVERIES = {**_PAGE, "webhook": "NULL"}

_ORDER = {str(nth): "NULL" for nth in range(1, 13)} | {
    "1": "'task'", "6": "'1000-01-01'", "7": "'9999-01-01'", "9": "1000", "12": "true",
}  # fmt: skip


def _unowned(values: dict[str, str]) -> dict[str, str]:
    """Messages are of no tenant and no model."""
    return {name: value for name, value in values.items() if name not in ("tenant_id", "model", "model_id")}


#: What is asked, and the most pages that it may touch. Counting causes and looking for a rare one walk the list's index
#: over 50,000 narrow rows at most: some 12,000 pages where these lie scattered, a few hundred where they lie together.
LOOKS: dict[str, Look] = {
    "a page": ("dead_tasks", _PAGE, 800),
    "a tenant's page": ("dead_tasks", {**_PAGE, "tenant_id": "7"}, 800),
    "a rare code": ("dead_tasks", {**_ALL, "code": "'rare'", "limit": "51", "examine": "50000"}, 12_000),
    "groups": ("dead_task_groups", _GROUPS, 12_000),
    "a tenant's groups": ("dead_task_groups", {**_GROUPS, "tenant_id": "7"}, 3_000),
    "a page of events": ("dead_events", _PAGE, 800),
    "a tenant's page of events": ("dead_events", {**_PAGE, "tenant_id": "7"}, 800),
    "groups of events": ("dead_event_groups", _FEWER, 12_000),
    "a tenant's groups of events": ("dead_event_groups", {**_FEWER, "tenant_id": "7"}, 3_000),
    "a page of deliveries": ("dead_deliveries", _DELIVERIES, 800),
    "a tenant's page of deliveries": ("dead_deliveries", {**_DELIVERIES, "tenant_id": "7"}, 800),
    "a webhook's page of deliveries": ("dead_deliveries", {**_DELIVERIES, "webhook": "1"}, 800),
    "a webhook's groups of deliveries": ("dead_delivery_groups", {**_FEWER, "webhook": "1"}, 60_000),
    "deliveries of a model": ("dead_deliveries", {**_DELIVERIES, "model_id": "7", "examine": "10000"}, 48_000),
    "deliveries of a model's name": ("dead_deliveries", {**_DELIVERIES, "model": "'m7'", "examine": "10000"}, 48_000),
    "tasks by a part of a message": ("dead_tasks", {**_PAGE, "part": "'gpu'", "examine": "10000"}, 60_000),
    "groups by a part of a message": ("dead_task_groups", {**_FEWER, "part": "'gpu'"}, 60_000),
    "events by a part of a message": ("dead_events", {**_PAGE, "part": "'gpu'", "examine": "10000"}, 12_000),
    "deliveries by a part": ("dead_deliveries", {**_DELIVERIES, "part": "'gpu'", "examine": "10000"}, 12_000),
    "messages by a part": ("dead_messages", _unowned({**_PAGE, "part": "'gpu'", "examine": "10000"}), 12_000),
    "groups of deliveries": ("dead_delivery_groups", {**_FEWER, "webhook": "NULL"}, 60_000),
    "a tenant's groups of deliveries": (
        "dead_delivery_groups",
        {**_FEWER, "webhook": "NULL", "tenant_id": "7"},
        20_000,
    ),
    "a page of messages": ("dead_messages", _unowned(_PAGE), 800),
    "groups of messages": ("dead_message_groups", _unowned(_FEWER), 12_000),
    "a page of a tenant that has none": ("dead_tasks", {**_PAGE, "tenant_id": "99"}, 20),
    "its groups": ("dead_task_groups", {**_GROUPS, "tenant_id": "99"}, 20),
    "its page of events": ("dead_events", {**_PAGE, "tenant_id": "99"}, 20),
    "its page of deliveries": ("dead_deliveries", {**_DELIVERIES, "tenant_id": "99"}, 20),
    "its counts of webhooks": ("webhook_counts", {"tenant_id": "99", "most": "1000"}, 20),
    "jobs": ("replay_jobs", {"tenant_id": "NULL", "before": "100", "limit": "51"}, 20),
    "items": ("replay_items", {"job": "1", "after": "0", "limit": "1001"}, 200),
    "what a janitor takes": ("take_replay_jobs", {"1": "gen_random_uuid()", "2": "'{task}'", "3": "10"}, 60),
    "what is due": ("replay_due", {"1": "1", "2": "500", "3": "'{1,3}'"}, 9_000),
    "what webhooks send next": (
        "due_deliveries",
        {"1": "4", "2": "200", "3": "0", "4": "50", "5": "'{20}'", "6": "'{host 2}'", "7": "32"},
        600,
    ),
    "whether a job is done": ("finish_replay", {"1": "1"}, 20),
}


@pytest.fixture(scope="module")
def plans_database(postgres_server: str, template_database: str) -> Iterator[str]:
    with servers.clone(postgres_server, template_database) as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stored(plans_database: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(plans_database)
    try:
        await connection.execute(STORED)
        await connection.execute("VACUUM ANALYZE")
        yield connection
    finally:
        await connection.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
async def test_a_look_costs_a_bounded_number_of_pages(stored: Any, look: str, plan: str) -> None:
    name, values, most = LOOKS[look]
    await stored.execute(f"SET plan_cache_mode = {plan}")
    found = await plan_of(stored, load_statements()[name], values)
    assert buffers_of(found) <= most, found[:4_000]


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("part", ["NULL", "'gpu'"])
async def test_a_dry_run_looks_at_all_that_is_dead_once_whatever_it_is_asked(plans_database: str, part: str) -> None:
    async with open_database(plans_database) as database, database.pool.acquire() as connection:
        found = await plan_of(connection, database.statement("replay_selection"), {**_ORDER, "8": part})
    assert buffers_of(found) <= 12 * DEAD, found[:4_000]
