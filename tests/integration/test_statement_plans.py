"""What runs all the time reads what is in flight or asked for, never the whole queue, whatever the statistics say."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.statements import load_statements

READY = 5_000
IN_FLIGHT = 40
#: Rows that one statement may look at here: several looks at what is in flight, nothing like the whole queue.
FEW = 10 * IN_FLIGHT
QUEUE = f"""
INSERT INTO tenant (id) VALUES (1);
INSERT INTO model (id, tenant_id, name, base_url) SELECT g, 1, 'm' || g, 'http://model' FROM generate_series(1, 20) g;
INSERT INTO lane (model_id, tenant_id, window_size) SELECT id, 1, 4 FROM model ORDER BY id;
INSERT INTO task (id, public_id, tenant_id, model_id, lane, status)
SELECT g, gen_random_uuid(), 1, 1 + g % 20, 1 + g % 20, 1 FROM generate_series(1, {READY + IN_FLIGHT}) g;
INSERT INTO task_input SELECT id, '' FROM task;
INSERT INTO dispatch (id, public_id, lane, state, position) SELECT id, public_id, lane, 0, id FROM task;
INSERT INTO executor (id, name, slots) VALUES (1, 'one', 9);
INSERT INTO cancel_request (task_id) VALUES (1), (120), (121);
INSERT INTO lease (id, dispatcher, taken_at) VALUES (7, 1, now() - interval '1 hour');
UPDATE dispatch SET state = 1, lease = 6 + id % 2, leased_at = now() - interval '1 hour'
  WHERE id % {READY // IN_FLIGHT + 1} = 0;
UPDATE dispatch SET held_by = 1 WHERE state = 1 AND id % 3 = 0;
UPDATE dispatch SET token = gen_random_uuid(), executor = 1, started_at = now(), until = now()
  WHERE state = 1 AND id % 3 = 1;
"""
OPERATIONS = f"""
INSERT INTO op_log (tenant_id, task_id, success) SELECT 1, public_id, true FROM task;
INSERT INTO op_log_mark (upto, candidate, horizon, marked_at)
VALUES ({READY}, {READY + IN_FLIGHT}, '3', now() - interval '1 hour');
"""
STATEMENTS = {
    "fill_operations": "20, 5",
    "prune_operations": "30, 20, 0",
    "mark_operations": "",
    "beat": "1, 0, 0, 'reading', 'e'",
    "named_rows": "1",
    "heal_leases": "60",
    "republish_lost": "30, 100",
    "unclaimed_partitions": "",
    "handed_rows": "1",
    "executors_with_work": "",
    "rescue_held": "'{1}'",
    "rescue_running": "'{1}', 3",
    "lost_for_good": "'{1}', 0",
    "overdue_running": "0, 0, 100",
    "requested_waiting": "100",
    "prune_cancel_requests": "",
    "lanes_with_work": "",
    "lane_backlogs": "100",
    "lanes_in_flight": "",
    "unwanted_permits": "50",
    "unwanted_jobs": "50, 60, 4, '{test}', '{1}', '{2}'",
    "prune_callbacks": "20",
    "states_by_id": "'{1,1}', '{1,2}'",
    "newest_states": "1, 9223372036854775807, 50",
}


@pytest.fixture
async def queue(database_url: str) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[Any]]:
    """A connection as the hot pool has them, to a queue of which little is in flight."""
    async with open_database(database_url) as database, database.pool.acquire() as connection:
        await connection.execute("ALTER TABLE dispatch SET (autovacuum_enabled = false)")
        await connection.execute(QUEUE + OPERATIONS)
        for name, arguments in STATEMENTS.items():
            await connection.execute(f"PREPARE {name} AS {database.statement(name)}")
            assert arguments or "$1" not in database.statement(name)
        yield connection


async def rows_read(connection: Any, name: str, arguments: str | None = None) -> int:
    arguments = STATEMENTS[name] if arguments is None else arguments
    asked = connection.transaction()
    await asked.start()
    try:
        call = f"{name}({arguments})" if arguments else name
        answer = await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE {call}")
    finally:
        await asked.rollback()
    return _read(json.loads(answer)[0]["Plan"])


def _read(node: dict[str, Any]) -> int:
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Join Filter", 0)
    here = (node["Actual Rows"] + removed) * node["Actual Loops"] if "Relation Name" in node or removed else 0
    return int(here) + sum(_read(child) for child in node.get("Plans", ()))


async def test_no_statement_of_every_second_walks_the_queue(queue: Any) -> None:
    blind = {name: await rows_read(queue, name) for name in STATEMENTS}
    await queue.execute("ANALYZE")
    informed = {name: await rows_read(queue, name) for name in STATEMENTS}
    await queue.execute("TRUNCATE cancel_request; ANALYZE cancel_request")
    unasked = {name: await rows_read(queue, name) for name in STATEMENTS}
    walks = {
        name: (blind[name], informed[name], unasked[name])
        for name in STATEMENTS
        if max(blind[name], informed[name], unasked[name]) > FEW
    }
    assert not walks


TOKEN = "00000000-0000-4000-8000-000000000001"
JOBS = f"""
INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, permit_token, deadline, ended_at)
  SELECT g, 1, 1, gen_random_uuid(), 'a', true, gen_random_uuid(), now(), CASE WHEN g > 1 THEN now() END
  FROM generate_series(1, {READY}) g;
