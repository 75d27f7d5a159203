"""A listener hears of a task from its create to its end, over all processes."""

from __future__ import annotations

from libs.common.domain.task import TaskStatus
from tests.support.listeners import hearing
from tests.support.road import Road, until


async def test_a_listener_hears_every_step_of_every_process(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=2, retry_times=1)
    url = road.processes["api"][0].address
    async with hearing(url, road.keys[tenant], "/v1/events") as heard:
        tasks = await road.submit(tenant, 6, seconds=0.3)
        (failing,) = await road.submit(tenant, 1, fail=1, seconds=0.3)
        async with hearing(url, road.keys[tenant], f"/v1/tasks/{tasks[-1]}/events") as one:
            await road.ended([*tasks, failing], 40)
            await until(lambda: one.ended, 5, "the stream of a task ends with it")
        await until(
            lambda: all("success" in heard.statuses(task) for task in (*tasks, failing)), 10, "all are heard of"
        )
    for task in tasks:
        codes = [TaskStatus[status.upper()] for status in heard.statuses(task)]
        assert codes == sorted(codes)
        assert len(set(codes)) == len(codes)
        assert {"processing", "success"} <= set(heard.statuses(task))
    # A status that lasted less than 200 ms may be skipped: not for all of them.
    assert any("submitted" in heard.statuses(task) for task in tasks)
    # Four of six waited for one of two permits: that was long enough to be seen.
    assert sum("queued" in heard.statuses(task) for task in tasks) >= 3
    assert "failed" in heard.statuses(failing)
    for task in (*tasks, failing):
        sequences = [news["sequence"] for news in heard.news if news["id"] == task]
        assert sequences == sorted(set(sequences))
    assert one.news[-1]["final"]
