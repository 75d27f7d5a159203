"""How models, tasks and statistics look on the old routes: the columns of the old tables in camelCase."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from libs.common.domain.model import Model
from libs.common.domain.task import TaskStatus, compact
from libs.common.ports_legacy import ModelRow, StatRow, TaskRow
from libs.common.runtime.redaction import redact_text
from services.api.legacy.fields import MODEL_FIELDS
from services.api.views import MASK

_UPLOADING = (TaskStatus.GENERATED, TaskStatus.MIGRATING)


class Rows:
    """Writes rows; times are those of one time zone."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone

    def model(self, row: ModelRow) -> dict[str, Any]:
        """A model, its secret masked."""
        return {
            "id": str(row.model.id),
            "tenantId": str(row.model.tenant_id),
            **{name: getattr(row.model, wire.column) for name, wire in MODEL_FIELDS.items() if name != "apiKey"},
            "apiKey": _masked(row.model),
            "enabled": int(row.model.enabled),
            "adapterConfig": orjson.loads(row.model.adapter_config),
            "creator": row.creator,
            "createdAt": self._time(row.created_at),
            "updater": row.updater,
            "updatedAt": self._time(row.updated_at),
            "deletedAt": None,
        }

    def task(self, row: TaskRow) -> dict[str, Any]:
        """A task as it was before this read marked it as fetched. What wrote it last is its creator's own request."""
        changes = (row.created_at, row.started_at, row.finished_at, row.fetched_at)
        return {
            "id": str(row.id),
            "tenantId": str(row.tenant_id),
            "taskId": str(row.public_id),
            "modelName": row.model_name,
            "bizName": row.biz_name,
            "state": int(compact(row.status, fetched=row.fetched_at is not None)),
            "status": row.status.word,
            "progress": row.status.progress,
            "ossFile": row.oss_file or "",
            "fileType": row.file_type or "",
            "fileSize": row.file_size or 0,
            "errorMsg": redact_text(row.error_message or ""),
            "startedAt": self._time(row.started_at),
            "finishedAt": self._time(row.finished_at),
            "expireAt": self._time(row.expire_at),
            "retryCount": row.retries,
            "enqueueAt": self._time(row.entered_at),
            "phase": int(row.status in _UPLOADING),
            "tmpFile": "",
            "inputRef": row.input_ref,
            "requestPayload": orjson.Fragment(row.payload) if row.payload else None,
            "creator": row.creator,
            "createdAt": self._time(row.created_at),
            "updater": row.creator,
            "updatedAt": self._time(max(change for change in changes if change is not None)),
            "deletedAt": None,
        }

    def statistic(self, row: StatRow) -> dict[str, Any]:
        """A day's count."""
        return {
            "day": row.day.isoformat(),
            "tenantId": str(row.tenant_id),
            "creator": row.creator,
            "modelName": row.model_name,
            "requestCount": row.request_count,
            "createdAt": self._time(row.created_at),
            "updatedAt": self._time(row.updated_at),
        }

    def _time(self, at: datetime | None) -> str | None:
        return None if at is None else at.astimezone(self._zone).strftime("%Y-%m-%d %H:%M:%S")


def _masked(model: Model) -> str:
    return MASK if model.bindings else ""
