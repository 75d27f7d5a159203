"""What is written of a provider's job, and slots that are lent to others while it is waited for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobCall, JobReport, JobStatus
from libs.common.ports_provider_jobs import JobIntent
from services.executor.admission.slots import Slot, Slots
from services.executor.jobs.calls import in_time
from services.executor.jobs.job import Job, intent_key
from services.executor.jobs.ledger import JobLedger
from services.executor.jobs.memory import AnswerMemory
from services.executor.jobs.waits import Waits
from services.executor.locked_rows import LockedRows


def job(**known: Any) -> Job:
    run: Any = SimpleNamespace()
    return Job(run, SimpleNamespace(), True, uuid4(), 0.0, 0.0, AnswerMemory().share(1, None), **known)  # type: ignore[arg-type]


def run_of_an_attempt() -> Any:
    attempt = SimpleNamespace(id=3, tenant_id=9, public_id=uuid4())
    return SimpleNamespace(attempt=attempt, slot=SimpleNamespace(give_back=lambda: None))


def test_the_key_of_an_attempt_is_the_same_whoever_computes_it() -> None:
    task = uuid4()
    first, again, next_one = (SimpleNamespace(public_id=task, number=number) for number in (1, 1, 2))
    assert intent_key(first) == intent_key(again) != intent_key(next_one)  # type: ignore[arg-type]


def test_only_what_is_new_is_written() -> None:
    known = job(provider_id="p", status="processing", progress=40.0, message="half")
    same = JobReport(JobStatus.PROCESSING, "p", 40.004, "half")
    assert known.heard(same) is None
    news = known.heard(JobReport(JobStatus.PROCESSING, "p", 41.0, "more"))
    assert news is not None
    known.wrote(news)
    assert (known.progress, known.message) == (41.0, "more")
    assert known.heard(JobReport(JobStatus.PROCESSING, "p", 41.0, "more")) is None


@pytest.mark.parametrize(
    ("told", "kept"), [(10.0, 40.0), (150.0, 100.0), (-3.0, 40.0), (float("nan"), 40.0), (None, 40.0)]
)
def test_a_percentage_never_falls_and_stays_one(told: float | None, kept: float) -> None:
    known = job(provider_id="p", status="processing", progress=40.0)
    news = known.heard(JobReport(JobStatus.PROCESSING, "p", told, "x"))
    assert news is not None
    assert news.unit_progress == kept


def test_secrets_in_what_a_provider_says_are_not_kept() -> None:
    news = job(provider_id="p").heard(JobReport(JobStatus.PROCESSING, "p", message="sent Authorization: Bearer canary"))
    assert news is not None
    assert news.message == "sent Authorization: ***"


def test_what_has_begun_is_not_queued_again() -> None:
    news = job(provider_id="p", status="processing").heard(JobReport(JobStatus.QUEUED, "p", message="x"))
    assert news is not None
    assert (news.status, news.begun) == ("processing", True)


@pytest.mark.parametrize("name", ["a\x00b", "\ud800", "x" * 513])
def test_an_id_that_cannot_be_kept_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="cannot be kept"):
        job().heard(JobReport(JobStatus.QUEUED, name))


async def test_an_adapter_that_breaks_or_hangs_is_a_failed_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.jobs.calls._GRACE_SECONDS", 0.0)
    call = JobCall("key", "http://p", "", {}, b"", timeout_seconds=0.01)

    async def breaks(_: JobCall) -> None:
        raise KeyError("a slip of the adapter")

    async def hangs(_: JobCall) -> None:
        await asyncio.Event().wait()

    for ask, code in ((breaks, "adapter_failed"), (hangs, "model_timeout")):
        with pytest.raises(ModelError) as caught:
            await in_time(call, ask)
        assert (caught.value.code, caught.value.sent, caught.value.answered) == (code, True, False)
    with pytest.raises(LookupError):
        await in_time(call, breaks, passes=LookupError)


async def test_a_slot_that_was_lent_comes_back_before_anything_new() -> None:
    slots, freed = Slots(2), []
    assert slots.take(1)
    assert slots.take(1)
    mine, other = (Slot(slots, 1, lambda: freed.append(1)) for _ in range(2))
    mine.give_back()
    mine.give_back()
    assert (slots.used, freed) == (1, [1])
    assert slots.take(2)
    back = asyncio.create_task(mine.take_again())
    await asyncio.sleep(0)
    assert not back.done()
    other.give_back()
    await back
    assert (slots.used, slots.free) == (2, 0)


async def test_who_stops_waiting_for_a_slot_leaves_none_taken() -> None:
    slots = Slots(1)
    assert slots.take(1)
    holder, waits = Slot(slots, 1, lambda: None), Slot(slots, 1, lambda: None)
    waits._held = False
    for together in (False, True):
        back = asyncio.create_task(waits.take_again())
        await asyncio.sleep(0)
        if together:  # the slot is handed over in the moment of the cancellation
            holder.give_back()
        back.cancel()
        with pytest.raises(asyncio.CancelledError):
            await back
    assert slots.used == 0


async def test_a_call_that_comes_before_the_rest_ends_it_at_once() -> None:
    waits, given = Waits(), []
    run: Any = SimpleNamespace(
        attempt=SimpleNamespace(id=7), waits=False, slot=SimpleNamespace(give_back=lambda: given.append(1))
    )
    waits.called(7)
    await asyncio.wait_for(waits.rest(run, 60), 1)
    assert given == []
    resting = asyncio.create_task(waits.rest(run, 60))
    await asyncio.sleep(0)
    assert run.waits
    waits.called(7)
    await asyncio.wait_for(resting, 1)
    assert not run.waits
    assert given == [1]


@pytest.mark.parametrize("mine", [True, False])
async def test_listeners_hear_of_news_that_were_written(mine: bool) -> None:
    heard: list[tuple[int, int]] = []

    async def news_many(rows: Any) -> dict[int, str]:
        return {attempt.id: "" for attempt, _ in rows} if mine else {}

    ledger = JobLedger(
        SimpleNamespace(news_many=news_many),  # type: ignore[arg-type]
        LockedRows(SimpleNamespace()),  # type: ignore[arg-type]
        changed=heard.extend,
        is_data_error=lambda _: False,
    )
    assert await ledger.news(run_of_an_attempt(), job(provider_id="p").news("queued")) is mine
    assert heard == ([(9, 3)] if mine else [])
    await ledger.close(1)


async def test_who_stops_an_attempt_waits_for_the_intent_that_is_being_written() -> None:
    written = asyncio.Event()

    async def intend_many(rows: Any) -> dict[int, float]:
        await written.wait()
        return {attempt.id: 1.0 for attempt, _ in rows}

    ledger = JobLedger(
        SimpleNamespace(intend_many=intend_many),  # type: ignore[arg-type]
        LockedRows(SimpleNamespace()),  # type: ignore[arg-type]
        changed=lambda _: None,
        is_data_error=lambda _: False,
    )
    intending = asyncio.create_task(ledger.intend(run_of_an_attempt(), JobIntent(uuid4(), "test", True, 60)))
    await asyncio.sleep(0.01)
    intending.cancel()
    await asyncio.sleep(0.01)
    assert not intending.done(), "what ends the attempt would not see the job"
    written.set()
    with pytest.raises(asyncio.CancelledError):
        await intending
    await ledger.close(1)
