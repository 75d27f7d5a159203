"""An executor rig with a provider of jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from libs.common.domain.model import Model
from services.executor.jobs.job import Job
from services.executor.jobs.life import JobLife
from tests.support.executor_rig import Rig, Running, until
from tests.support.job_provider import JobProvider, job_provider


@dataclass
class Jobs:
    """A rig with a provider."""

    rig: Rig
    provider: JobProvider
    hurry: float = 8.0  #: how many times faster than a model may say the provider is asked
    pauses: list[float] = field(default_factory=list)  #: between looks, as they would have been without that

    async def model(self, config: dict[str, Any] | None = None, **fields: Any) -> Model:
        """A model of the provider; looks come as fast as they may."""
        given = {"adapter": "test", "adapter_config": orjson.dumps(config or {}).decode(), "poll_seconds": 1} | fields
        return await self.rig.make_model(base_url=self.provider.url, **given)

    async def begin(self, model: Model, count: int = 1, **payload: Any) -> list[int]:
        ids = await self.rig.make_tasks(model, count, orjson.dumps(payload))
        await self.rig.take_slots(model, ids)
        await self.rig.dispatch(model)
        return ids

    async def job(self) -> Any:
        rows = await self.rig.sql("SELECT * FROM provider_job ORDER BY task_id, attempt")
        return rows[-1] if rows else None

    async def waits(self, running: Running, count: int = 1) -> None:
        """Wait until so many jobs wait for the provider."""
        await until(lambda: running.executor.runs.waiting() == count, f"{count} jobs wait")

    async def rescued(self, dead: Running, model: Model) -> None:
        """What a janitor and a dispatcher do when that executor has been silent for long."""
        await self.rig.sweeps.rescue([dead.number], 3)
        await self.rig.dispatch(model)

    async def clean(self) -> None:
        """No open job, no permit and slot taken, one job for each intent."""
        assert await self.rig.sql("SELECT 1 FROM provider_job WHERE ended_at IS NULL") == []
        assert self.provider.most_for_an_intent() <= 1


async def die(running: Running) -> None:
    """The executor is gone as if killed: what it ran says and writes nothing more."""
    for run in list(running.executor.runs._by_token.values()):
        run.ending = True
        assert run.pending is not None
        run.pending.cancel()
    await running.stop()


@asynccontextmanager
async def open_jobs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jobs]:
    """The rig with a provider whose adapter is called `test`; executors are stopped at the end."""
    async with job_provider() as (provider, adapter):
        rig.jobs["test"] = adapter
        opened, pause = Jobs(rig, provider), JobLife._pause

        def hurried(life: JobLife, job: Job, wanted: float) -> float:
            opened.pauses.append(pause(life, job, wanted))
            return opened.pauses[-1] / opened.hurry

        monkeypatch.setattr(JobLife, "_pause", hurried)
        try:
            yield opened
        finally:
            for running in rig.started:
                running.executor.stop()
            await asyncio.gather(*(running.pending for running in rig.started), return_exceptions=True)
