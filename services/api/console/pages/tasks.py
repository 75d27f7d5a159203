"""The list of tasks: filters in the address, pages by cursor, and the cancel of all that a filter finds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from starlette.responses import Response

from libs.common.domain.errors import Invalid
from libs.common.domain.ids import parse_task_id, parse_task_ids
from libs.common.domain.task import TaskStatus
from libs.common.ports_tasks import TaskFilter, TaskView
from services.api.cancellation import BulkCancel
from services.api.console.live import LivePart
from services.api.console.rendering import page, part, seen_next
from services.api.console.tools import Tools
from services.api.console.visit import Visit
from services.api.cursors import before_of, cursor_of
from services.api.push.stream import Stream
from services.api.push.stream import Wanted as NewsWanted
from services.api.routes.context import number_of

_PATH: Final = "/console/tasks"
_PAGE: Final = 50
_OPEN: Final = tuple(status for status in TaskStatus if not status.final)
#: Words of the status filter that stand for several.
GROUPS: Final = {"open": _OPEN, **{status.word: (status,) for status in TaskStatus}}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter in an address."""

    model: str
    status: str
    biz_name: str

    @classmethod
    def of(cls, visit: Visit) -> Wanted:
        """From the address; raises Invalid for what nothing can be looked for by."""
        return cls(*(visit.asked(field.name) for field in fields(cls))).checked()

    @classmethod
    def sent(cls, visit: Visit) -> Wanted:
        """From a form; raises Invalid as well."""
        return cls(*(visit.form.get(field.name, "") for field in fields(cls))).checked()

    def checked(self) -> Wanted:
        """The same; raises Invalid."""
        if self.status and self.status not in GROUPS:
            raise Invalid("invalid", f"There is no status {self.status!r}; there are {', '.join(GROUPS)}.")
        if "\x00" in self.model + self.biz_name:
            raise Invalid("invalid", "A NUL character cannot be looked for.")
        return self

    def narrowed(self) -> TaskFilter:
        """The same for the store."""
        return TaskFilter(self.model or None, GROUPS.get(self.status), self.biz_name or None)

    def parameters(self) -> dict[str, str]:
        """The same for an address."""
        return {"model": self.model, "status": self.status, "biz_name": self.biz_name}


async def show(tools: Tools, visit: Visit) -> Response:
    """A page of tasks, newest first; an id leads straight to its task."""
    looked_for = visit.asked("id").strip()
    if (public_id := parse_task_id(looked_for)) is not None:
        return seen_next(visit.link(f"/console/tasks/{public_id}"))
    wanted = Wanted.of(visit)
    before = before_of("task", visit.asked("cursor") or None)
    found, following = await tools.cases.reading.page(visit.caller, wanted.narrowed(), before, _PAGE)
    next_cursor = cursor_of("task", following)
    return page(
        visit,
        "tasks.html",
        wanted=wanted,
        groups=list(GROUPS),
        unknown_id=looked_for,
        tasks=found,
        live_url=_live_url(visit, found),
        first=before is None,
        next_url=visit.link(_PATH, **wanted.parameters(), cursor=next_cursor) if next_cursor else None,
    )


async def live(tools: Tools, visit: Visit) -> Response:
    """The rows of a page again, whenever one of them has changed."""
    ids = parse_task_ids(visit.asked("ids").split(",")[:_PAGE])

    async def render() -> tuple[str, bool]:
        found = await tools.cases.reading.look(visit.caller, ids)
        return part(visit, "_task_rows.html", tasks=found), not any(task.open for task in found)

    async def news() -> Stream:
        return await tools.hub.listen(visit.caller.tenant_id, NewsWanted(tasks=frozenset(str(one) for one in ids)))

    return LivePart(tools, visit, render, seconds=2.0, news=news)


async def ask_cancel(tools: Tools, visit: Visit) -> Response:
    """How many tasks a cancel would end, and whether that is meant."""
    wanted = Wanted.of(visit)
    before = before_of("task", visit.asked("cursor") or None)
    bulk = BulkCancel(tools.cases.reading, tools.cases.canceling)
    found = await bulk.count(visit.caller, wanted.narrowed(), before)
    older_url = _older_url(visit, wanted, found.following)
    return page(visit, "tasks_cancel.html", wanted=wanted, found=found, older_url=older_url)


async def cancel(tools: Tools, visit: Visit) -> Response:
    """Cancel what was counted: the same filter, no task newer than the newest that was counted."""
    wanted = Wanted.sent(visit)
    upto = number_of(visit.form.get("upto", ""))
    if upto is None:
        raise Invalid("invalid", "The form is not one of ours.")
    bulk = BulkCancel(tools.cases.reading, tools.cases.canceling)
    result = await bulk.cancel(visit.caller, wanted.narrowed(), upto)
    older_url = _older_url(visit, wanted, result.following)
    return page(visit, "tasks_canceled.html", wanted=wanted, result=result, older_url=older_url)


def _older_url(visit: Visit, wanted: Wanted, following: int | None) -> str | None:
    """Where a bulk cancel goes on behind what one of them takes; None when there is nothing older."""
    cursor = cursor_of("task", following)
    return visit.link(f"{_PATH}/cancel", **wanted.parameters(), cursor=cursor) if cursor else None


def _live_url(visit: Visit, found: list[TaskView]) -> str | None:
    """Where changes of these come from; None when nothing can change any more."""
    if not any(task.open for task in found):
        return None
    return visit.link(f"{_PATH}/live", ids=",".join(str(task.public_id) for task in found))
