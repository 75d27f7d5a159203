"""A provider that repeats the address at which it may call back: nobody reads the token there."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from libs.common.domain.task import TaskStatus
from tests.support.executor_rig import Rig, until
from tests.support.job_rig import Jobs, open_jobs

ADDRESS = "https://us.example/v1/callbacks/"
TOKEN = "Tk9UIEZPUiBZT1U-_x"


@pytest.fixture
async def jobs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Jobs]:
    async with open_jobs(rig, monkeypatch) as opened:
        yield opened


async def test_the_token_of_a_callback_is_stored_logged_and_pushed_nowhere(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"calling {ADDRESS}{TOKEN}"
    steps = [{"status": "processing", "message": told}] * 3 + [{"status": "failed", "message": f"{told} failed"}]
    model = await jobs.model()
    await jobs.rig.executor(callback_url=lambda _: lambda key, seconds: ADDRESS + TOKEN)
    ids = await jobs.begin(model, steps=steps)
    seen: set[str] = set()

    async def over() -> bool:
        rows = await jobs.rig.sql("SELECT job_message FROM task_face")
        seen.update(row["job_message"] for row in rows if row["job_message"])
        return set((await jobs.rig.statuses(ids)).values()) == {TaskStatus.FAILED}

    await until(over, "it has failed")
    assert jobs.provider.callbacks == [ADDRESS + TOKEN]
    (task,) = await jobs.rig.sql("SELECT error_message FROM task")
    assert task["error_message"] == f"calling {ADDRESS}*** failed"
    assert seen
    kept = await jobs.rig.sql(
        "SELECT (SELECT string_agg(p::text, '') FROM provider_job p) || (SELECT string_agg(a::text, '') FROM attempt a)"
        " || (SELECT string_agg(e::text, '') FROM event e) || (SELECT string_agg(t::text, '') FROM task t) AS text"
    )
    assert ADDRESS in kept[0]["text"]
    for text in (kept[0]["text"], *seen, capsys.readouterr().out):
        assert TOKEN not in text
