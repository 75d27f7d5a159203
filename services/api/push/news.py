"""One status change as it is pushed, encoded once for everybody who hears it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.contracts.completion_event import rfc3339
from libs.common.ports_push import Stage, TaskState
from libs.common.runtime.redaction import redact_text
from services.api.views import encoded


@dataclass(frozen=True, slots=True)
class News:
    """A status change; `body` is its JSON object."""

    task: int
    stage: Stage
    over: bool  #: nothing follows, unless an operator replays the task
    body: bytes
    place_in_task: str  #: Last-Event-ID on the stream of a task
    place_in_time: str  #: and on the stream of a tenant
    sse_in_task: bytes  #: as an event of either stream, written once for thousands
    sse_in_time: bytes

    @classmethod
    def of(cls, state: TaskState) -> News:
        body = encoded(news_view(state))
        in_task, in_time = f"{state.public_id}:{state.version}", place_in_time(state.read_at)
        return cls(
            state.id,
            state.stage,
            not state.open,
            body,
            in_task,
            in_time,
            b"id: %s\ndata: %s\n\n" % (in_task.encode(), body),
            b"id: %s\ndata: %s\n\n" % (in_time.encode(), body),
        )


def place_in_time(at: datetime) -> str:
    """An instant as Last-Event-ID."""
    return rfc3339(at)


def news_view(state: TaskState) -> dict[str, Any]:
    """The fields of a status change."""
    said = state.error_message or state.job_message
    return {
        "id": str(state.public_id),
        "model": state.model_name,
        "status": state.status.word,
        "code": int(state.status),
        "progress": state.status.progress,
        "unit_progress": None if state.unit_progress is None else round(state.unit_progress, 2),
        "message": redact_text(said) if said else said,
        "error_code": state.error_code,
        "attempt": state.attempt,
        "sequence": state.version,
        "final": not state.open,
        "at": state.at,
    }
