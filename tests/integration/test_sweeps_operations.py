"""The operation log is complete for every accepted task, whoever wrote the entry, and no longer than its days."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import asyncpg
import pytest

from libs.common.adapters.postgres.operations import PostgresOperations
from libs.common.ports_operations import Operation
from libs.common.runtime import failpoints
from libs.common.runtime.failpoints import FailpointRaised
from services.janitor.sweeps.operations import Operations
from tests.support.house import House, open_house


def operations_of(house: House, *, days: int = 30) -> Operations:
    return Operations(house.sweeps, days=days)


def entry(task: UUID | None, *, age: float = 0.0, replayed: bool = False, biz_name: str = "") -> Operation:
    return Operation(
        1, age, "c", "ip", "ua", "/v1/tasks", "POST", biz_name, "m", task, task is not None, replayed, "", 3, "{}", "{}"
    )


async def fill(house: House) -> int:
    """A round whose mark is old enough."""
    await house.sql("UPDATE op_log_mark SET marked_at = now() - interval '1 min'")
    return await operations_of(house).fill()


async def made_by(house: House) -> dict[UUID, list[int | None]]:
    """What each entry cost, by task."""
    costs: dict[UUID, list[int | None]] = {}
    for row in await house.sql("SELECT task_id, cost_ms FROM op_log ORDER BY id"):
        costs.setdefault(row["task_id"], []).append(row["cost_ms"])
    return costs


async def test_entries_that_were_never_written_are_made_from_the_tasks_once(house: House) -> None:
    model = await house.model(name="painter")
    first = [UUID(id_) for id_ in await house.public(await house.tasks(model, 5, biz_name="b"))]
    await PostgresOperations(house.database).add_many([entry(task) for task in first[1:4]])
    assert await operations_of(house).fill() == 0, "the first round only sets the mark"
    assert await operations_of(house).fill() == 0, "what is young is still the API's to write"
    failpoints.arm("janitor/before-operations:1:raise")
    with pytest.raises(FailpointRaised):
        await fill(house)
    assert await fill(house) == 2
    assert await fill(house) == 0
    assert await made_by(house) == {first[1]: [3], first[2]: [3], first[3]: [3], first[0]: [None], first[4]: [None]}
    (row,) = await house.sql("SELECT * FROM op_log WHERE task_id = $1", first[0])
    assert (row["success"], row["biz_name"], row["model_name"], row["creator"]) == (True, "b", "painter", "c")
    assert row["created_at"] == await house.value("SELECT created_at FROM task WHERE public_id = $1", first[0])


async def test_a_late_flush_and_the_janitor_write_one_entry_between_them(house: House) -> None:
    model = await house.model()
    tasks = [UUID(id_) for id_ in await house.public(await house.tasks(model, 2))]
    await fill(house)
    await fill(house)
    log = PostgresOperations(house.database)
    await log.add_many([entry(tasks[0]), entry(None), entry(tasks[1], replayed=True)])
    await log.add_many([entry(tasks[1], age=9), entry(tasks[1], age=9, replayed=True)])
    assert {task: len(found) for task, found in (await made_by(house)).items()} == {tasks[0]: 1, tasks[1]: 3, None: 1}


async def test_late_entries_say_when_it_was(house: House) -> None:
    await PostgresOperations(house.database).add_many([entry(None), entry(None, age=60)])
    ages = await house.sql("SELECT extract(epoch FROM now() - created_at)::int / 30 AS age FROM op_log ORDER BY id")
    assert [row["age"] for row in ages] == [0, 2]


async def test_a_create_that_commits_late_is_not_passed_over(house: House) -> None:
    model = await house.model()
    slow = await asyncpg.connect(house.database_url)
    task = uuid4()
    async with slow.transaction():
        await slow.execute(
            "INSERT INTO task (public_id, tenant_id, model_id, lane, status) VALUES ($1, $2, $3, $4, 1)",
            task, model.tenant_id, model.id, model.lane,
        )  # fmt: skip
        (later,) = await house.tasks(model)
        await operations_of(house).fill()
        assert await fill(house) == 0, "a transaction is still open behind the mark"
    await slow.close()
    assert await fill(house) == 2
    assert set(await made_by(house)) == {task, UUID((await house.public([later]))[0])}


async def test_tasks_of_an_old_gateway_get_no_entry(house: House) -> None:
    model = await house.model()
    (ours,), (old,) = await house.tasks(model), await house.tasks(model)
    await house.sql("INSERT INTO history (task_id, kind, attempt, version) VALUES ($1, 'import', 0, 1)", old)
    await operations_of(house).fill()
    assert await fill(house) == 1
    assert list(await made_by(house)) == [UUID((await house.public([ours]))[0])]


async def test_two_janitors_fill_once_and_pages_follow_each_other(
    house: House, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.janitor.sweeps.operations._PAGE", 3)
    model = await house.model()
    await house.tasks(model, 10)
    await operations_of(house).fill()
    await house.sql("UPDATE op_log_mark SET marked_at = now() - interval '1 min'")
    async with open_house(house.database_url, redis_url) as other:
        filled = await asyncio.gather(operations_of(house).fill(), operations_of(other).fill())
    assert sum(filled) + await operations_of(house).fill() == 10
    assert all(len(found) == 1 for found in (await made_by(house)).values())


async def test_a_mark_that_came_with_a_dump_of_another_server_holds_nothing_up(house: House) -> None:
    model = await house.model()
    await house.tasks(model, 2)
    await operations_of(house).fill()
    await house.sql("UPDATE op_log_mark SET horizon = '9000000000000000000'")
    assert await fill(house) == 2


async def test_a_task_is_not_cleaned_before_its_entry_is_sure(house: House) -> None:
    model = await house.model()
    await operations_of(house).fill()
    (attempt,) = await house.done(model)
    await house.sql("UPDATE task SET expire_at = now(), finished_at = now() - interval '1 h'")
    assert await house.clean(attempt.id) == []
    await operations_of(house).fill()
    assert await fill(house) == 1
    assert await house.clean(attempt.id) == [attempt.id]
    assert list(await made_by(house)) == [attempt.public_id]


async def test_old_entries_are_pruned_from_the_oldest_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.janitor.sweeps.operations._PAGE", 2)
    log = PostgresOperations(house.database)
    await log.add_many([entry(None, age=31 * 86_400, biz_name="old") for _ in range(5)])
    await log.add_many([entry(None, age=29 * 86_400, biz_name="young"), entry(None, biz_name="new")])
    assert await operations_of(house).prune() == 5
    assert await operations_of(house).prune() == 0
    assert [row["biz_name"] for row in await house.sql("SELECT biz_name FROM op_log ORDER BY id")] == ["young", "new"]


async def test_old_entries_that_were_taken_over_go_also_behind_younger_ones_of_ours(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries of an old gateway keep their ids, which are larger than those of all that ours had written before."""
    monkeypatch.setattr("services.janitor.sweeps.operations._PAGE", 2)
    log = PostgresOperations(house.database)
    await log.add_many([entry(None, biz_name="ours") for _ in range(5)])
    await log.add_many([entry(None, age=31 * 86_400), entry(None, biz_name="taken over"), entry(None, age=31 * 86_400)])
    taken = await house.value("SELECT max(id) FROM op_log")
    await log.add_many([entry(None, biz_name="later") for _ in range(3)])
    await house.sql("INSERT INTO legacy_import VALUES ('old', 'asynch_op_log', $1, 3)", taken)
    assert await operations_of(house).prune() == 2
    left = [row["biz_name"] for row in await house.sql("SELECT biz_name FROM op_log ORDER BY id")]
    assert left == ["ours"] * 5 + ["taken over"] + ["later"] * 3


async def test_a_round_of_pruning_is_bounded_and_the_next_one_goes_on_behind_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.janitor.sweeps.operations._PAGE", 1)
    monkeypatch.setattr("services.janitor.sweeps.operations._PAGES", 2)
    log = PostgresOperations(house.database)
    await log.add_many([entry(None) for _ in range(3)])
    await log.add_many([entry(None, age=31 * 86_400)])
    await house.sql("INSERT INTO legacy_import SELECT 'old', 'asynch_op_log', max(id), 1 FROM op_log")
    operations = operations_of(house)
    assert [await operations.prune() for _ in range(3)] == [0, 1, 0]