UPDATE dispatch SET state = 1, lease = 9, attempt = 1, phase = 1, job = 1, token = '{TOKEN}', executor = 1,
  started_at = now() WHERE id = 1;
"""
ENDS_OF_JOBS = {
    "generated_many": f"'{{1}}', '{{{TOKEN}}}', '{{a}}', '{{1}}', '{{x}}', '{{a b}}', ARRAY[NULL]::bytea[],"
    " ARRAY[NULL]::text[]",
    "finish_many": f"'{{1}}', '{{{TOKEN}}}', '{{9}}', '{{c}}', '{{m}}', ARRAY[NULL]::text[], ARRAY[NULL]::text[],"
    " ARRAY[NULL]::bigint[], ARRAY[NULL]::text[], '{f}', '{t}', 'UTC'",
    "retry_many": f"'{{1}}', '{{{TOKEN}}}', '{{1}}', '{{t}}', '{{c}}', '{{m}}', '{{f}}', '{{t}}', 'UTC'",
    "release_started": f"'{{1}}', '{{{TOKEN}}}', '{{0}}', '{{f}}', '{{r}}', 'UTC'",
    "job_news": f"'{{1}}', '{{{TOKEN}}}', '{{p}}', '{{queued}}', '{{1}}', '{{m}}', '{{t}}'",
    "resume_jobs": f"'{{1}}', '{{{TOKEN}}}', 600",
    "live_permits": "1",
    "absent_permits": f"1, '{{{TOKEN}}}'",
}


async def test_no_end_of_a_job_walks_the_jobs(queue: Any, database_url: str) -> None:
    await queue.execute(JOBS)
    async with open_database(database_url) as database:
        for name in ENDS_OF_JOBS:
            await queue.execute(f"PREPARE {name} AS {database.statement(name)}")
    blind = {name: await rows_read(queue, name, given) for name, given in ENDS_OF_JOBS.items()}
    await queue.execute("ANALYZE")
    read = {name: max(blind[name], await rows_read(queue, name, given)) for name, given in ENDS_OF_JOBS.items()}
    assert {name: rows for name, rows in read.items() if rows > FEW} == {}


IN_HAND = f"""
INSERT INTO replay_item (job_id, kind, target, public_id, error_code)
  SELECT 1, k.kind, 1000000 * k.n + g, '', '' FROM generate_series(1, {READY}) g,
    unnest('{{task,event,delivery,message}}'::text[]) WITH ORDINALITY AS k(kind, n);
INSERT INTO task (id, public_id, tenant_id, model_id, lane, status, finished_at)
  SELECT 90000 + g, gen_random_uuid(), 1, 1, 1, 7, now() - interval '40 days' FROM generate_series(1, 20) g;
INSERT INTO dead_task (task_id, tenant_id, model_id, died_at, error_code, version)
  SELECT id, 1, 1, finished_at, 'e', version FROM task WHERE id > 90000;
INSERT INTO dead_event
  (id, task_id, tenant_id, model_id, version, status, attempt, finished_at, sends, last_error, dead_at)
  SELECT g, g, 1, 1, 1, 6, 1, now(), 20, 'no', now() - interval '31 days' FROM generate_series(1, 20) g;
INSERT INTO dead_message (topic, "partition", "offset", digest, cause, died_at)
  SELECT 't', 0, g, '', 'c', now() - interval '31 days' FROM generate_series(1, 20) g;
INSERT INTO delivery
  (tenant_id, webhook_id, line, url, task_id, message_id, type, body, status, next_at, ended_at, dead_at)
  SELECT 1, 1, '', '', gen_random_uuid(), '', '', '', 'dead', NULL, at, at
  FROM (SELECT now() - interval '31 days' AS at FROM generate_series(1, 20)) x;
