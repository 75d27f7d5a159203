"""A job that puts out several files, from REST to the event, as callers meet it."""

from __future__ import annotations

from tests.support.replicate_provider import PNG, Refusal
from tests.support.road import Road


async def test_three_files_go_from_a_provider_to_their_owner(road: Road) -> None:
    await road.start_all()
    tenant, stranger = await road.tenant(), await road.tenant()
    await road.job_model(tenant, plan={"output": None, "files": 3})
    road.provider.files.append(Refusal(503))
    (task,) = await road.submit(tenant)
    await road.ended([task])
    await road.assert_whole([task])

    wanted = [PNG + b"%d.png" % number for number in range(3)]
    for index, content in enumerate(wanted):
        answer = await road.call(tenant, "GET", f"/v1/tasks/{task}/result/{index}")
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert (await road.call(stranger, "GET", f"/v1/tasks/{task}/result/{index}")).status_code == 404
    (view,) = await road.views(tenant, [task])
    result = view["result"]
    assert [(file["index"], file["type"], file["size"]) for file in result["files"]] == [
        (index, "png", len(content)) for index, content in enumerate(wanted)
    ]
    assert (result["url"], result["size"]) == (result["files"][0]["url"], result["files"][0]["size"])
    assert view["times"]["fetched_at"]
    old = (await road.call(tenant, "GET", f"/task/getTaskResult?taskId={task}")).json()["data"]
    assert (old["ossFile"], old["fileType"], old["fileSize"]) == (result["url"], "png", len(wanted[0]))
    (event,) = [event for event in await road.events() if event.key == task]
    assert event.data["files"] == result["files"]
    assert event.data["ossFile"] == result["url"]
    assert road.provider.twice() == []
    assert [job for job in road.provider.jobs if job != "before"] == ["job0001"]
