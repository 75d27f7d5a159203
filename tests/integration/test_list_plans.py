"""Pages and lists cost the same beside few and beside very many tasks: asserted by buffers."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from libs.common.adapters.postgres.database import open_database
from libs.common.adapters.postgres.statements import load_statements
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.ports_tasks import TaskFilter
from tests.support.looks import LOOKS, buffers_of, fill, plan_of


@pytest.mark.parametrize("tasks", [20_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
async def test_no_list_costs_by_what_is_stored(database_url: str, tasks: int) -> None:
    statements = load_statements()
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection, tasks)
        over = {}
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for look, (name, values, most) in LOOKS.items():
                cost = buffers_of(await plan_of(connection, statements[name], values))
                if cost > most:
                    over[look, mode] = (cost, most)
    finally:
        await connection.close()
    assert over == {}


async def test_a_list_of_a_model_that_never_was_has_one_page(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection, 20_000)
        await connection.execute("UPDATE model SET deleted_at = now() WHERE id = 4")
    finally:
        await connection.close()
    async with open_database(database_url) as database:
        tasks = PostgresTasks(database)
        for name in ("nobody's", "m1"):  # the latter is another tenant's
            assert await tasks.list_page(1, TaskFilter(model_name=name), None, 50) == ([], None)
        page, following = await tasks.list_page(1, TaskFilter(model_name="m4"), None, 5)
    assert [task.model_name for task in page] == ["m4"] * 5
    assert following is not None


async def test_a_tasks_story_costs_by_what_is_told_of_it(database_url: str) -> None:
    statements, told = load_statements(), {}
    connection = await asyncpg.connect(database_url)
    try:
        await fill(connection, 20_000)
        await connection.execute(
            "INSERT INTO history (task_id, kind, attempt, version)"
            " SELECT CASE g % 2 WHEN 0 THEN 1 ELSE g END, 'release', 1, g FROM generate_series(1, 100000) g;"
            "INSERT INTO attempt (task_id, attempt, outcome) SELECT 1, g, 'failed' FROM generate_series(2, 30000) g;"
        )
        await connection.execute("VACUUM ANALYZE")
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            for look in ("attempts of a task", "history of a task"):
                name, values, _ = LOOKS[look]
                told[look, mode] = buffers_of(await plan_of(connection, statements[name], values))
    finally:
        await connection.close()
    assert {look: cost for look, cost in told.items() if cost > 5_000} == {}
    async with open_database(database_url) as database:
        tasks, first = PostgresTasks(database), UUID("c4ca4238-a0b9-2382-0dcc-509a6f75849b")
        attempts, history = await tasks.list_attempts(1, first), await tasks.list_history(1, first)
    assert [row["attempt"] for row in attempts] == list(range(29_001, 30_001))
    assert [row["version"] for row in history] == list(range(98_002, 100_001, 2))
