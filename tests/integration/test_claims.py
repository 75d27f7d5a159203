"""What a claim names must be so: of another lease, token, holder or phase it gets nothing, and changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sized
from dataclasses import replace
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import CallAgain, Finish, GiveBack, Park, Retry
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Attempt, Claim
from tests.support.queue_desk import QueueDesk, open_desk

STAGED = StagedFile("local:/a/b", 10, b"h" * 32, "png", "image/png")
OTHER = 8
#: What an executor says of an attempt, and whether its output has to be staged for that.
WORDS: dict[str, tuple[bool, Callable[[PostgresAttempts, Attempt], Awaitable[Sized]]]] = {
    "generated": (False, lambda ours, attempt: ours.generated_many([(attempt, [STAGED])])),
    "migrating": (True, lambda ours, attempt: ours.migrating_many([attempt])),
    "finished": (False, lambda ours, attempt: ours.finish_many([(attempt, Finish(TaskStatus.SUCCESS))])),
    "retried": (False, lambda ours, attempt: ours.retry_many([(attempt, Retry("x", "", 0.0, True, False))])),
    "parked": (True, lambda ours, attempt: ours.park_many([(attempt, Park("x", "", 1.0))])),
    "handed back": (False, lambda ours, attempt: ours.release_many([(attempt, GiveBack("drain", 0.0), True)])),
    "called again": (True, lambda ours, attempt: ours.call_again_many([(attempt, CallAgain("gone"))])),
    "handed over": (True, lambda ours, attempt: ours.hand_over([(attempt, OTHER)])),
    "alive": (False, lambda ours, attempt: ours.alive([attempt])),
}
#: All that could tell of it.
TABLES = ("dispatch", "task", "attempt", "history", "event", "stat_delta", "staged_output", "provider_job")


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


@pytest.fixture
def other(desk: QueueDesk) -> PostgresAttempts:
    """Another executor."""
    return PostgresAttempts(desk.database, OTHER, "UTC")


async def leased(desk: QueueDesk) -> int:
    lane = await desk.lane()
    await desk.create(lane)
    (id_,) = await desk.lease(lane)
    return id_


async def running(desk: QueueDesk) -> Attempt:
    (attempt,) = await desk.start([await leased(desk)])
    return attempt


async def uploading(desk: QueueDesk) -> Attempt:
    """An attempt whose output is staged."""
    attempt = await running(desk)
    assert await desk.executor.generated_many([(attempt, [STAGED])])
    return attempt


async def test_a_stale_lease_holds_and_starts_nothing(desk: QueueDesk) -> None:
    id_ = await leased(desk)
    before = await desk.row(id_)
    stale = desk.leases[id_] - 1
    assert await desk.executor.hold_many([(id_, stale)]) == set()
    assert await desk.start([id_], leases=[stale]) == []
    assert await desk.row(id_) == before


async def test_what_another_executor_holds_is_left_to_it(desk: QueueDesk, other: PostgresAttempts) -> None:
    id_ = await leased(desk)
    lease = desk.leases[id_]
    assert await desk.executor.hold_many([(id_, lease)]) == {(id_, lease)}
    before = await desk.row(id_)
    assert await other.hold_many([(id_, lease)]) == set()
    assert await other.start_many([Claim(id_, lease, uuid4(), 60)]) == []
    assert await other.release_held([id_]) == []
    assert await desk.row(id_) == before


async def test_a_start_is_read_back_by_its_own_token_alone(desk: QueueDesk) -> None:
    attempt = await running(desk)
    claim = Claim(attempt.id, attempt.lease, attempt.token, 60)
    assert await desk.executor.started_many([replace(claim, token=uuid4())]) == []
    assert [found.token for found in await desk.executor.started_many([claim])] == [attempt.token]


@pytest.mark.parametrize("word", WORDS)
async def test_who_lost_its_token_says_nothing_any_more(desk: QueueDesk, word: str) -> None:
    staged, said = WORDS[word]
    attempt = await (uploading if staged else running)(desk)
    before = [await desk.sql(f"SELECT * FROM {table}") for table in TABLES]
    assert len(await said(desk.executor, replace(attempt, token=uuid4()))) == 0
    assert [await desk.sql(f"SELECT * FROM {table}") for table in TABLES] == before
    assert len(await said(desk.executor, attempt)) == 1


async def test_only_a_staged_output_is_handed_over_and_only_by_who_has_it(desk: QueueDesk) -> None:
    calling, attempt = await running(desk), await uploading(desk)
    before = [await desk.row(each.id) for each in (calling, attempt)]
    assert await desk.executor.hand_over([(calling, OTHER), (replace(attempt, token=uuid4()), OTHER)]) == set()
    assert [await desk.row(each.id) for each in (calling, attempt)] == before
    assert await desk.executor.hand_over([(attempt, OTHER)]) == {attempt.id}


async def test_what_was_handed_over_is_seen_by_who_got_it_until_it_is_started(
    desk: QueueDesk, other: PostgresAttempts
) -> None:
    attempt = await uploading(desk)
    assert await desk.executor.hand_over([(attempt, OTHER)])
    held = await leased(desk)
    assert await other.hold_many([(held, desk.leases[held])]), "it waits for a permit, and was handed over by nobody"
    assert await desk.executor.handed() == []
    assert [row.id for row in await other.handed()] == [attempt.id]
    assert await other.start_many([Claim(attempt.id, attempt.lease, uuid4(), 60)])
    assert await other.handed() == []