"""
BESIDE_JOBS = {
    "dead_over": "30, 20",
    "delete_tasks": f"ARRAY{[*range(90001, 90021)]}, ARRAY{[1] * 20}",
    "prune_dead_events": "30, 20",
    "prune_dead_messages": "30, 20",
    "prune_deliveries": "30, 30, 20",
    "create_replay_items": "'event', NULL, NULL, NULL, NULL, '-infinity', 'infinity', NULL, 20, NULL, NULL, 2",
}


async def test_whether_a_job_has_it_in_hand_is_looked_up_whatever_the_statistics_say(
    queue: Any, database_url: str
) -> None:
    await queue.execute("ALTER TABLE replay_item SET (autovacuum_enabled = false)")
    await queue.execute("VACUUM (ANALYZE)")
    async with open_database(database_url) as database:
        for name, given in BESIDE_JOBS.items():
            await queue.execute(f"PREPARE {name} AS {database.statement(name)}")
            await rows_read(queue, name, given)
    await queue.execute(IN_HAND)
    read = {name: await rows_read(queue, name, given) for name, given in BESIDE_JOBS.items()}
    assert {name: rows for name, rows in read.items() if rows > FEW} == {}
    assert read["prune_dead_events"] >= 20, "there is something to look up"


#: Tables that hold next to nothing when nothing happens, or grow for ever: the statistics may say one row where a burst
#: has left ten thousand, until PostgreSQL looks again a minute later.
GROWING = {
    "attempt", "cancel_request", "dead_event", "dead_message", "dead_task", "delivery", "dispatch", "event", "history",
    "idempotency", "job_callback", "lease", "op_log", "provider_job", "quota_usage", "replay_item", "series",
    "staged_output", "stat_delta", "task", "task_input", "task_secret",
}  # fmt: skip
_SCANS = ("Seq Scan", "Index Scan", "Index Only Scan")
#: Statements that walk an index of such a table once, on purpose, and of which table.
WALKS = {
    # All that is in flight, and nothing else lies in the index.
    "executors_models": {"dispatch"},
    "handed_rows": {"dispatch"},
    "lost_for_good": {"dispatch"},
    "named_rows": {"dispatch"},
    "overdue_running": {"dispatch"},
    "republish_lost": {"dispatch"},
    "rescue_held": {"dispatch"},
    "rescue_running": {"dispatch"},
    "beat": {"cancel_request"},
    "requested_waiting": {"cancel_request"},
    "heal_leases": {"lease"},
    "unwanted_jobs": {"provider_job"},
    "unwanted_permits": {"provider_job"},
    # From the beginning to the first that is asked for, or in slices.
    "bury_deliveries": {"delivery"},
    "create_replay_items": {"dead_task"},
    "dead_over": {"event"},
    "delete_tasks": {"event"},
    "expired_tasks": {"event"},
    "fold_statistics": {"stat_delta"},
    "lane_backlogs": {"dispatch"},
    "outbox_channels": {"dead_event", "delivery", "dispatch", "event", "lease"},
    "outbox_figures": {"delivery", "event", "lease"},
    "overview_counts": {"dead_task", "dispatch", "event"},
    "prune_callbacks": {"job_callback"},
    "prune_dead_messages": {"dead_message"},
    "replay_selection": {"dead_task", "delivery"},
    "series_rows": {"series"},
    "unlettered_messages": {"dead_message"},
}
#: By hand, in slices over everything: `sluiceway audit` and the import from an old gateway.
BY_HAND = ("audit_", "fix_", "import_", "legacy_", "open_without_credential", "newest_credentials")
#: What the statistics say, one after the other: nothing yet; that little is in flight; that nothing is; that there are
#: hardly any tasks.
STATISTICS = {
    "none": "",
    "little in flight": "DELETE FROM dispatch WHERE id > 2",
    "nothing in flight": "DELETE FROM dispatch; DELETE FROM lease; DELETE FROM cancel_request",
    "few tasks": "DELETE FROM task WHERE id > 60; DELETE FROM task_input WHERE task_id > 60",
}


def walked(node: dict[str, Any]) -> Iterator[str]:
    """Growing tables that a plan reads without a condition on an index."""
    if node["Node Type"] in _SCANS and node["Relation Name"] in GROWING and "Index Cond" not in node:
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from walked(child)


async def test_no_plan_of_a_batch_depends_on_the_statistics(queue: Any) -> None:
    """A join to a growing table must not be planned from that table's side: with 500 rows in hand and 5,000 in the
    table it took 700 ms instead of 9. `x = ANY (ARRAY[y])` and laterals leave only the index to look each row up."""
    statements = load_statements()
    asked = [name for name in statements if "$1" in statements[name] and not name.startswith(BY_HAND)]
    for name in asked:
        await queue.execute(f"PREPARE plan_{name} AS {statements[name]}")
    found: dict[str, set[str]] = {}
    for change in STATISTICS.values():
        if change:
            await queue.execute(change)
            await queue.execute("VACUUM (ANALYZE, TRUNCATE off)")
        for name in asked:
            values = ", ".join(["NULL"] * max(int(number) for number in re.findall(r"\$(\d+)", statements[name])))
            plan = await queue.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE plan_{name}({values})")
            found.setdefault(name, set()).update(walked(json.loads(plan)[0]["Plan"]))
    assert {name: tables for name, tables in found.items() if tables} == WALKS
