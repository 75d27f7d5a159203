"""How tasks and models look on /v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus
from libs.common.ports_operations import OperationView
from libs.common.ports_tasks import TaskView
from libs.common.ports_webhooks import DeliveryView
from libs.common.runtime.redaction import redact_text

MASK: Final = "********"
_SHOWN_AS_STORED: Final = (
    "name",
    "base_url",
    "route",
    "http_method",
    "enabled",
    "max_concurrency",
    "queue_limit",
    "timeout_seconds",
    "expected_seconds",
    "retry_times",
    "retry_queue_max_seconds",
    "auto_clean_seconds",
    "adapter",
    "poll_seconds",
    "job_timeout_seconds",
    "price",
    "remark",
    "version",
)
_ACCEPTED: Final = {
    status.value: {"status": status.word, "code": int(status), "progress": status.progress}
    for status in (TaskStatus.DRAFT, TaskStatus.SUBMITTED)
}


def encoded(document: Any) -> bytes:
    """JSON, times in RFC 3339 UTC."""
    return orjson.dumps(document, option=orjson.OPT_UTC_Z)


def model_view(model: Model) -> dict[str, Any]:
    """A model, its secret masked."""
    shown = {name: getattr(model, name) for name in _SHOWN_AS_STORED}
    return {
        "id": str(model.id),
        **shown,
        "api_key": MASK if model.bindings else "",
        "adapter_config": orjson.loads(model.adapter_config),
    }


def accepted_view(task_id: str, model_name: str, status: TaskStatus) -> dict[str, Any]:
    """A task as it was accepted; a repeated request is answered with the same."""
    return {"id": task_id, "model": model_name, **_ACCEPTED[status.value]}


def task_view(task: TaskView) -> dict[str, Any]:
    """A task as it was before this read marked it as fetched."""
    return {
        "id": str(task.public_id),
        "model": task.model_name,
        "status": task.status.word,
        "code": int(task.status),
        "progress": task.status.progress,
        "unit_progress": task.unit_progress,
        "result": _result(task),
        "error": _error(task.error_code, task.error_message),
        "attempt": task.attempt,
        "executor": task.executor_name,
        "heartbeat_at": task.heartbeat_at,
        "provider_job_id": task.provider_job_id,
        "times": {
            "created_at": task.created_at,
            "not_before": task.not_before,
            "start_by": task.start_by,
            "deadline": task.deadline,
            "due_at": task.due_at,
            "started_at": task.started_at,
            "generated_at": task.generated_at,
            "finished_at": task.finished_at,
            "fetched_at": task.fetched_at,
            "expire_at": task.expire_at,
        },
        "creator": task.creator,
        "biz_name": task.biz_name,
        "input_ref": task.input_ref,
        "priority": task.priority,
        "output_count": task.output_count,
        "points": task.points,
        "version": task.version,
    }


def attempt_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """An ended attempt, without its token."""
    names = ("entered_at", "leased_at", "started_at", "generated_at", "migrating_at", "ended_at", "staged_size")
    return {
        "attempt": row["attempt"],
        "outcome": row["outcome"],
        "executor": row["executor_name"],
        "provider_job_id": row["provider_job_id"],
        **{name: row[name] for name in names},
        "error": _error(row["error_code"], row["error_message"]),
    }


def history_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a task's history."""
    return {name: row[name] for name in ("at", "kind", "attempt", "version", "detail")}


def delivery_view(delivery: DeliveryView) -> dict[str, Any]:
    """A delivery with its attempts."""
    names = ("type", "status", "attempts", "next_at", "last_code", "created_at", "ended_at")
    return {
        "id": str(delivery.id),
        "task_id": str(delivery.task_id),
        "event_id": delivery.message_id,
        "url": delivery.url or None,
        **{name: getattr(delivery, name) for name in names},
        "last_error": redact_text(delivery.last_error) if delivery.last_error else delivery.last_error,
        "tries": [
            {**tried, **{name: redact_text(tried[name]) for name in ("error", "answer") if tried[name]}}
            for tried in delivery.tries
        ],
    }


def operation_view(operation: OperationView) -> dict[str, Any]:
    """An entry of the operation log."""
    return {
        "at": operation.at,
        "type": operation.type,
        "creator": operation.creator,
        "ip": operation.ip,
        "user_agent": operation.user_agent,
        "path": operation.path,
        "method": operation.method,
        "biz_name": operation.biz_name,
        "model": operation.model,
        "task_id": str(operation.task_id) if operation.task_id is not None else None,
        "success": operation.success,
        "replayed": operation.replayed,
        "error": operation.error,
        "cost_ms": operation.cost_ms,
        "request": operation.request,
        "response": operation.response,
    }


def _result(task: TaskView) -> dict[str, Any] | None:
    if task.status is not TaskStatus.SUCCESS:
        return None
    return {"url": task.oss_file, "type": task.file_type, "size": task.file_size, "files": list(task.files)}


def _error(code: str | None, message: str | None) -> dict[str, str] | None:
    return {"code": code, "message": redact_text(message or "")} if code else None
