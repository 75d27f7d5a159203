"""What lists and pages ask of PostgreSQL beside very many tasks, and what each costs: for tests and a docs page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from libs.common.adapters.postgres.tasks import EXAMINE_LIMIT

#: Statement, its arguments as they are written in SQL, and the most buffers that it may touch, whatever is stored.
Look: TypeAlias = tuple[str, Mapping[str, str], int]

_TENANTS: Final = 20
_MODELS: Final = 200
_SLICE: Final = 100_000
#: Every twentieth task waits; the others have ended after an attempt. Tenant 1 has half of everything.
_KINDS: Final = f"""
ALTER TABLE task SET (autovacuum_enabled = false); ALTER TABLE dispatch SET (autovacuum_enabled = false);
INSERT INTO tenant (id) SELECT generate_series(1, {_TENANTS});
INSERT INTO model (id, tenant_id, name, base_url)
SELECT g, CASE g % 2 WHEN 0 THEN 1 ELSE 1 + g % {_TENANTS} END, 'm' || g, 'http://m'
FROM generate_series(1, {_MODELS}) g;
INSERT INTO lane (model_id, tenant_id, window_size) SELECT id, tenant_id, 4 FROM model ORDER BY id;
INSERT INTO executor (id, name, slots) VALUES (1, 'one', 9);
INSERT INTO operator_action (done_by, action, tenant_id, subject)
SELECT 'ann', 'pause', 1 + g % {_TENANTS}, 'model m' FROM generate_series(1, 50000) g;
INSERT INTO quota_limit (tenant_id, user_name, points_per_day) SELECT 1, 'u' || g, 5 FROM generate_series(1, 20000) g;
INSERT INTO webhook (tenant_id, kind, url, secrets) SELECT 1, 'endpoint', 'http://h', '' FROM generate_series(1, 50);
INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body)
SELECT 1, 1 + g % 50, '', '', gen_random_uuid(), g || ':1', 'task.failed', repeat('x', 500)
FROM generate_series(1, 50000) g;
"""
_TASKS: Final = f"""
INSERT INTO task (id, public_id, tenant_id, model_id, lane, status, biz_name, finished_at)
SELECT g, md5(g::text)::uuid, m.tenant_id, m.id, m.id, CASE WHEN g % 20 = 0 THEN 1 ELSE 6 END, 'b' || g % 1000,
  CASE WHEN g % 20 > 0 THEN now() END
