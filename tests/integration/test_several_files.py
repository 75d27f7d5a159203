"""Outputs of several files from staging to the record: each is uploaded alone, none counts without the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from libs.common.adapters.postgres.attempts import PostgresAttempts
from libs.common.domain.model import Model
from libs.common.domain.model_errors import UploadFailed
from libs.common.domain.output import FILES_LIMIT, ResultName, StagedFile, StoredFile
from libs.common.domain.settle import Park
from libs.common.domain.task import TaskStatus
from libs.common.ports_attempts import Claim
from libs.common.ports_execution import OutputSet, UploadCredentials
from libs.common.runtime import failpoints
from tests.support.executor_rig import FakeResults, FakeStaging, Rig, Running, until

_CONTENTS = (b"first", b"the second", b"3rd")


@dataclass
class Choosy(FakeResults):
    """A result store that answers by the file's place, and remembers who came."""

    asked: list[int] = field(default_factory=list)
    refuse: Callable[[int], UploadFailed | None] = lambda _: None
    running: int = 0
    most: int = 0

    async def put(self, name: ResultName, staged: StagedFile, credentials: UploadCredentials | None) -> StoredFile:
        self.asked.append(name.index)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0)
            if (refusal := self.refuse(name.index)) is not None:
                raise refusal
            return await super().put(name, staged, credentials)
        finally:
            self.running -= 1


def _down() -> UploadFailed:
    return UploadFailed("storage_503", "down", retryable=True)


async def _staged(rig: Rig, model: Model, *contents: bytes) -> tuple[int, FakeStaging]:
    """A task whose output of several files is staged and recorded, ready for whoever uploads it."""
    staging = rig.stagings.setdefault("local", FakeStaging("local"))
    (task,) = await rig.make_tasks(model)
    await rig.take_slots(model, [task])
    (row,) = await rig.lease(model)
    attempts = PostgresAttempts(rig.database, 0, "UTC")
    claim = Claim(row.id, row.lease, (await rig.sql("SELECT gen_random_uuid() AS id"))[0]["id"], 60)
    (attempt,) = await attempts.start_many([claim])
    files = []
    for content in contents:
        writer = staging.create(attempt.public_id, attempt.number, attempt.tenant_id, OutputSet())
        await writer.write(content)
        files.append(await writer.commit("text/plain"))
    assert await attempts.generated_many([(attempt, files)]) == {task}
    await attempts.park_many([(attempt, Park("upload", "m", 0.0))])
    await _again(rig)
    return task, staging


async def _again(rig: Rig) -> None:
    """What is parked is due."""
    await rig.sql("UPDATE dispatch SET due_at = now() WHERE state = 2")
    await rig.sweeps.promote_due(10)


async def _choosy(rig: Rig, in_line: float = 30.0) -> tuple[Running, Choosy]:
    results = Choosy(rig.stagings.setdefault("local", FakeStaging("local")))
    return await rig.executor(results=results, in_line=in_line), results


async def _parked(rig: Rig) -> bool:
    return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 2 AND phase = 2"))


async def test_every_file_is_stored_and_recorded_in_order(rig: Rig) -> None:
    model = await rig.make_model()
    task, staging = await _staged(rig, model, *_CONTENTS)
    _, results = await _choosy(rig)
    await rig.dispatch(model)
    await rig.ended([task])
    assert sorted(results.stored.values()) == sorted(_CONTENTS)
    assert rig.model.calls == []
    for table in ("task", "event"):
        (row,) = await rig.sql(f"SELECT oss_file, file_type, file_size, files FROM {table}")
        files = orjson.loads(row["files"])
        assert [results.stored[file["name"]] for file in files] == list(_CONTENTS)
        assert [file["index"] for file in files] == [0, 1, 2]
        assert (row["oss_file"], row["file_size"]) == (files[0]["url"], len(_CONTENTS[0]))
    assert staging.files == {}
    (attempt,) = await rig.sql("SELECT outcome, staged_size FROM attempt")
    assert tuple(attempt) == ("success", sum(map(len, _CONTENTS)))
    await rig.nothing_taken(model)


async def test_one_failed_file_is_tried_again_alone(rig: Rig) -> None:
    model = await rig.make_model()
    task, _ = await _staged(rig, model, *_CONTENTS)
    _, results = await _choosy(rig)
    results.refuse = lambda index: _down() if index == 1 and results.asked.count(1) < 3 else None
    await rig.dispatch(model)
    await rig.ended([task])
    assert sorted(results.asked) == [0, 1, 1, 1, 2]


async def test_a_file_that_storage_does_not_take_parks_them_all_under_the_same_names(rig: Rig) -> None:
    model = await rig.make_model()
    task, staging = await _staged(rig, model, *_CONTENTS)
    _, results = await _choosy(rig, in_line=0.1)
    results.refuse = lambda index: _down() if index == 2 else None
    await rig.dispatch(model)
    await until(lambda: _parked(rig), "it is parked")
    assert len(staging.files) == 3
    before = set(results.stored)
    results.refuse = lambda _: None
    await _again(rig)
    await rig.dispatch(model)
    await rig.ended([task])
    assert before < set(results.stored)
    assert len(results.stored) == 3
    assert staging.files == {}
    assert [row["attempt"] for row in await rig.sql("SELECT attempt FROM task")] == [1]


