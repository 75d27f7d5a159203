"""Pages and lists cost the same beside few and beside very many tasks: asserted by buffers."""

from __future__ import annotations

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
