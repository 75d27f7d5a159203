"""Replays and drops go on beside what somebody's transaction keeps locked, which they take later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from libs.common.ports_dead import Action, DeadKind, ItemResult, JobState
from tests.support.graves import Operator, dead_delivery, dead_event, died, save_up, work
from tests.support.house import House
from tests.support.locks import kept_by

_SAID = "somebody's transaction keeps rows locked"


async def _tasks(house: House) -> None:
    await died(house, await house.model(), 3)


async def _events(house: House) -> None:
    model = await house.model()
    for _ in range(3):
        await dead_event(house, model)


async def _deliveries(house: House) -> None:
    model = await house.model()
    for _ in range(3):
        await dead_delivery(house, model)


@pytest.mark.parametrize(
    ("kind", "action", "dead", "table", "key"),
    [
        (DeadKind.TASK, Action.REPLAY, _tasks, "task", "id"),
        (DeadKind.TASK, Action.REPLAY, _tasks, "dead_task", "task_id"),
        (DeadKind.TASK, Action.DROP, _tasks, "dead_task", "task_id"),
        (DeadKind.EVENT, Action.REPLAY, _events, "dead_event", "id"),
        (DeadKind.EVENT, Action.DROP, _events, "dead_event", "id"),
        (DeadKind.DELIVERY, Action.REPLAY, _deliveries, "delivery", "id"),
        (DeadKind.DELIVERY, Action.DROP, _deliveries, "delivery", "id"),
    ],
)
async def test_a_job_goes_on_beside_a_locked_row_and_takes_it_later(
    house: House, kind: DeadKind, action: Action, dead: Callable[[House], Awaitable[None]], table: str, key: str
) -> None:
    await dead(house)
    operator = Operator(house.database)
    job = await operator.order(kind=kind, action=action)
    done = ItemResult.REPLAYED if action is Action.REPLAY else ItemResult.DROPPED
    first = await house.value(f"SELECT min({key}) FROM {table}")
    async with kept_by(house, f"{table} SET tenant_id = tenant_id WHERE {key} = {first}"):
        assert await work(house) == 2
        waiting = await operator.job(job)
        assert (waiting.pending, waiting.results[done], waiting.note) == (1, 2, _SAID)
        assert await work(house) == 0, "it is not tried in each round"
    await house.sql("UPDATE replay_item SET due_at = now() WHERE result IS NULL")
    await save_up(house.database)
    assert await work(house) == 1
    assert (await operator.job(job)).state is JobState.DONE


async def test_a_round_waits_for_locked_rows_of_a_job_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.operations.replay_run._SLICE", 1)
    await _tasks(house)
    await Operator(house.database).order()
    async with kept_by(house, "dead_task SET version = version", 3):
        assert await work(house) == 0
        assert await house.value("SELECT count(*) FROM replay_item WHERE tries > 0") == 1, "or other jobs wait for all"


@pytest.mark.parametrize("table", ["quota_usage", "lane"])
async def test_a_job_goes_on_beside_a_locked_account_or_lane(house: House, table: str) -> None:
    poor, other = await house.model(), await house.model()
    (stuck,), (free,) = await died(house, poor), await died(house, other)
    await house.sql("UPDATE task SET points = 4")
    for model in (poor, other):
        await house.sql(
            "INSERT INTO quota_usage (tenant_id, user_name, day) VALUES ($1, 'c', (now() AT TIME ZONE 'UTC')::date)",
            model.tenant_id,
        )
    operator = Operator(house.database)
    job = await operator.order()
    async with kept_by(house, f"{table} SET tenant_id = tenant_id WHERE tenant_id = {poor.tenant_id}"):
        assert await work(house) == 1
        assert (await operator.job(job)).note == _SAID
        results = await operator.results(job)
    assert (results[str(stuck.public_id)], results[str(free.public_id)]) == (None, ItemResult.REPLAYED)
    assert await house.members(poor) == set(), "its slot is free meanwhile"