FROM generate_series($1, $2) g JOIN model m ON m.id = 1 + g % {_MODELS};
INSERT INTO dispatch (id, public_id, lane, state, position)
SELECT id, public_id, lane, 0, id FROM task WHERE id BETWEEN $1 AND $2 AND status = 1;
INSERT INTO attempt (task_id, attempt, outcome, executor, entered_at, started_at)
SELECT id, 1, 'success', 1, now(), now() FROM task WHERE id BETWEEN $1 AND $2 AND status = 6;
INSERT INTO history (task_id, kind, attempt, version) SELECT g, 'retry', 1, 2 FROM generate_series($1, $2, 10) g;
INSERT INTO op_log (tenant_id, task_id, success, biz_name)
SELECT tenant_id, public_id, true, biz_name FROM task WHERE id BETWEEN $1 AND $2;
INSERT INTO task_input SELECT g, 'a payload' FROM generate_series($1, $2, 10) g;
"""


_TASK: Final = "md5('1')::uuid"
_PAGE: Final = {"tenant_id": "1", "before": "9223372036854775807", "examine": "51", "limit": "51"}
_NEWEST: Final = {name: _PAGE[name] for name in ("tenant_id", "before", "limit")}
_ANY: Final = {"model_name": "NULL", "statuses": "NULL", "biz_name": "NULL"}
_LOOKED: Final = {"examine": str(EXAMINE_LIMIT)}
_NARROW: Final = {**_PAGE, **_ANY, **_LOOKED}
_ONE: Final = {"tenant_id": "1", "public_id": _TASK}
LOOKS: Final[dict[str, Look]] = {
    "a page of tasks": ("list_tasks", {**_PAGE, **_ANY}, 1_500),
    "a page of tasks from the middle": ("list_tasks", {**_PAGE, **_ANY, "before": "10000"}, 1_500),
    "a page of a tenant that has none": ("list_tasks", {**_PAGE, **_ANY, "tenant_id": "99"}, 20),
    "tasks of one model": ("list_tasks", {**_NARROW, "model_name": "'m4'"}, 60_000),
    "tasks of a model of others": ("list_tasks", {**_NARROW, "model_name": "'m1'"}, 60_000),
    "tasks of a rare name": ("list_tasks", {**_NARROW, "biz_name": "'x'"}, 60_000),
    "open tasks": ("list_tasks", {**_NARROW, "statuses": "'{1}'"}, 60_000),
    "successes of a tenant that has some": ("list_tasks", {**_NARROW, "statuses": "'{6}'", "tenant_id": "4"}, 1_500),
    "whether a model is known": ("name_was_used", {"tenant_id": "1", "name": "'nobody'"}, 20),
    "how far such a page looked": (
        "examined_until",
        {"tenant_id": "1", "before": "10000", **_LOOKED},
        1_500,
    ),
    "a task": ("find_tasks", {"tenant_id": "1", "public_ids": f"ARRAY[{_TASK}]"}, 60),
    "attempts of a task": ("list_attempts", {**_ONE, "limit": "1000"}, 60),
    "history of a task": ("list_history", {**_ONE, "limit": "1000"}, 60),
    "payload of a task": ("payload_head", {**_ONE, "most": "65536"}, 60),
    "the operation log": ("list_operations", {**_PAGE, "biz_name": "NULL"}, 300),
    "operations of a rare name": ("list_operations", {**_PAGE, **_LOOKED, "biz_name": "'x'"}, 12_000),
    "operations of a task": ("list_operations_of_task", {**_NEWEST, "task_id": _TASK, "biz_name": "NULL"}, 60),
    "models": ("list_models", _NEWEST, 300),
    "tenants": ("list_tenants", {"after": "0", "limit": "51", "zone": "'UTC'"}, 4_000),
    "what operators did": ("operator_actions", {"1": _PAGE["before"], "2": "51"}, 60),
    "limits of users": ("list_quota_limits", {"tenant_id": "1", "after": "''", "limit": "51", "zone": "'UTC'"}, 400),
    "deliveries of a webhook": ("list_deliveries", {**_NEWEST, "webhook_id": "2"}, 500),
}


async def fill(connection: Any, tasks: int) -> None:
    """So many tasks of two hundred models, with what belongs to them."""
    await connection.execute(_KINDS)
    for start in range(1, tasks + 1, _SLICE):
        end = min(start + _SLICE - 1, tasks)
        await connection.execute(_TASKS.replace("$1", str(start)).replace("$2", str(end)))
    await connection.execute("VACUUM ANALYZE")


async def plan_of(
    connection: Any, text: str, values: Mapping[str, str], *, how: Literal["JSON", "TEXT"] = "JSON"
) -> str:
    """The plan of a prepared statement that ran; what it changed is undone."""
    numbers: dict[str, int] = {}
    if all(name.isdecimal() for name in values):
        numbers = {name: int(name) for name in values}

    def number(match: re.Match[str]) -> str:
        return f"${numbers.setdefault(match.group(1), len(numbers) + 1)}"

    text = re.sub(r"(?<!:):([a-z_]+)", number, text)
    arguments = ", ".join(values[name] for name in sorted(numbers, key=lambda name: numbers[name]))
    await connection.execute(f"PREPARE looked AS {text}")
    asked = connection.transaction()
    await asked.start()
    try:
        options = f"ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT {how}"
        rows = await connection.fetch(f"EXPLAIN ({options}) EXECUTE looked({arguments})")
    finally:
        await asked.rollback()
        await connection.execute("DEALLOCATE looked")
    return "\n".join(row[0] for row in rows)


def buffers_of(plan: str) -> int:
    """Pages that it touched, in the cache or not."""
    (first,) = json.loads(plan)
    return int(first["Plan"]["Shared Hit Blocks"] + first["Plan"]["Shared Read Blocks"])
