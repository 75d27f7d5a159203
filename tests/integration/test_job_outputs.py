"""A provider's job that puts out several files, from its links to the record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.job_http import open_job_http
from libs.common.adapters.models.replicate import Replicate
from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.runtime import failpoints
from services.executor import collecting
from tests.support.executor_rig import Rig, until
from tests.support.replicate_provider import PNG, Plan, Refusal, ReplicateProvider, replicate_provider


@dataclass
class Desk:
    rig: Rig
    provider: ReplicateProvider

    async def begin(self, **fields: Any) -> tuple[Model, int]:
        """A task of a model whose jobs go as the provider's plan says."""
        told = {"adapter": "replicate", "adapter_config": '{"settle_seconds": 1}', "poll_seconds": 1, **fields}
        model = await self.rig.make_model(base_url=self.provider.url, route="v1/predictions", **told)
        (task,) = await self.rig.make_tasks(model, 1, b'{"input":{"prompt":"x"}}')
        await self.rig.take_slots(model, [task])
        await self.rig.dispatch(model)
        return model, task

    async def error(self) -> tuple[str, bool]:
        """The code that the one task ended with, and whether it is among the dead."""
        (row,) = await self.rig.sql("SELECT error_code, (SELECT count(*) FROM dead_task) = 1 AS dead FROM task")
        return row["error_code"], row["dead"]


@pytest.fixture
async def desk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(collecting, "_FIRST_PAUSE", 0.01)
    async with replicate_provider(checks_token=False) as provider, open_job_http(EgressGuard(["127.0.0.0/8"])) as http:
        rig.jobs["replicate"] = Replicate(http)
        provider.plan = Plan(("succeeded",), files=3)
        yield Desk(rig, provider)


async def test_every_file_of_a_job_is_fetched_stored_and_recorded(desk: Desk) -> None:
    running = await desk.rig.executor()
    desk.provider.files.extend([Refusal(503), Refusal(429, headers={"Retry-After": "0"})])
    model, task = await desk.begin()
    await desk.rig.ended([task])
    (row,) = await desk.rig.sql("SELECT files, oss_file, file_size FROM task")
    files = orjson.loads(row["files"])
    stored = running.results.stored
    assert [stored[file["name"]] for file in files] == [PNG + b"%d.png" % number for number in range(3)]
    assert [file["index"] for file in files] == [0, 1, 2]
    assert (row["oss_file"], row["file_size"]) == (files[0]["url"], len(PNG) + 5)
    assert desk.provider.calls["file"] == 5
    assert len(desk.provider.submits) == 1
    assert running.staging.files == {}
    (event,) = await desk.rig.sql("SELECT files FROM event")
    assert orjson.loads(event["files"]) == files
    await desk.rig.nothing_taken(model)


async def test_links_that_have_expired_end_the_task_at_once(desk: Desk) -> None:
    running = await desk.rig.executor()
    desk.provider.expired = True
    model, task = await desk.begin(retry_times=3)
    await desk.rig.ended([task], TaskStatus.FAILED)
    assert await desk.error() == ("output_link_expired", True)
    assert len(desk.provider.submits) == 1
    assert running.staging.files == {}
    await desk.rig.nothing_taken(model)


async def test_a_job_without_outputs_says_so(desk: Desk) -> None:
    await desk.rig.executor()
    desk.provider.plan = Plan(("succeeded",), files=0)
    _, task = await desk.begin()
    await desk.rig.ended([task], TaskStatus.FAILED)
    assert await desk.error() == ("no_outputs", True)


async def test_who_dies_between_two_files_leaves_the_job_to_another_who_fetches_them_all(desk: Desk) -> None:
    first = await desk.rig.executor()
    failpoints.arm("executor/after-one-collect:2:delay=60000")
    try:
        model, task = await desk.begin()
        await until(lambda: failpoints.reached().get("executor/after-one-collect", 0) >= 2, "two files are staged")
        assert len(first.staging.files) >= 2
        for run in list(first.executor.runs._by_token.values()):
            run.ending = True  # as if killed: it says and writes nothing more
            assert run.pending is not None
            run.pending.cancel()
        await first.stop()
    finally:
        failpoints.arm("")
    second = await desk.rig.executor()
    await desk.rig.sweeps.rescue([first.number], 3)
    await desk.rig.dispatch(model)
    await desk.rig.ended([task])
    assert len(desk.provider.submits) == 1
    assert len(second.results.stored) == 3
    assert (await desk.rig.sql("SELECT attempt FROM task"))[0]["attempt"] == 1


async def test_staging_without_room_puts_the_outputs_off_and_the_job_is_not_run_again(desk: Desk) -> None:
    running = await desk.rig.executor()
    running.staging.refuses = True
    model, task = await desk.begin()

    async def put_off() -> bool:
        return bool(await desk.rig.sql("SELECT 1 FROM dispatch WHERE state = 2 AND phase = 1"))

    await until(put_off, "it is put off")
    running.staging.refuses = False
    # What it starts while it closes goes back to the dispatcher, which is us.
    await until(lambda: running.executor.posture() == "staging_full", "it takes nothing for a while")
    await desk.rig.sql("UPDATE dispatch SET due_at = now()")
    await desk.rig.sweeps.promote_due(10)
    await desk.rig.dispatch(model)
    await desk.rig.ended([task], seconds=20)
    assert len(desk.provider.submits) == 1
