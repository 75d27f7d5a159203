"""Replay jobs: progress, what became of each, and how to hold or stop one."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from libs.common.domain.errors import NotFound
from libs.common.operations.dead_json import item_document, job_document
from libs.common.ports_dead import JobState
from services.api.console.live import LivePart
from services.api.console.rendering import fragment, page, part, seen_next
from services.api.console.tools import Tools
from services.api.console.visit import Visit, address
from services.api.cursors import before_of, cursor_of
from services.api.routes.context import number_of

_PATH: Final = "/console/replays"
_PAGE: Final = 50
_OVER: Final = (JobState.DONE.value, JobState.STOPPED.value)


async def show(tools: Tools, visit: Visit) -> Response:
    """A page of jobs, newest first."""
    before = before_of("replay", visit.asked("cursor") or None)
    jobs, following = await tools.cases.replays.page(visit.reach, before, _PAGE)
    next_url = address(_PATH, cursor=cursor_of("replay", following)) if following else None
    return page(
        visit, "replays.html", jobs=[job_document(job) for job in jobs], first=before is None, next_url=next_url
    )


async def show_one(tools: Tools, visit: Visit) -> Response:
    """A job with its progress, and a page of what became of each."""
    return page(visit, "replay.html", **await _items(tools, visit))


async def items(tools: Tools, visit: Visit) -> Response:
    """What became of each, once more: a page asks for it when its job is over."""
    return fragment(visit, "_replay_items.html", **await _items(tools, visit))


async def live(tools: Tools, visit: Visit) -> Response:
    """The progress, until the job is over."""

    async def render() -> tuple[str, bool]:
        job = await _job(tools, visit)
        over = job["state"] in _OVER
        return part(visit, "_replay.html", job=job, over=over), over

    return LivePart(tools, visit, render, seconds=0.5)


async def steer(tools: Tools, visit: Visit) -> Response:
    """Pause, go on, or stop."""
    number = _number(visit)
    replays, what = tools.cases.replays, visit.form.get("what", "")
    steps = {"pause": replays.pause, "resume": replays.resume, "stop": replays.stop}
    if what not in steps:
        raise NotFound("replay_unknown", "a job can be paused, resumed and stopped")
    await steps[what](visit.reach, number)
    return seen_next(f"{_PATH}/{number}")


async def _items(tools: Tools, visit: Visit) -> dict[str, Any]:
    job = await _job(tools, visit)
    after = before_of("item", visit.asked("cursor") or None)
    found, following = await tools.cases.replays.items(visit.reach, int(job["id"]), after, _PAGE)
    path = f"{_PATH}/{job['id']}"
    return {
        "job": job,
        "over": job["state"] in _OVER,
        "items": [item_document(item) for item in found],
        "first": after is None,
        "first_url": path,
        "next_url": address(path, cursor=cursor_of("item", following)) if following else None,
    }


async def _job(tools: Tools, visit: Visit) -> dict[str, Any]:
    return job_document(await tools.cases.replays.show(visit.reach, _number(visit)))


def _number(visit: Visit) -> int:
    number = number_of(visit.request.path_params["id"])
    if number is None:
        raise NotFound("replay_unknown", "there is no such replay job")
    return number
