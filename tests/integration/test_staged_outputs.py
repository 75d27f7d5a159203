"""What PostgreSQL keeps of staged outputs: small ones themselves, exactly as long as somebody may still need them, and
where each file of several lies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from libs.common.domain.outcome import ResultFile
from libs.common.domain.output import IN_DATABASE, StagedFile
from libs.common.domain.settle import CallAgain, Finish, Park, Retry
from libs.common.domain.task import Phase, TaskStatus
from libs.common.ports_attempts import Attempt, Claim
from libs.common.ports_sweeps import Ending
from tests.support.queue_desk import TENANT, QueueDesk, open_desk

_CONTENT = b"\x00small\xff" * 1_000
_STAGED = StagedFile(IN_DATABASE, len(_CONTENT), b"hash", "bin", "application/octet-stream", _CONTENT)


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[QueueDesk]:
    async with open_desk(database_url) as desk:
        yield desk


async def _generated(desk: QueueDesk, *staged: StagedFile) -> Attempt:
    lane = await desk.lane()
    (id_,) = await desk.create(lane)
    await desk.lease(lane)
    (attempt,) = await desk.start([id_])
    assert await desk.executor.generated_many([(attempt, staged or (_STAGED,))]) == {id_}
    return attempt


async def _kept(desk: QueueDesk) -> list[bytes]:
    return [row["content"] for row in await desk.sql("SELECT content FROM staged_output ORDER BY task_id")]


async def test_whoever_goes_on_with_the_upload_gets_the_content(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    assert await desk.executor.park_many([(attempt, Park("upload", "m", 0.0))]) == {attempt.id}
    await desk.sweeps.promote_due(10)
    await desk.lease(attempt.lane)
    (again,) = await desk.start([attempt.id])
    assert (again.phase, again.staged) == (Phase.GENERATED, (_STAGED,))
    claim = Claim(again.id, again.lease, again.token, 60)
    assert [read.staged for read in await desk.executor.started_many([claim])] == [(_STAGED,)]


async def test_recorded_twice_after_a_lost_answer_it_is_kept_once(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    newer = replace(_STAGED, content=b"newer", size=5)
    assert await desk.executor.generated_many([(attempt, [newer])]) == {attempt.id}
    assert await _kept(desk) == [b"newer"]


async def test_who_has_lost_the_token_keeps_nothing(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    zombie = replace(attempt, token=attempt.public_id)
    assert await desk.executor.generated_many([(zombie, [replace(_STAGED, content=b"zombie")])]) == set()
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
    assert await desk.clean(attempt.id) == [attempt.id]
    assert await _kept(desk) == []


async def test_no_retry_calls_the_model_again_for_what_is_staged(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    retry = Retry("upload_refused", "m", 0.0, head=True, timed_out=False)
    assert await desk.executor.retry_many([(attempt, retry)]) == set()
    assert await _kept(desk) == [_CONTENT]


async def test_a_parked_upload_that_is_canceled_needs_it_no_more(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    await desk.executor.park_many([(attempt, Park("upload", "m", 60.0))])
    assert len(await desk.tasks.cancel_waiting(TENANT, [attempt.public_id])) == 1
    assert await _kept(desk) == []


_SEVERAL = tuple(
    StagedFile(f"local:{index}", 10 + index, bytes([index]) * 32, kind, mime)
    for index, (kind, mime) in enumerate(
        (("png", "image/png"), ("bin", "application/octet-stream"), ("txt", "text/plain"))
    )
)


async def _row(desk: QueueDesk, table: str) -> dict[str, object]:
    (row,) = await desk.sql(f"SELECT staged, staged_size, staged_files IS NULL AS one FROM {table}")
    return dict(row)


async def test_every_file_of_several_is_known_to_whoever_goes_on(desk: QueueDesk) -> None:
    attempt = await _generated(desk, *_SEVERAL)
    assert await _row(desk, "dispatch") == {"staged": "local:0", "staged_size": 33, "one": False}
    assert await _kept(desk) == []
    await desk.executor.park_many([(attempt, Park("upload", "m", 0.0))])
    await desk.sweeps.promote_due(10)
    await desk.lease(attempt.lane)
    (again,) = await desk.start([attempt.id])
    assert again.staged == _SEVERAL
    claim = Claim(again.id, again.lease, again.token, 60)
    assert [read.staged for read in await desk.executor.started_many([claim])] == [_SEVERAL]


async def test_one_file_needs_no_list(desk: QueueDesk) -> None:
    await _generated(desk)
    assert await _row(desk, "dispatch") == {"staged": IN_DATABASE, "staged_size": len(_CONTENT), "one": True}


async def test_a_dead_task_keeps_all_files_until_its_time_is_over(desk: QueueDesk) -> None:
    attempt = await _generated(desk, *_SEVERAL)
    assert await desk.executor.finish_many([(attempt, Finish(TaskStatus.FAILED, "upload_failed", "m", dead=True))])
    assert await _row(desk, "dead_task") == {"staged": "local:0", "staged_size": 33, "one": False}
    asked = [(reference, attempt.public_id) for reference in ("local:0", "local:2", "local:strange")]
    assert await desk.sweeps.needed_staged(asked) == {"local:0", "local:2"}
    await desk.sql("DELETE FROM event")
    await desk.sql("UPDATE dead_task SET died_at = now() - interval '8 days'")
    (over,) = await desk.sweeps.dead_over(7, 10)
    assert (over.id, over.staged) == (attempt.id, ["local:0", "local:1", "local:2"])


async def test_a_dead_task_of_one_file_or_none_says_so(desk: QueueDesk) -> None:
    attempt = await _generated(desk, replace(_STAGED, reference="local:x", content=None))
    lane = await desk.lane()
    (other,) = await desk.create(lane)
    await desk.lease(lane)
    (without,) = await desk.start([other])
    for ended in (attempt, without):
        await desk.executor.finish_many([(ended, Finish(TaskStatus.FAILED, "failed", "m", dead=True))])
    await desk.sql("DELETE FROM event")
    await desk.sql("UPDATE dead_task SET died_at = now() - interval '8 days'")
    staged = {task.id: task.staged for task in await desk.sweeps.dead_over(7, 10)}
    assert staged == {attempt.id: ["local:x"], other: []}


async def test_a_parked_upload_that_ends_as_dead_keeps_all_files(desk: QueueDesk) -> None:
    attempt = await _generated(desk, *_SEVERAL)
    await desk.executor.park_many([(attempt, Park("upload", "m", 60.0))])
    (row,) = await desk.sql("SELECT version FROM dispatch")
    ending = Ending(attempt.id, row["version"], TaskStatus.FAILED, "wait_timeout", "m", dead=True)
    assert len(await desk.sweeps.end_waiting([ending])) == 1
    assert await _row(desk, "dead_task") == {"staged": "local:0", "staged_size": 33, "one": False}


async def test_another_call_forgets_them_all(desk: QueueDesk) -> None:
    attempt = await _generated(desk, *_SEVERAL)
    await desk.executor.call_again_many([(attempt, CallAgain("one of them is gone"))])
    assert await _row(desk, "dispatch") == {"staged": None, "staged_size": None, "one": True}
    (row,) = await desk.sql("SELECT staged_size FROM attempt")
    assert row["staged_size"] == 33


async def test_the_end_records_every_file_with_its_place(desk: QueueDesk) -> None:
    attempt = await _generated(desk, *_SEVERAL)
    files = tuple(ResultFile(f"s3://r/{index}", "png", index + 1, "ab", f"n{index}") for index in range(3))
    await desk.executor.finish_many([(attempt, Finish(TaskStatus.SUCCESS, files=files))])
    for table in ("task", "event"):
        (row,) = await desk.sql(f"SELECT oss_file, file_type, file_size, files FROM {table}")
        assert (row["oss_file"], row["file_type"], row["file_size"]) == ("s3://r/0", "png", 1)
        assert orjson.loads(row["files"]) == [
            {"url": f"s3://r/{n}", "type": "png", "size": n + 1, "sha256": "ab", "name": f"n{n}", "index": n}
            for n in range(3)
        ]


async def test_one_that_is_not_what_was_written_goes_with_its_attempt(desk: QueueDesk) -> None:
    attempt = await _generated(desk)
    await desk.executor.call_again_many([(attempt, CallAgain("it has another hash"))])
    assert await _kept(desk) == []
