"""The completion event: what other services read on Kafka when a task has ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from libs.common.domain.task import TaskStatus

CONTENT_TYPE: Final = "application/json"
SCHEMA_URI: Final = "urn:sluiceway:schema:task-event:v1"


class EventFile(BaseModel):
    """One stored file of a result."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    url: str
    type: str
    size: int = Field(ge=0)
    sha256: str = ""
    name: str = ""
    index: int = Field(default=0, ge=0, description="place among the files, the first is 0")


class TaskEvent(BaseModel):
    """The data of `sluiceway.task.<status>.v1`. Fields may be added, none is renamed or dropped within v1."""

    model_config = ConfigDict(extra="ignore", frozen=True, title="TaskEvent")
    taskId: str = Field(min_length=36, max_length=36, description="public id of the task; also the record's key")
    tenantId: str = Field(description="64-bit integer as text")
    creator: str
    bizName: str
    model: str = Field(description="name of the model")
    status: Literal["success", "failed", "timeout", "canceled"]
    attempt: int = Field(ge=0, description="number of the attempt that ended it; 0 if none began")
    createdAt: datetime
    startedAt: datetime | None = None
    finishedAt: datetime
    ossFile: str | None = Field(default=None, description="address of the first result file")
    fileType: str | None = None
    fileSize: int | None = Field(default=None, ge=0)
    files: list[EventFile] | None = Field(default=None, description="all files of a success, in order")
    errorCode: str | None = None
    errorMsg: str | None = None


def event_type(status: TaskStatus) -> str:
    return f"sluiceway.task.{status.word}.v1"


def event_id(public_id: UUID, version: int) -> str:
    """Stable over republishing: derived from the task and its version alone."""
    return f"{public_id}:{version}"


def cloud_event_headers(
    *, public_id: UUID, version: int, status: TaskStatus, at: datetime, source: str
) -> list[tuple[str, bytes]]:
    """CloudEvents 1.0 attributes as Kafka headers (binary mode)."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id(public_id, version).encode()),
        ("ce_type", event_type(status).encode()),
        ("ce_source", source.encode()),
        ("ce_subject", str(public_id).encode()),
        ("ce_time", rfc3339(at).encode()),
        ("ce_sequence", str(version).encode()),
        ("ce_partitionkey", str(public_id).encode()),
        ("ce_dataschema", SCHEMA_URI.encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]


def rfc3339(at: datetime) -> str:
    """An instant in UTC with milliseconds, as every /v1 answer and event writes it."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
