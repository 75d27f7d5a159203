"""The dead and their jobs as JSON, the same on every face. Secrets are masked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from libs.common.contracts.completion_event import event_id
from libs.common.domain.header_bindings import InvalidBindings, parse_bindings
from libs.common.domain.task import TaskStatus
from libs.common.operations.dead import DeadDetails
from libs.common.operations.replay import Preview
from libs.common.ports_dead import (
    DeadEntry,
    DeadGroup,
    DeadGroups,
    DeadStory,
    ItemResult,
    Job,
    JobItem,
    SentRequest,
)
from libs.common.ports_operations import OperationView
from libs.common.runtime.body_redaction import kept_body
from libs.common.runtime.redaction import is_secret_name, redact_text

#: Opens what was sealed for an owner; raises ValueError when it cannot.
Opener: TypeAlias = Callable[[bytes, str], bytes]

MASK: Final = "********"
_SHOWN_BYTES: Final = 65_536


def entry_document(entry: DeadEntry) -> dict[str, Any]:
    """One line of the list."""
    return {
        "kind": entry.kind.value,
        "id": entry.id,
        "tenant": _text(entry.tenant_id),
        "model": entry.model,
        "error": {"code": entry.code, "message": redact_text(entry.message)},
        "died_at": entry.died_at,
        "task_id": _text(entry.task_id),
        "status": entry.status,
        "attempt": entry.attempt,
        "event_id": event_id(entry.task_id, entry.version) if entry.task_id and entry.version is not None else None,
        "staged": entry.staged,
        "topic": entry.topic,
        "partition": entry.partition,
        "offset": entry.offset,
        "webhook": _text(entry.webhook),
        "replay": _text(entry.pending),
        "in_hand": entry.in_hand,
    }


def groups_document(groups: DeadGroups) -> dict[str, Any]:
    """All groups."""
    return {
        "items": [_group(group) for group in groups.items],
        "counted": groups.counted,
        "complete": groups.complete,
    }


def details_document(details: DeadDetails, opener: Opener | None = None) -> dict[str, Any]:
    """Everything about one."""
    story = details.story
    return {
        **entry_document(story.entry),
        "attempts": [_attempt(row) for row in story.attempts],
        "history": [_line(row, "at", "kind", "attempt", "version", "detail") for row in story.history],
        "request": _request(story.request, opener) if story.request else None,
        "provider_jobs": [
            {**_line(
                row, "attempt", "adapter", "provider_id", "status", "unit_progress", "intended_at", "submitted_at",
                "deadline", "ended_at",
            ), "message": redact_text(row["message"])}
            for row in story.provider_jobs
        ],
        "events": [_event(story.entry, row) for row in story.events],
        "operations": [_operation(operation) for operation in details.operations],
        "message": _message(story) if story.entry.topic is not None else None,
        "replays": [_past(row) for row in story.replays],
    }  # fmt: skip


def job_document(job: Job, unknown: Sequence[str] = ()) -> dict[str, Any]:
    """A job as it stands; `unknown` are ids that its order named and nothing dead has."""
    return {
        "id": str(job.id),
        "action": job.action.value,
        "kind": job.kind.value,
        "tenant": _text(job.reach),
        "asked": dict(job.asked),
        "limit": job.limit,
        "rate": job.rate,
        "reason": job.reason,
        "asked_by": job.asked_by,
        "state": job.state.value,
        "total": job.total,
        "pending": job.pending,
        "results": {result.value: job.results.get(result, 0) for result in ItemResult},
        "refusals": job.refusals,
        "note": job.note,
        "created_at": job.created_at,
        "changed_at": job.changed_at,
        "ended_at": job.ended_at,
        "unknown": list(unknown)[:100],
    }


def item_document(item: JobItem) -> dict[str, Any]:
    """What became of one."""
    return {
        "id": item.id,
        "tenant": _text(item.tenant_id),
        "code": item.code,
        "result": item.result.value if item.result is not None else None,
        "detail": item.detail,
        "tries": item.tries,
        "due_at": item.due_at,
        "ended_at": item.ended_at,
    }


def preview_document(preview: Preview) -> dict[str, Any]:
    """A dry run."""
    return {
        "dry_run": True,
        "selected": preview.selection.count,
        "busy": preview.selection.busy,
        "refused": sum(preview.selection.refused.values()),
        "why_refused": dict(preview.selection.refused),
        "groups": [_group(group) for group in preview.selection.groups],
        "unknown": list(preview.unknown)[:100],
    }


def _group(group: DeadGroup) -> dict[str, Any]:
    return {
        "kind": group.kind.value,
        "code": group.code,
        "tenant": _text(group.tenant_id),
        "model_id": _text(group.model_id),
        "model": group.model,
        "count": group.count,
        "first_at": group.first_at,
        "last_at": group.last_at,
        "example_id": group.example_id,
        "example": redact_text(group.example),
    }


def _attempt(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("entered_at", "leased_at", "started_at", "generated_at", "migrating_at", "ended_at", "staged_size")
    code = row["error_code"]
    return {
        "attempt": row["attempt"],
        "outcome": row["outcome"],
        "executor": row["executor"],
        "provider_job_id": row["provider_job_id"],
        **{name: row[name] for name in names},
        "error": {"code": code, "message": redact_text(row["error_message"] or "")} if code else None,
    }


def _event(entry: DeadEntry, row: Mapping[str, Any]) -> dict[str, Any]:
    assert entry.task_id is not None, "events are of tasks"
    return {
        "id": str(row["id"]),
        "event_id": event_id(entry.task_id, row["version"]),
        "status": TaskStatus(row["status"]).word,
        **_line(row, "dead_at", "dropped_at", "sends"),
        "error": redact_text(row["last_error"] or ""),
    }


def _past(row: Mapping[str, Any]) -> dict[str, Any]:
    named = _line(row, "action", "reason", "asked_by", "result", "detail", "tries", "ended_at")
    return {"replay": _text(row["job_id"]), **named, "ordered_at": row["created_at"]}


def _request(request: SentRequest, opener: Opener | None) -> dict[str, Any]:
    body = kept_body(request.payload, _SHOWN_BYTES, of=request.payload_size)
    return {
        "method": request.http_method,
        "url": redact_text(request.base_url.rstrip("/") + ("/" + request.route.lstrip("/") if request.route else "")),
        "headers": [{"name": name, "value": MASK} for name in _header_names(request, opener)],
        "body": body,
        "body_size": request.payload_size,
    }


def _header_names(request: SentRequest, opener: Opener | None) -> list[str]:
    if request.bindings is None:
        return []
    if opener is not None:
        try:
            clear = opener(request.bindings, f"tenant:{request.tenant_id}").decode()
            return [name for name, _ in parse_bindings(clear)]
        except (ValueError, InvalidBindings):
            pass  # no key opens it here: that there are some is all that can be said
    return [MASK]


def _message(story: DeadStory) -> dict[str, Any]:
    value = story.value
    return {
        "key": _shown(story.key),
        "value": _shown(value),
        "size": story.value_size if value is not None else None,
        "complete": value is None or len(value) == story.value_size,
        "shown": _how_shown(story),
        "headers": [
            {"name": name, "value": MASK if is_secret_name(name) else _shown(content)}
            for name, content in story.headers
        ],
    }


def _operation(operation: OperationView) -> dict[str, Any]:
    return {
        "at": operation.at,
        "creator": operation.creator,
        "ip": operation.ip,
        "path": operation.path,
        "method": operation.method,
        "success": operation.success,
        "replayed": operation.replayed,
        "error": operation.error,
        "request": operation.request,
        "response": operation.response,
    }


def _line(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def _shown(content: bytes | None) -> str | None:
    """Bytes as text, secrets masked, what is no text escaped; cut."""
    if content is None:
        return None
    escaped = content[:_SHOWN_BYTES].decode("utf-8", "backslashreplace").encode()
    return kept_body(escaped, _SHOWN_BYTES, of=max(len(content), len(escaped)))


def _how_shown(story: DeadStory) -> str:
    """What stands between a message's value and what is shown of it; only an exact one is fit to be edited and sent."""
    value = story.value
    if value is None:
        return "exact"
    if len(value) < story.value_size or len(value) > _SHOWN_BYTES:
        return "cut"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "escaped"
    if "\x00" in text:
        return "escaped"
    return "exact" if text == _shown(value) else "masked"


def _text(value: object) -> str | None:
    return None if value is None else str(value)
