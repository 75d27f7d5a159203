"""Providers are told that nobody wants their jobs: each in its own time, and by those who know how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from libs.common.adapters.postgres.provider_jobs import PostgresProviderJobs
from libs.common.domain.model import Model
from libs.common.ports import PermitRequest
from libs.common.ports_provider_jobs import TellLater, UnwantedJob, UnwantedLook
from services.executor.jobs import unwanted
from tests.support.executor_rig import Rig, until
from tests.support.job_provider import ProvidedJob, job_provider
from tests.support.job_rig import Jobs, open_jobs
from tests.support.locks import kept_by


@pytest.fixture
async def jobs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jobs]:
    async with open_jobs(rig, monkeypatch) as opened:
        yield opened


async def mark(
    rig: Rig, model: Model, count: int, *, named: bool = True, adapter: str = "test", ago: str = "1 min"
) -> list[UUID]:
    """Jobs whose tasks have ended before them, with permits that are still taken; returns their keys."""
    keys = [uuid4() for _ in range(count)]
    await rig.sql(
        "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, provider_id, permit_token,"
        " status, deadline, ended_at, cancel_at)"
        " SELECT 1000000 * $1 + row_number() OVER (), 1, $1, key, $3, true, CASE WHEN $4 THEN key::text END, key,"
        " 'intended', now(), now() - $5::text::interval, now() - $5::text::interval FROM unnest($2::uuid[]) AS key",
        model.lane, keys, adapter, named, ago,
    )  # fmt: skip
    await rig.permits.acquire_many([PermitRequest(model.lane, str(key), 10_000, 600_000) for key in keys])
    return keys


async def left(rig: Rig, model: Model) -> int:
    """Jobs of the model whose provider has yet to be told."""
    rows = await rig.sql("SELECT count(*) FROM provider_job WHERE lane = $1 AND cancel_at IS NOT NULL", model.lane)
    return int(rows[0]["count"])


async def test_a_provider_that_hangs_holds_up_its_own_jobs_alone(jobs: Jobs) -> None:
    async with job_provider() as (other, _):
        jobs.provider.deaf = True
        hangs, answers = await jobs.model(), await jobs.rig.make_model(base_url=other.url, adapter="test")
        await mark(jobs.rig, hangs, 2_000)
        newer = await mark(jobs.rig, answers, 30, ago="1 s")
        await jobs.rig.executor()

        async def permits_are_back() -> bool:
            return await jobs.rig.permits.in_use([hangs.lane, answers.lane]) == [0, 0]

        await until(permits_are_back, "all permits are back", 8)
        await until(lambda: len(other.canceled) == 30, "the other provider is told", 8)
        assert set(other.canceled) == {str(key) for key in newer}

        async def written() -> bool:
            return await left(jobs.rig, answers) == 0

        await until(written, "it is written that it was told")
        assert len(jobs.provider.canceled) == unwanted._OF_A_LANE
        jobs.provider.deaf = False


async def test_a_provider_that_answers_is_told_of_all_its_jobs_at_once(jobs: Jobs) -> None:
    model = await jobs.model()
    keys = await mark(jobs.rig, model, 300)
    await jobs.rig.executor()
    await until(lambda: len(jobs.provider.canceled) == 300, "all are told", 8)
    assert set(jobs.provider.canceled) == {str(key) for key in keys}


async def test_no_lanes_second_job_goes_before_anothers_first(jobs: Jobs) -> None:
    full, old, new = [await jobs.model() for _ in range(3)]
    await mark(jobs.rig, full, 9, ago="3 h")
    await mark(jobs.rig, old, 9, ago="2 h")
    await mark(jobs.rig, new, 9, ago="1 h")
    book = PostgresProviderJobs(jobs.rig.database)

    async def taken(limit: int) -> list[int]:
        look = UnwantedLook(limit, 4, 60, ["test"], {full.lane: 4, old.lane: 1})
        return [job.lane for job in await book.unwanted(look)]

    assert await taken(1) == [new.lane]  # it has none at work
    assert sorted(await taken(3)) == sorted([new.lane, old.lane, new.lane])
    assert full.lane not in await taken(100)


async def test_what_may_not_be_looked_for_yet_uses_up_no_try(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwanted, "_EARLIEST_SECONDS", 0.05)
    monkeypatch.setattr(unwanted, "LOOK_SECONDS", 0.05)
    model = await jobs.model({"finds": True, "settle": 3})
    (key,) = await mark(jobs.rig, model, 1, named=False, ago="1 s")
    jobs.provider.jobs["p1"] = ProvidedJob("p1", str(key), ["processing"], None)
    await jobs.rig.executor()
    await until(lambda: jobs.provider.canceled == ["p1"], "the job is found and ended", 8)

    async def done() -> bool:
        return await left(jobs.rig, model) == 0

    await until(done, "that is written")
    (row,) = await jobs.rig.sql("SELECT cancel_tries FROM provider_job")
    assert row["cancel_tries"] == 1


async def test_a_job_that_nobody_can_look_for_is_named_by_its_key_in_the_log(jobs: Jobs) -> None:
    model = await jobs.model()
    (key,) = await mark(jobs.rig, model, 1, named=False)
    with capture_logs() as lines:
        await jobs.rig.executor()

        async def given_up() -> bool:
            return await left(jobs.rig, model) == 0

        await until(given_up, "there is nobody to tell", 8)
        await until(lambda: "job.not_canceled" in [line["event"] for line in lines], "the log tells of it", 8)
    (line,) = [line for line in lines if line["event"] == "job.not_canceled"]
    assert (line["intent"], line["provider_id"], line["code"]) == (str(key), "", "submit_unknown")


async def test_what_a_stopping_executor_cannot_say_any_more_is_others_to_say_at_once(jobs: Jobs) -> None:
    jobs.provider.deaf = True
    model = await jobs.model()
    keys = await mark(jobs.rig, model, 3)
    first = await jobs.rig.executor()
    await until(lambda: len(jobs.provider.canceled) == 3, "its provider is being told", 8)
    await first.stop()
    assert await tries(jobs.rig) == [0, 0, 0]
    jobs.provider.deaf = False
    await jobs.rig.executor()

    async def told() -> bool:
        return await left(jobs.rig, model) == 0

    await until(told, "the next executor tells", 8)
    assert set(jobs.provider.canceled[3:]) == {str(key) for key in keys}


async def test_what_an_executor_takes_while_it_stops_is_told(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, take = asyncio.Event(), PostgresProviderJobs.unwanted

    async def slow(book: PostgresProviderJobs, look: UnwantedLook) -> list[UnwantedJob]:
        found = await take(book, look)
        if found:
            taken.set()
            await asyncio.sleep(0.3)
        return found

    monkeypatch.setattr(PostgresProviderJobs, "unwanted", slow)
    model = await jobs.model()
    (key,) = await mark(jobs.rig, model, 1)
    running = await jobs.rig.executor()
    await asyncio.wait_for(taken.wait(), 8)
    await running.stop()
    assert jobs.provider.canceled == [str(key)]
    assert await left(jobs.rig, model) == 0


async def test_a_locked_mark_keeps_no_other_provider_from_being_told(jobs: Jobs) -> None:
    stuck, late, other = [await jobs.model() for _ in range(3)]
    jobs.provider.deaf = True
    (told,) = await mark(jobs.rig, stuck, 1)
    await mark(jobs.rig, late, 1, named=False)
    book = PostgresProviderJobs(jobs.rig.database)
    taken = await book.unwanted(UnwantedLook(10, 4, 60, ["test"], {}))
    async with kept_by(jobs.rig, f"provider_job SET message = message WHERE lane = {stuck.lane}"):
        await book.told(taken)
        assert (await left(jobs.rig, stuck), await left(jobs.rig, late)) == (1, 0)
        (free,) = await mark(jobs.rig, other, 1)
        await book.tell_later([TellLater(key, 3_600.0, tried=True) for key in (told, free)])
    later = "SELECT lane FROM provider_job WHERE cancel_at > now() + interval '30 min'"
    assert [row["lane"] for row in await jobs.rig.sql(later)] == [other.lane]


async def test_a_locked_table_does_not_hold_up_an_executor_that_stops(jobs: Jobs) -> None:
    """It left the look behind, and closing the database waited five more seconds for that."""
    jobs.provider.deaf = True
    await mark(jobs.rig, await jobs.model(), 1)
    running = await jobs.rig.executor()
    await until(lambda: bool(jobs.provider.canceled), "its provider is being told", 8)
    locking = await asyncpg.connect(jobs.rig.database_url)
    try:
        async with locking.transaction():
            await locking.execute("LOCK TABLE provider_job")
            await until(lambda: "unwanted-look" in _tasks(), "it looks for more", 8)
            await running.stop()
            assert not {"unwanted", "unwanted-look", "provider-told"} & _tasks()
    finally:
        await locking.close()


def _tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


async def test_whoever_does_not_know_the_adapter_leaves_the_mark_to_others(jobs: Jobs) -> None:
    known = jobs.rig.jobs["test"]
    model = await jobs.model(adapter="acme")
    keys = await mark(jobs.rig, model, 3, adapter="acme")
    await jobs.rig.executor()

    async def permits_are_back() -> bool:
        return await jobs.rig.permits.in_use([model.lane]) == [0]

    await until(permits_are_back, "the permits wait for nobody")
    assert await tries(jobs.rig) == [0, 0, 0]
    await jobs.rig.executor(jobs={"acme": known})
    await until(lambda: len(jobs.provider.canceled) == 3, "who knows the adapter tells")
    assert set(jobs.provider.canceled) == {str(key) for key in keys}


async def tries(rig: Rig) -> Sequence[int]:
    return [row["cancel_tries"] for row in await rig.sql("SELECT cancel_tries FROM provider_job")]
