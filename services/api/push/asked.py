"""What a stream was asked for: path, query, and where an earlier one ended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import parse_qs
from uuid import UUID

from starlette.types import Scope

from libs.common.domain.errors import NotFound
from libs.common.domain.ids import parse_task_id
from services.api.problems import Problem, invalid
from services.api.push.stream import Wanted

TENANT_PATH: Final = "/v1/events"
TASK_PATH: Final = "/v1/tasks/{task_id}/events"
_TASK: Final = re.compile(r"/v1/tasks/([^/]+)/events")
_PLACE: Final = re.compile(r"(.{36}):(\d{1,10})")
_LAST: Final = "last_event_id"
#: Of each filter.
MOST_NAMES: Final = 100
_NAME_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class TaskAsked:
    """One task's stream; `after` is the version that the caller has."""

    task_id: UUID
    after: int | None = None


@dataclass(frozen=True, slots=True)
class TenantAsked:
    """A tenant's stream; `since` is how far the caller has come."""

    wanted: Wanted
    since: datetime | None = None


Asked = TaskAsked | TenantAsked


def route_of(path: str) -> str | None:
    """The template of the streams' path that this is; None for every other path."""
    if path == TENANT_PATH:
        return TENANT_PATH
    return TASK_PATH if _TASK.fullmatch(path) else None


def read(scope: Scope, named: Mapping[bytes, bytes]) -> Asked:
    """What this request asks for. Raises Problem (400) or NotFound."""
    query = _query(scope["query_string"])
    last = named.get(b"last-event-id", b"").decode("latin-1").strip() or query.pop(_LAST, [""])[0].strip()
    query.pop(_LAST, None)
    if scope["path"] == TENANT_PATH:
        wanted = Wanted(_names(query.pop("model", [])), _tasks(query.pop("task", [])))
        _nothing_left(query)
        return TenantAsked(wanted, _time(last) if last else None)
    _nothing_left(query)
    matched = _TASK.fullmatch(scope["path"])
    task_id = parse_task_id(matched.group(1)) if matched else None
    if task_id is None:
        raise NotFound("task_unknown", "there is no such task")
    return TaskAsked(task_id, _version(last, task_id) if last else None)


def _query(raw: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=2 * MOST_NAMES + 1)
    except ValueError:
        raise Problem("invalid", "The query cannot be read, or has too many parts.") from None


def _names(values: list[str]) -> frozenset[str]:
    if len(values) > MOST_NAMES or any(len(value) > _NAME_LIMIT for value in values):
        raise _wrong("model", f"takes at most {MOST_NAMES} names, of {_NAME_LIMIT} characters at most")
    return frozenset(values)


def _tasks(values: list[str]) -> frozenset[str]:
    ids = [parse_task_id(value) for value in values]
    if None in ids:
        raise _wrong("task", "is no task id")
    if len(values) > MOST_NAMES:
        raise _wrong("task", f"takes at most {MOST_NAMES} task ids")
    return frozenset(str(task_id) for task_id in ids)


def _nothing_left(query: Mapping[str, list[str]]) -> None:
    for name in query:
        raise _wrong(name[:100], "is not known here")


def _version(place: str, task_id: UUID) -> int:
    matched = _PLACE.fullmatch(place)
    if matched is None or parse_task_id(matched.group(1)) != task_id:
        raise _wrong("Last-Event-ID", "is <task id>:<sequence> on the stream of a task")
    return int(matched.group(2))


def _time(place: str) -> datetime:
    try:
        at = datetime.fromisoformat(place)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or not 1970 <= at.year < 9999:
        raise _wrong("Last-Event-ID", "is a time in RFC 3339 on the stream of a tenant")
    return at


def _wrong(parameter: str, detail: str) -> Problem:
    return invalid([{"parameter": parameter, "detail": detail}])