async def test_a_final_refusal_of_one_ends_the_task_and_keeps_all_files(rig: Rig) -> None:
    model = await rig.make_model()
    task, staging = await _staged(rig, model, *_CONTENTS)
    _, results = await _choosy(rig)
    final = UploadFailed("upload_http_413", "too large", retryable=False)
    results.refuse = lambda index: final if index == 1 else _down()
    await rig.dispatch(model)
    await rig.ended([task], TaskStatus.FAILED)
    (dead,) = await rig.sql("SELECT error_code, staged_files FROM dead_task")
    assert dead["error_code"] == "upload_http_413"
    assert {file["reference"] for file in orjson.loads(dead["staged_files"])} == set(staging.files)
    assert len(staging.files) == 3
    await rig.nothing_taken(model)


async def test_one_lost_file_costs_another_call_and_the_others_go(rig: Rig) -> None:
    model = await rig.make_model()
    task, staging = await _staged(rig, model, *_CONTENTS)
    del staging.files[next(key for key, content in staging.files.items() if content == b"3rd")]
    await _choosy(rig)
    await rig.dispatch(model)

    async def ready_again() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE state = 0 AND phase = 0 AND staged_files IS NULL"))

    await until(ready_again, "it is ready for another call")
    await until(lambda: not staging.files, "what is left of it goes")
    await rig.dispatch(model)
    await rig.ended([task])
    assert len(rig.model.calls) == 1
    outcomes = await rig.sql("SELECT attempt, outcome FROM attempt ORDER BY attempt")
    assert [tuple(row) for row in outcomes] == [(1, "staging_lost"), (2, "success")]


async def test_the_executor_that_has_the_files_goes_on_with_them(rig: Rig) -> None:
    model = await rig.make_model()
    task, staging = await _staged(rig, model, *_CONTENTS)
    there = await rig.executor(stores=("there",))
    # the one that has them is too busy to read: whoever reads hands them over
    here = await rig.executor()
    await until(lambda: there.executor._ownership.view.stores_differ(), "they see each other")
    here.staging.full = True
    await until(lambda: there.executor._ownership.view.readers() == {there.number}, "only the other one reads")
    await rig.dispatch(model)

    async def handed_over() -> bool:
        return bool(await rig.sql("SELECT 1 FROM dispatch WHERE held_by = $1", here.number))

    await until(handed_over, "it is handed over")
    here.staging.full = False
    await rig.ended([task])
    assert len(here.results.stored) == 3
    assert not there.results.stored
    assert staging.files == {}


async def test_a_cancel_in_the_middle_leaves_nothing_running_and_nothing_staged(rig: Rig) -> None:
    model = await rig.make_model()
    task, staging = await _staged(rig, model, *_CONTENTS)
    running, results = await _choosy(rig)
    results.refuse = lambda index: None if index == 0 else _down()
    await rig.dispatch(model)
    await until(lambda: len(results.asked) > 3, "some are tried again")
    running.executor.runs.cancel([task])
    await rig.ended([task], TaskStatus.CANCELED)
    await until(lambda: len(running.executor.runs) == 0, "the attempt is over")
    assert results.running == 0
    assert staging.files == {}
    await rig.nothing_taken(model)


async def test_what_dies_between_two_files_is_done_again_by_another(rig: Rig) -> None:
    model = await rig.make_model()
    task, staging = await _staged(rig, model, *_CONTENTS)
    running, results = await _choosy(rig)
    failpoints.arm("executor/after-one-upload:2:delay=60000")
    try:
        await rig.dispatch(model)
        await until(lambda: failpoints.reached().get("executor/after-one-upload", 0) >= 2, "two files are there")
        await rig.sql("UPDATE executor SET stopped_at = now()")
        await rig.sweeps.rescue([running.number], 3)
        running.executor.heartbeat.soon()
        await until(lambda: len(running.executor.runs) == 0, "it notices that it was presumed dead")
        assert len(staging.files) == 3
    finally:
        failpoints.arm("")
    await rig.dispatch(model)
    await rig.ended([task])
    assert len(results.stored) == 3
    assert staging.files == {}
    assert [row["attempt"] for row in await rig.sql("SELECT attempt FROM task")] == [1]


async def test_many_files_are_uploaded_a_few_at_a_time(rig: Rig) -> None:
    model = await rig.make_model()
    task, _ = await _staged(rig, model, *(b"%d" % number for number in range(FILES_LIMIT)))
    _, results = await _choosy(rig)
    await rig.dispatch(model)
    await rig.ended([task])
    assert sorted(results.asked) == list(range(FILES_LIMIT))
    assert results.most == 4
