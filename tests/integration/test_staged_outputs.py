"""Small outputs are kept in PostgreSQL exactly as long as somebody may still need them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from libs.common.domain.output import IN_DATABASE, StagedFile
from libs.common.domain.settle import Finish, Park, Retry
from libs.common.domain.task import Phase, TaskStatus
from libs.common.ports_attempts import Attempt, Claim
from tests.support.queue_desk import TENANT, QueueDesk, open_desk

_CONTENT = b"\x00small\xff" * 1_000
_STAGED = StagedFile(IN_DATABASE, len(_CONTENT), b"hash", "bin", "application/octet-stream", _CONTENT)


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


async def _generated(desk: QueueDesk, staged: StagedFile = _STAGED) -> Attempt:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    assert await desk.executor.generated_many([(attempt, staged)]) == {id_}
    return attempt


async def _kept(desk: QueueDesk) -> list[bytes]:
    return [row["content"] for row in await desk.sql("SELECT content FROM staged_output ORDER BY task_id")]


async def test_whoever_goes_on_with_the_upload_gets_the_content(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    assert await desk.executor.park_many([(attempt, Park("upload", "m", 0.0))]) == {attempt.id}
    await desk.sweeps.promote_due(10)
    await desk.lease(attempt.lane)
    (again,) = await desk.start([attempt.id])
    assert (again.phase, again.staged) == (Phase.GENERATED, _STAGED)
    claim = Claim(again.id, again.lease, again.token, 60)
    assert [read.staged for read in await desk.executor.started_many([claim])] == [_STAGED]


async def test_recorded_twice_after_a_lost_answer_it_is_kept_once(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    newer = replace(_STAGED, content=b"newer", size=5)
    assert await desk.executor.generated_many([(attempt, newer)]) == {attempt.id}
    assert await _kept(desk) == [b"newer"]


async def test_who_has_lost_the_token_keeps_nothing(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    zombie = replace(attempt, token=attempt.public_id)
    assert await desk.executor.generated_many([(zombie, replace(_STAGED, content=b"zombie"))]) == set()
    assert await _kept(desk) == [_CONTENT]


async def test_a_file_leaves_no_row(desk: QueueDesk) -> None:
    await _generated(desk, replace(_STAGED, reference="local:x", content=None))
    assert await _kept(desk) == []


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (Finish(TaskStatus.SUCCESS), []),
        (Finish(TaskStatus.CANCELED, "canceled", "m"), []),
        (Finish(TaskStatus.FAILED, "upload_failed", "m", dead=True), [_CONTENT]),
    ],
)
async def test_the_end_deletes_it_unless_a_replay_may_need_it(desk: QueueDesk, end: Finish, left: list[bytes]) -> None:
    attempt = await _generated(desk)
    assert await desk.executor.finish_many([(attempt, end)]) == {attempt.id}
    assert await _kept(desk) == left
    await desk.sql("DELETE FROM event")
    assert await desk.sweeps.delete_tasks([attempt.id]) == [attempt.id]
    assert await _kept(desk) == []


async def test_a_retry_calls_the_model_again_and_needs_it_no_more(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    await desk.executor.retry_many([(attempt, Retry("upload_refused", "m", 0.0, head=True, timed_out=False))])
    assert await _kept(desk) == []


async def test_a_parked_upload_that_is_canceled_needs_it_no_more(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    await desk.executor.park_many([(attempt, Park("upload", "m", 60.0))])
    assert len(await desk.tasks.cancel_waiting(TENANT, [attempt.public_id])) == 1
    assert await _kept(desk) == []
