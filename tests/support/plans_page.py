"""The page of query plans: `python -m tests.support.plans_page > docs/query-plans.md`, on a PostgreSQL of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import asyncpg

from libs.common.adapters.postgres.statements import load_statements
from tests.integration import test_dead_plans as dead
from tests.support import servers
from tests.support.looks import LOOKS, Look, buffers_of, fill, plan_of

TASKS = 1_000_000
#: Whose plans are shown whole: what people look at most.
SHOWN = ("a page of tasks", "tasks of one model", "a task", "the operation log")
SHOWN_DEAD = ("a page", "groups", "a page of deliveries")
_HEAD = f"""# What lists and pages cost PostgreSQL

Pages of 50, as the API and the console ask for them, each with its statement (in `libs/common/adapters/postgres/sql`),
the buffers of 8 KiB that it touched, and the most that a test allows it. Measured by
`python -m tests.support.plans_page` beside {TASKS:,} tasks of 200 models, half of them of the tenant that is asked for;
{TASKS // 20:,} of them wait. `tests/integration/test_list_plans.py` holds these statements to the same bounds beside
20,000 and beside {TASKS:,} tasks, `test_insight_scale.py` what is asked every second (see
[seeing what flows](seeing-what-flows.md)), and `test_dead_plans.py` the lists of the dead.

Filters look at 10,000 rows a page and give a cursor to go on from; a list of a model that never was asks for no rows
(`name_was_used`). Substring filters and totals of the old lists
(`/task/listTask`, `/model/listModel`, `/stat/listModelStat`) are the exception: they read what the tenant has.

| what | statement | buffers | at most |
|---|---|---|---|
"""
_DEAD = f"""
## The dead

With {dead.DEAD:,} dead tasks, events, deliveries and messages each, of 40 models. Groups and rare codes walk an index
of narrow rows, 50,000 of them at most (10,000 where rows are wide), and say so where they stopped (`complete`).

| what | statement | buffers | at most |
|---|---|---|---|
"""


def page() -> str:
    """The page as it has to be."""
    with (
        servers.servers_folder() as folder,
        servers.postgres_url(folder) as server,
        servers.migrated_template(server) as template,
    ):
        with servers.clone(server, template) as url:
            lists = asyncio.run(_lists(url))
        with servers.clone(server, template) as url:
            graves = asyncio.run(_graves(url))
    return _HEAD + lists + _DEAD + graves


async def _lists(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        await fill(connection, TASKS)
        return await _told(connection, LOOKS, SHOWN)
    finally:
        await connection.close()


async def _graves(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(dead.STORED)
        await connection.execute("VACUUM ANALYZE")
        return await _told(connection, dead.LOOKS, SHOWN_DEAD)
    finally:
        await connection.close()


async def _told(connection: Any, looks: Mapping[str, Look], shown: tuple[str, ...]) -> str:
    statements, rows, plans = load_statements(), [], []
    for look, (name, values, most) in looks.items():
        cost = buffers_of(await plan_of(connection, statements[name], values))
        rows.append(f"| {look} | `{name}` | {cost:,} | {most:,} |")
        if look in shown:
            plan = await plan_of(connection, statements[name], values, how="TEXT")
            plans.append(f"\n**{look[0].upper()}{look[1:]}**\n\n```\n{plan}\n```")
    return "\n".join([*rows, *plans]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
