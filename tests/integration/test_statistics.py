"""What a call counts: when it begins, on the day of the operator's own clock, and not when it never began."""

from __future__ import annotations

from uuid import uuid4

import pytest

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.domain.settle import GiveBack
from libs.common.ports_attempts import Attempt, Claim
from services.janitor.sweeps.statistics import Statistics
from tests.support.house import House
from tests.support.locks import kept_by

#: Their days never agree: 25 hours lie between them.
FIRST_DAY, LAST_DAY = "Pacific/Kiritimati", "Pacific/Pago_Pago"


async def started(house: House, zone: str) -> Attempt:
    model = await house.model()
    await house.tasks(model)
    (row,) = await house.lease(model)
    (attempt,) = await PostgresAttempts(house.database, 1, zone).start_many([Claim(row.id, row.lease, uuid4(), 60)])
    return attempt


@pytest.mark.parametrize("zone", [FIRST_DAY, LAST_DAY])
async def test_a_call_counts_on_the_day_of_the_setting(house: House, zone: str) -> None:
    await started(house, zone)
    await Statistics(house.sweeps).sweep()
    (row,) = await house.sql("SELECT day = (now() AT TIME ZONE $1)::date AS its, request_count FROM model_stat", zone)
    assert tuple(row) == (True, 1)


async def test_what_never_began_is_taken_back_from_the_day_on_which_it_was_counted(house: House) -> None:
    attempt = await started(house, "UTC")
    await house.sql("UPDATE dispatch SET started_at = started_at - interval '1 day'")
    await house.sql("UPDATE stat_delta SET day = day - 1")
    await Statistics(house.sweeps).sweep()
    await PostgresAttempts(house.database, 1, "UTC").release_many([(attempt, GiveBack("executor stops", 0), False)])
    await Statistics(house.sweeps).sweep()
    assert [tuple(row) for row in await house.sql("SELECT request_count FROM model_stat")] == [(0,)]


async def test_what_began_counts_although_it_was_handed_back(house: House) -> None:
    attempt = await started(house, "UTC")
    await PostgresAttempts(house.database, 1, "UTC").release_many([(attempt, GiveBack("executor stops", 0), True)])
    await Statistics(house.sweeps).sweep()
    assert await house.value("SELECT sum(request_count) FROM model_stat") == 1


async def test_a_task_that_is_deleted_takes_nothing_from_the_statistics(house: House) -> None:
    model = await house.model()
    (attempt,) = await house.done(model)
    assert await house.clean(attempt.id) == [attempt.id]
    await Statistics(house.sweeps).sweep()
    assert await house.value("SELECT sum(request_count) FROM model_stat") == 1


async def test_calls_of_others_are_folded_beside_a_row_that_somebody_keeps_locked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.janitor.sweeps.statistics._PAGE", 2)
    stuck, other = await started(house, "UTC"), await started(house, "UTC")
    statistics = Statistics(house.sweeps)
    await statistics.sweep()
    again = "INSERT INTO stat_delta (day, tenant_id, creator, model_id, calls)"
    again += " SELECT day, $1, 'c', $2, 1 FROM model_stat"
    for attempt in (stuck, stuck, other):
        await house.sql(again, attempt.tenant_id, attempt.model_id)
    counted = f"SELECT request_count FROM model_stat WHERE tenant_id = {other.tenant_id}"
    async with kept_by(house, f"model_stat SET creator = creator WHERE tenant_id = {stuck.tenant_id}"):
        await statistics.sweep()
        assert await house.value(counted) == 3
        left = await house.sql("SELECT tenant_id, calls FROM stat_delta")
        assert [tuple(row) for row in left] == [(stuck.tenant_id, 4)], "those that wait are one"
    await statistics.sweep()
    assert await house.value("SELECT sum(request_count) FROM model_stat") == 8
    assert await house.value("SELECT count(*) FROM stat_delta") == 0
