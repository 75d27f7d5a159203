"""What is deleted when its time is over, and what never is."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.support.road import Road, until


async def test_tasks_go_when_their_time_is_over_and_results_stay(road: Road) -> None:
    await road.start_all(executors=1)
    tenant = await road.tenant()
    await road.model(tenant, auto_clean_seconds=3_600)
    fetched, unfetched, read_late, fresh, dead, young_dead = await road.submit(tenant, 4) + await road.submit(
        tenant, 2, fail=9, status=400
    )
    await road.sql("UPDATE lane SET paused = true")
    canceled, young_canceled = await road.submit(tenant, 2)
    for task in (canceled, young_canceled):
        await road.call(tenant, "POST", f"/v1/tasks/{task}/cancel")
    everything = [fetched, unfetched, read_late, fresh, dead, young_dead, canceled, young_canceled]
    await road.sql("UPDATE lane SET paused = false")
    await road.ended(everything, status=None)
    await road.announced(everything)
    results = [view["result"]["url"] for view in await road.views(tenant, [fetched, read_late])]
    rows = await road.sql("SELECT oss_file FROM task WHERE public_id = $1::uuid", unfetched)
    results.append(rows[0]["oss_file"])

    # an hour and a second, 91 days, 31 days go by for some of them
    await road.sql("UPDATE task SET expire_at = expire_at - interval '3601 s' WHERE public_id = $1::uuid", fetched)
    for task, days in ((unfetched, 91), (dead, 31), (canceled, 31)):
        await road.sql(
            "UPDATE task SET created_at = created_at - make_interval(days => $2),"
            " finished_at = finished_at - make_interval(days => $2) WHERE public_id = $1::uuid",
            task, days,
        )  # fmt: skip
    await road.sql(
        "UPDATE dead_task SET died_at = died_at - interval '31 days'"
        " WHERE task_id = (SELECT id FROM task WHERE public_id = $1::uuid)",
        dead,
    )
    over = {fetched, unfetched, dead, canceled}

    async def gone() -> bool:
        stored = await road.sql("SELECT public_id::text FROM task")
        return {row["public_id"] for row in stored} == set(everything) - over

    await road.start("janitor")  # one that begins looks at once, not in half a minute
    await until(gone, 40, "what is over is deleted, and nothing else")
    for task in everything:
        answer = await road.call(tenant, "GET", f"/v1/tasks/{task}")
        assert answer.status_code == (404 if task in over else 200)
    assert all(Path(unquote(urlsplit(url).path)).exists() for url in results)
    entries = await road.sql("SELECT task_id::text FROM op_log WHERE success")
    assert {row["task_id"] for row in entries} == set(everything), "who asked for it is remembered longer"
    await road.assert_whole([task for task in everything if task not in over])
