"""One task: its life as a timeline, what it got, what came out, and the button that ends it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response

from libs.common.ports_operations import OperationFilter
from libs.common.ports_tasks import TaskView
from libs.common.runtime.body_redaction import kept_body
from services.api.console.live import LivePart
from services.api.console.pages.result import files_of
from services.api.console.rendering import page, part, seen_next
from services.api.console.timeline import KINDS, timeline
from services.api.console.tools import Tools
from services.api.console.visit import Visit
from services.api.push.stream import Stream

_PAYLOAD_BYTES: Final = 64 * 1024
_ENTRIES: Final = 20
#: An open task's last span grows; it is drawn anew this often.
_STEP_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class Payload:
    """What the model gets, as much as is shown of it, secrets masked."""

    text: str
    size: int
    cut: bool


async def show(tools: Tools, visit: Visit) -> Response:
    """Everything about a task. Looking here does not mark its result as fetched."""
    public_id = visit.task_id()
    values = await _life(tools, visit)
    head = await tools.cases.reading.payload_head(visit.caller, public_id, _PAYLOAD_BYTES)
    entries, _ = await tools.cases.operations.list_page(
        visit.caller.tenant_id, OperationFilter(public_id), None, _ENTRIES
    )
    return page(visit, "task.html", payload=_payload(*head) if head else None, entries=entries, **values)


async def live(tools: Tools, visit: Visit) -> Response:
    """What changes while a task is open."""

    async def render() -> tuple[str, bool]:
        values = await _life(tools, visit)
        return part(visit, "_task_life.html", **values), not values["task"].open

    async def news() -> Stream:
        stream, _ = await tools.hub.watch(visit.caller.tenant_id, visit.task_id())
        return stream

    return LivePart(tools, visit, render, news=news)


async def cancel(tools: Tools, visit: Visit) -> Response:
    """End one task."""
    public_id = visit.task_id()
    await tools.cases.canceling.cancel(visit.caller, public_id)
    return seen_next(visit.link(f"/console/tasks/{public_id}"))


async def _life(tools: Tools, visit: Visit) -> dict[str, Any]:
    reading, public_id = tools.cases.reading, visit.task_id()
    task = await reading.peek(visit.caller, public_id)
    attempts = await reading.attempts(visit.caller, public_id)
    history = await reading.history(visit.caller, public_id)
    return {
        "task": task,
        "files": files_of(task),
        "why": await tools.cases.why.task(visit.caller.tenant_id, public_id) if task.open else None,
        "attempts": attempts,
        "history": history,
        "line": timeline(task, attempts, history, _now(task)),
        "kinds": KINDS,
    }


def _now(task: TaskView) -> datetime:
    """Now in steps, so that what shows nothing new is not sent again; never before what is known to have been."""
    second = int(datetime.now(UTC).timestamp())
    now = datetime.fromtimestamp(second - second % _STEP_SECONDS, UTC)
    known = (task.created_at, task.entered_at, task.leased_at, task.started_at, task.generated_at, task.migrating_at)
    return max(now, *(at for at in known if at is not None))


def _payload(head: bytes, size: int) -> Payload:
    cut = size > len(head)
    if not cut:
        with suppress(ValueError, RecursionError):  # else it is shown as it came: so does the model get it
            head = json.dumps(json.loads(head), indent=2, ensure_ascii=False).encode()
    return Payload(kept_body(head, 4 * _PAYLOAD_BYTES), size, cut)
