"""Series for plots: every ended attempt counts once, in its minute, whoever folds; what is told is what was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from random import Random

import asyncpg
import pytest

from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.adapters.postgres.series import PostgresSeries
from libs.common.domain.buckets import WORST_ERROR, bucket_of
from libs.common.domain.errors import Invalid, NotFound
from libs.common.domain.model import Model
from libs.common.operations.series import Series
from libs.common.ports_insight import Point, SeriesWanted
from libs.common.runtime import failpoints
from services.janitor.sweeps.series import SeriesFold
from tests.support.house import House
from tests.support.sights import sight_of

#: Attempts of these outcomes, that many seconds waited and run, ended so long ago.
ENDED = """
INSERT INTO attempt (task_id, attempt, outcome, entered_at, started_at, ended_at)
SELECT $1, $2, $3, e - $5::interval - $4::interval, e - $5::interval, e FROM (SELECT now() - $6::interval AS e) ended
"""


def fold_of(house: House) -> SeriesFold:
    return SeriesFold(PostgresSeries(house.database), house.gate)


async def ended(
    house: House, task: int, number: int, outcome: str, ago: timedelta, *, wait: float = 1.0, run: float = 2.0
) -> None:
    await house.sql(ENDED, task, number, outcome, timedelta(seconds=wait), timedelta(seconds=run), ago)


async def read(
    house: House, model: Model | None = None, *, step: int = 60, hours: float = 3, tenant: int | None = None
) -> list[Point]:
    now = datetime.now(UTC)
    wanted = SeriesWanted(
        now - timedelta(hours=hours), now + timedelta(minutes=1), step,
        model.tenant_id if model is not None else tenant, model.name if model is not None else None,
    )  # fmt: skip
    return await Series(PostgresInsight(house.database)).read(wanted)


def total(points: list[Point]) -> dict[str, int]:
    names = ("success", "failed", "timeout", "canceled", "lost")
    return {name: sum(getattr(point, name) for point in points) for name in names}


@pytest.fixture
async def two(house: House) -> tuple[House, Model, Model]:
    """Two models of two tenants with attempts of every outcome, and of one minute that is not over."""
    first, second = await house.model(), await house.model()
    (a,), (b,) = await house.tasks(first), await house.tasks(second)
    for number, outcome in enumerate(("success", "success", "failed", "timeout", "lost", "staging_lost", "canceled")):
        await ended(house, a, number, outcome, timedelta(minutes=3 + number % 2))
    await ended(house, b, 1, "success", timedelta(minutes=5))
    await ended(house, b, 2, "failed", timedelta())
    return house, first, second


async def test_each_attempt_counts_once_for_its_lane_its_tenant_and_everything(two: tuple[House, Model, Model]) -> None:
    house, first, second = two
    assert await fold_of(house).fold() > 0
    every = {"success": 2, "failed": 1, "timeout": 1, "canceled": 1, "lost": 2}
    assert total(await read(house, first)) == every
    assert total(await read(house, second)) == {**dict.fromkeys(every, 0), "success": 1}
    assert total(await read(house, tenant=first.tenant_id)) == every
    assert total(await read(house)) == {**every, "success": 3}
    assert await fold_of(house).fold() == 0
    points = [point for point in await read(house, first) if point.ended]
    assert len(points) == 2
    assert points[0].error_rate == pytest.approx(
        sum((points[0].failed, points[0].timeout, points[0].lost)) / points[0].ended
    )


async def test_four_janitors_at_once_count_everything_once(house: House) -> None:
    model = await house.model()
    for task in await house.tasks(model, 40):
        await ended(house, task, 1, "success", timedelta(minutes=4 + task % 30))
    await asyncio.gather(*(fold_of(house).fold() for _ in range(4)))
    await fold_of(house).fold()  # what one of them left to another that was just going
    assert total(await read(house, model))["success"] == 40


async def test_a_writer_that_has_not_committed_holds_the_mark_back(house: House) -> None:
    model = await house.model()
    (task,) = await house.tasks(model)
    writer = await asyncpg.connect(house.database_url)
    try:
        late = writer.transaction()
        await late.start()
        await writer.execute("INSERT INTO attempt (task_id, attempt, outcome) VALUES ($1, 1, 'success')", task)
        begun = await writer.fetchval("SELECT now()")
        await house.sql("INSERT INTO series_mark VALUES (true, $1, $1)", begun - timedelta(hours=1))
        store = PostgresSeries(house.database)
        assert await store.settled(margin_seconds=0.0) == begun
        await late.commit()
        after = await store.settled(margin_seconds=0.0)
        assert after is not None
        assert after > begun
    finally:
        await writer.close()


async def test_a_fold_that_breaks_off_is_done_again_and_counts_once(two: tuple[House, Model, Model]) -> None:
    house, first, _ = two
    failpoints.arm("janitor/before-series:1:raise")
    with pytest.raises(failpoints.FailpointRaised):
        await fold_of(house).fold()
    failpoints.arm("")
    await fold_of(house).fold()
    assert total(await read(house, first))["success"] == 2


async def test_hours_are_the_sum_of_their_minutes_and_minutes_go_when_hours_have_them(house: House) -> None:
    model = await house.model()
    (task,) = await house.tasks(model)
    for number in range(30):
        await ended(house, task, number, "success" if number % 3 else "failed", timedelta(minutes=200 + 5 * number))
    await fold_of(house).fold()
    minutes, hours = await read(house, model, hours=8), await read(house, model, step=3_600, hours=8)
    assert total(minutes) == total(hours) == {"success": 20, "failed": 10, "timeout": 0, "canceled": 0, "lost": 0}
    assert len(hours) < len(minutes)
    await house.sql("UPDATE series SET at = at - interval '30 h'")
    await house.sql("UPDATE series_mark SET upto = upto - interval '30 h', hours_upto = hours_upto - interval '30 h'")
    assert await fold_of(house).prune() > 0
    assert total(await read(house, model, step=3_600, hours=48))["success"] == 20
    await house.sql("UPDATE series SET at = at - interval '8 days'")
    await fold_of(house).prune()
    assert await house.value("SELECT count(*) FROM series WHERE step = 60") == 0


async def test_percentiles_are_within_the_error_that_is_stated(house: House) -> None:
    model, rng = await house.model(), Random(3)
    (task,) = await house.tasks(model)
    waits = [rng.lognormvariate(0, 1) for _ in range(200)]
    since_even_hour = timedelta(seconds=datetime.now(UTC).timestamp() % 7_200)
    first = timedelta(minutes=3) if since_even_hour > timedelta(minutes=15) else since_even_hour + timedelta(minutes=3)
    for number, wait in enumerate(waits):
        await ended(house, task, number, "success", first + timedelta(minutes=number % 7), wait=wait, run=10 * wait)
    await fold_of(house).fold()
    (point,) = [point for point in await read(house, model, step=7_200, hours=1) if point.ended]
    for told, share in ((point.wait.p50, 0.5), (point.wait.p90, 0.9), (point.wait.p99, 0.99)):
        true = sorted(waits)[int(share * len(waits)) - 1]
        assert told == pytest.approx(true, rel=WORST_ERROR + 1e-6)
    assert point.run.p50 == pytest.approx(10 * sorted(waits)[99], rel=WORST_ERROR + 1e-6)


async def test_postgresql_and_the_domain_agree_on_every_bucket(house: House) -> None:
    rng = Random(5)
    durations = [0.0, 0.001, 0.0011, 1.0, 90_000.0, *(10 ** rng.uniform(-4, 5.5) for _ in range(2_000))]
    rows = await house.sql(
        "SELECT duration_bucket(i) AS b, extract(epoch FROM i)::float8 AS x"
        " FROM (SELECT make_interval(secs => s) AS i FROM unnest($1::float8[]) AS s) t", durations,
    )  # fmt: skip
    assert [row["b"] for row in rows] == [bucket_of(row["x"]) for row in rows]


async def test_the_backlog_is_seen_once_a_minute_and_nothing_is_nothing(house: House) -> None:
    model, idle = await house.model(max_concurrency=1), await house.model()
    await house.tasks(model, 5)
    await house.lease(model)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '90 s' WHERE state = 0")
    await house.sql(
        "INSERT INTO series_mark SELECT true, date_trunc('minute', now()) - interval '2 min', date_trunc('hour', now())"
    )
    await fold_of(house).fold()
    last = (await read(house, model))[-1]
    assert last.backlog == 2
    assert last.oldest_seconds == pytest.approx(90, abs=30)
    assert (await read(house, idle))[-1].backlog == 0
    assert (await read(house))[-1].backlog == 2


async def test_a_rate_is_told_of_young_minutes_alone(house: House) -> None:
    model = await house.model()
    (task,) = await house.tasks(model)
    for number in range(8):
        await ended(house, task, number, "failed" if number % 4 else "success", timedelta(minutes=3))
    await fold_of(house).fold()
    seen = await sight_of(house).lane_by_number(model.lane)
    assert seen is not None
    assert seen.error_rate == 0.75
    assert seen.starts_per_second == pytest.approx(8 / 300)
    # Folding stands still: what its last minutes say is no longer of now.
    for passed, rate in ((timedelta(minutes=4), 0.75), (timedelta(minutes=5), None), (timedelta(hours=2), None)):
        await house.sql("UPDATE series SET at = at - $1::interval WHERE step = 1", passed)
        await house.sql("UPDATE series_mark SET upto = upto - $1::interval", passed)
        await house.sql("UPDATE attempt SET ended_at = ended_at - $1::interval", passed)
        seen = await sight_of(house).lane_by_number(model.lane)
        assert seen is not None
        assert (seen.error_rate, seen.starts_per_second is None) == (rate, rate is None), passed


async def test_what_was_counted_for_a_deleted_model_can_be_read(house: House) -> None:
    old = await house.model()
    (task,) = await house.tasks(old)
    await ended(house, task, 1, "success", timedelta(minutes=3))
    await fold_of(house).fold()
    await house.sql("UPDATE model SET deleted_at = now() - interval '1 min' WHERE id = $1", old.id)
    assert total(await read(house, old))["success"] == 1
    # Another one has the name now: the name is its.
    await house.sql(
        "INSERT INTO model (tenant_id, name, base_url) VALUES ($1, $2, 'http://m')", old.tenant_id, old.name
    )
    await house.sql(
        "INSERT INTO lane (model_id, tenant_id, window_size)"
        " SELECT id, tenant_id, 4 FROM model WHERE name = $1 AND deleted_at IS NULL", old.name,
    )  # fmt: skip
    assert total(await read(house, old))["success"] == 0


async def test_what_makes_no_sense_is_refused(house: House) -> None:
    model = await house.model()
    for arguments in (
        {"step": 59},
        {"step": 90},
        {"step": 5_400},
        {"hours": -1},
        {"hours": 30},
        {"step": 60, "hours": 9_000},
    ):
        with pytest.raises(Invalid):
            await read(house, model, **arguments)  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        await read(house, Model(id=1, lane=1, tenant_id=model.tenant_id, name="other", base_url=""))
