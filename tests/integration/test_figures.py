"""What a janitor's metrics say of what waits, how long, and what runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import isnan
from unittest.mock import patch

import pytest

from libs.common.domain.errors import DatabaseUnavailable, GateUnavailable
from libs.common.domain.model import Model
from libs.common.runtime import metrics
from services.janitor.sweeps.figures import Figures
from tests.support.house import House


async def test_figures_say_what_waits_and_what_runs(house: House) -> None:
    model, idle = await house.model(), await house.model()
    await house.running(model, await house.executor(), 2)
    await house.tasks(model, 3)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '100 s' WHERE state = 0")
    figure = await figures(house)
    label = f'{{model="{model.id}"}}'
    assert figure[f"sluiceway_backlog_tasks{label}"] == 3
    assert figure[f"sluiceway_tasks_in_flight{label}"] == 2
    assert figure[f"sluiceway_permits_in_use{label}"] == 2
    assert 100 <= figure[f"sluiceway_backlog_oldest_seconds{label}"] < 200
    assert f'sluiceway_backlog_tasks{{model="{idle.id}"}}' not in figure
    assert figure['sluiceway_outbox_rows{channel="event"}'] == 0
    assert figure["sluiceway_oldest_transaction_seconds"] >= 0


async def test_what_waits_for_its_time_is_no_backlog(house: House) -> None:
    running, waiting = await house.model(), await house.model()
    await house.running(running, await house.executor(), 1)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for model in (running, waiting):
        await house.tasks(model, 5, not_before=tomorrow)
    await house.tasks(waiting, 2)
    figure = await figures(house)
    assert figure[f'sluiceway_backlog_tasks{{model="{running.id}"}}'] == 0
    assert figure[f'sluiceway_backlog_tasks{{model="{waiting.id}"}}'] == 2


async def test_the_oldest_wait_is_also_that_of_a_task_which_others_always_overtake(house: House) -> None:
    model = await house.model()
    (starved,) = await house.tasks(model, 1, priority=9)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '1 h' WHERE id = $1", starved)
    await house.tasks(model, 2)
    assert (await figures(house))[f'sluiceway_backlog_oldest_seconds{{model="{model.id}"}}'] >= 3600


async def test_figures_of_a_store_that_does_not_answer_vanish(house: House) -> None:
    model = await house.model()
    await house.running(model, await house.executor(), 1)
    sweep, label = Figures(house.sweeps, house.gate, house.permits), f'{{model="{model.id}"}}'
    assert figures_of(model) <= (await figures(house, sweep)).keys()
    with patch.object(house.permits, "in_use", side_effect=GateUnavailable("away")):
        figure = await figures(house, sweep)
    assert f"sluiceway_permits_in_use{label}" not in figure
    assert f"sluiceway_backlog_tasks{label}" not in figure
    assert figure[f"sluiceway_tasks_in_flight{label}"] == 1
    await sweep.sweep()
    away = patch.object(house.sweeps, "outbox_figures", side_effect=DatabaseUnavailable("away"))
    with away, pytest.raises(DatabaseUnavailable):
        await sweep.sweep()
    gone = shown()
    assert not figures_of(model) & gone.keys()
    assert 'sluiceway_outbox_rows{channel="event"}' not in gone
    assert isnan(gone["sluiceway_oldest_transaction_seconds"])


async def test_deliveries_that_somebody_holds_are_not_late(house: House) -> None:
    held, on_hold, open_ = [
        row["id"]
        for row in await house.sql(
            "INSERT INTO webhook (tenant_id, kind, url, secrets, paused) SELECT 7, 'endpoint', 'http://x', '', n = 1"
            " FROM generate_series(1, 3) n RETURNING id"
        )
    ]
    await house.sql(
        "INSERT INTO pause (scope, tenant_id, webhook_id, paused_by) VALUES ('webhook', 7, $1, 'op')", on_hold
    )
    deliver = (
        "INSERT INTO delivery (tenant_id, webhook_id, line, url, task_id, message_id, type, body, next_at)"
        " SELECT 7, $1, '', '', gen_random_uuid(), '', '', '', now() - make_interval(secs => $2)"
    )
    for webhook, seconds in ((held, 9_000), (on_hold, 8_000)):
        await house.sql(deliver, webhook, seconds)
    assert (await figures(house))['sluiceway_outbox_lag_seconds{channel="webhook"}'] == 0
    for seconds in (-60, 70, 20):
        await house.sql(deliver, open_, seconds)
    figure = await figures(house)
    assert 70 <= figure['sluiceway_outbox_lag_seconds{channel="webhook"}'] < 100
    assert figure['sluiceway_outbox_rows{channel="webhook"}'] == 5


def figures_of(model: Model) -> set[str]:
    names = ("backlog_tasks", "backlog_oldest_seconds", "tasks_in_flight", "permits_in_use")
    return {f'sluiceway_{name}{{model="{model.id}"}}' for name in names}


async def figures(house: House, sweep: Figures | None = None) -> dict[str, float]:
    await (sweep or Figures(house.sweeps, house.gate, house.permits)).sweep()
    return shown()


def shown() -> dict[str, float]:
    lines = (line.rpartition(" ") for line in metrics.exposition().decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
