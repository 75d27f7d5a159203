"""Pages and lists cost the same beside few and beside very many tasks: asserted by buffers."""

from __future__ import annotations

import asyncpg
import pytest

from libs.common.adapters.postgres.statements import Statements
from tests.support.looks import LOOKS, buffers_of, fill, plan_of


@pytest.mark.parametrize("tasks", [20_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
async def test_no_list_costs_by_what_is_stored(database_url: str, tasks: int) -> None:
    statements = Statements.load()
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
