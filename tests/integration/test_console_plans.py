"""What the console asks of PostgreSQL by itself costs the same, however much is stored."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from libs.common.adapters.postgres.statements import load_statements

STORED = """
INSERT INTO tenant (id) SELECT g FROM generate_series(1, 3000) g;
INSERT INTO api_key (tenant_id, digest, scopes)
SELECT g, sha256(g::text::bytea), '{read}' FROM generate_series(1, 3000) g;
INSERT INTO console_session (digest, key_id, expires_at)
SELECT sha256(g::text::bytea), 1 + g % 3000, now() + interval '1 hour' * (CASE WHEN g < 5000 THEN -1 ELSE 1 END)
FROM generate_series(1, 20000) g;
INSERT INTO model (tenant_id, name, base_url)
SELECT 1 + g % 20, 'm' || g, 'http://model' FROM generate_series(1, 10000) g;
INSERT INTO model_stat (day, tenant_id, creator, model_name, request_count)
SELECT current_date, 1 + g % 20, 'c' || g, 'm', 3 FROM generate_series(1, 40000) g;
INSERT INTO task (id, public_id, tenant_id, model_id, lane, status)
SELECT g, md5(g::text)::uuid, 1, 1, 1, 1 FROM generate_series(1, 30000) g;
INSERT INTO webhook (tenant_id, kind, url, secrets) SELECT 1, 'endpoint', 'http://h', '' FROM generate_series(1, 50);
INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, status, next_at, ended_at,
                      dead_at)
SELECT 1, 1 + g % 50, '', '', gen_random_uuid(), g || ':1', 'task.failed', repeat('x', 500),
  CASE g % 3 WHEN 0 THEN 'dead' ELSE 'pending' END, CASE g % 3 WHEN 0 THEN NULL ELSE now() END,
  CASE g % 3 WHEN 0 THEN now() END, CASE g % 3 WHEN 0 THEN now() - make_interval(secs => g) END
FROM generate_series(1, 60000) g;
INSERT INTO task_input SELECT id, convert_to(repeat(md5(id::text), 100), 'UTF8') FROM task;
ANALYZE;
"""
DIGEST = bytes(32)
TASK = UUID("c4ca4238-a0b9-2382-0dcc-509a6f75849b")  # md5 of 1
#: Statement, its arguments in the order of their names in it, and the most pages that it may look at.
ASKED = {
    "find_session": ([DIGEST], 20),
    "close_session": ([DIGEST], 20),
    "open_session": ([DIGEST, DIGEST, 60, ["read"]], 700),  # forgets a hundred that are over on the way
    "payload_head": ([65_536, 1, TASK], 30),
    "webhook_counts": ([1, 1_001], 53_000),  # a thousand rows of each of fifty webhooks, one on each page if need be
    "list_tenants": ([0, 51, "UTC"], 4_000),  # each with a hundred models and two hundred rows of today at most
}


@pytest.fixture
async def stored(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    await connection.execute(STORED)
    yield connection
    await connection.close()


async def test_pages_of_the_console_cost_the_same_however_much_is_stored(stored: Any) -> None:
    statements = load_statements()
    costs = {}
    for name, (arguments, _) in ASKED.items():
        asked = stored.transaction()
        await asked.start()
        answer = await stored.fetchval(
            "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + _numbered(statements[name]), *arguments
        )
        await asked.rollback()
        plan = json.loads(answer)[0]["Plan"]
        costs[name] = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    assert {name: cost for name, cost in costs.items() if cost > ASKED[name][1]} == {}


def _numbered(text: str) -> str:
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        return f"${names.setdefault(match.group(1), len(names) + 1)}"

    return re.sub(r"(?<!:):([a-z_]+)", number, text)
