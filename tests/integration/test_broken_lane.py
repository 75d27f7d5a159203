"""A lane that Redis cannot answer for, since a key of it is of another kind: what is known of the others is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.series import PostgresSeries
from libs.common.adapters.redis import keys
from libs.common.domain.model import Model
from libs.common.operations.audit_findings import Findings
from libs.common.operations.audit_gate import GateChecks
from libs.common.ports import PermitRequest
from libs.common.ports_attempts import Attempt
from libs.common.runtime import metrics
from services.executor.letting_go import LettingGo
from services.janitor.sweeps.figures import Figures
from services.janitor.sweeps.leaks import Leaks, permits
from services.janitor.sweeps.series import SeriesFold
from tests.support.auditing import open_audited
from tests.support.executor_rig import until
from tests.support.house import House
from tests.support.sights import sight_of


@dataclass
class Pair:
    """Two models, each with two attempts that run and three tasks that wait; Redis cannot answer for the first."""

    house: House
    broken: Model
    other: Model
    running: dict[int, list[Attempt]]


@pytest.fixture
async def pair(house: House) -> Pair:
    models = [await house.model(max_concurrency=20) for _ in range(2)]
    executor = await house.executor()
    running = {model.id: await house.running(model, executor, 2) for model in models}
    for model in models:
        await house.tasks(model, 3)
    broken, other = models
    commands = [("SET", key(broken.lane), "a string") for key in (keys.gate, keys.permits)]
    await house.redis.command_many(commands)
    return Pair(house, broken, other, running)


async def test_metrics_and_series_have_the_figures_of_the_other(pair: Pair) -> None:
    house, other = pair.house, pair.other
    await Figures(house.sweeps, house.gate, house.permits).sweep()
    text = metrics.exposition().decode()
    assert f'sluiceway_backlog_tasks{{model="{other.id}"}} 3.0' in text
    assert f'sluiceway_permits_in_use{{model="{other.id}"}} 2.0' in text
    assert f'sluiceway_backlog_tasks{{model="{pair.broken.id}"}}' not in text
    backlog = await SeriesFold(PostgresSeries(house.database), house.gate)._backlog()
    assert {lane.lane: waiting for lane, waiting in backlog} == {pair.broken.lane: None, other.lane: 3}


async def test_operators_see_the_numbers_of_the_other(pair: Pair) -> None:
    lanes, _ = await sight_of(pair.house).lanes(None)
    assert {lane.facts.lane: (lane.open, lane.permits) for lane in lanes} == {
        pair.broken.lane: (None, None),
        pair.other.lane: (5, 2),
    }


async def test_the_audit_looks_at_the_other_and_says_what_it_could_not_look_at(pair: Pair, tmp_path: Path) -> None:
    ghost = str(uuid4())
    await pair.house.permits.acquire_many([PermitRequest(pair.other.lane, ghost, 50, 60_000)])
    async with open_audited(pair.house, tmp_path) as stores:
        found = Findings()
        await GateChecks(stores.tasks, pair.house.gate, pair.house.permits).run(found)
    assert [violation.subject for violation in found.violations] == [f"permit {ghost}"]
    assert f"lane {pair.broken.lane}" in found.unchecked["redis"]


async def test_leaks_of_the_other_are_found(pair: Pair) -> None:
    ghost, now = str(uuid4()), [0.0]
    await pair.house.permits.acquire_many([PermitRequest(pair.other.lane, ghost, 50, 60_000)])
    leaks = Leaks(pair.house.sweeps, permits(pair.house.sweeps, pair.house.permits), lambda: now[0])
    await leaks.sweep()
    now[0] = 60.0
    assert await leaks.sweep() == 1
    assert await pair.house.permits.in_use([pair.other.lane]) == [2]


async def test_an_executor_gives_back_to_the_other_and_keeps_what_is_the_lanes_own(pair: Pair) -> None:
    house = pair.house
    letting_go = LettingGo(house.permits, house.gate)
    for model in (pair.broken, pair.other):
        for attempt in pair.running[model.id]:
            letting_go.permit(model.lane, attempt.token)

    async def back() -> bool:
        return await house.permits.in_use([pair.other.lane]) == [0]

    await until(back, "the permits of the other are back")
    await until(lambda: {lane for lane, _ in letting_go._put_off} == {pair.broken.lane}, "only its own wait")
    await letting_go.close(0.1)


async def test_permits_of_the_other_go_back_at_once_while_those_of_the_broken_lane_wait(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.executor.letting_go._RETRY_SECONDS", 60)
    monkeypatch.setattr("services.executor.letting_go._MOST_PUT_OFF", 3)
    house = pair.house
    letting_go = LettingGo(house.permits, house.gate)
    for _ in range(5):
        letting_go.permit(pair.broken.lane, uuid4())
    await until(lambda: len(letting_go._put_off) == 3, "no more than so many wait")
    for attempt in pair.running[pair.other.id]:
        letting_go.permit(pair.other.lane, attempt.token)

    async def back() -> bool:
        return await house.permits.in_use([pair.other.lane]) == [0]

    await until(back, "the permits of the other are back")
    await letting_go.close(0.1)
