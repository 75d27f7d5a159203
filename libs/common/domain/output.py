"""What a model call leaves behind: the staged output, one file or several, and where it is kept for good."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

#: The most files that one task may leave behind.
FILES_LIMIT: Final = 100
#: The reference of outputs that are kept in PostgreSQL, beside the record that they exist.
IN_DATABASE: Final = "database:"
#: Up to this size an output is kept there, if it is a task's only one: one row costs a tenth of a file that is on disk
#: for certain (ADR 6). Of several, all are files.
IN_DATABASE_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class StagedFile:
    """An output kept durably until it has been uploaded: a file, whose `reference` is `store id:path` below the store's
    root, or for a small one (IN_DATABASE) its `content`, which is kept by the statement that records it."""

    reference: str
    size: int
    sha256: bytes
    file_type: str
    mime: str
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An output in its final place."""

    url: str
    file_type: str
    size: int
    sha256: bytes
    name: str


@dataclass(frozen=True, slots=True)
class ResultName:
    """What a result is named after. Every upload of one output has the same name, so a repeated one replaces it."""

    tenant_id: int
    created_at: datetime  #: of the task
    task: UUID
    attempt: int
    index: int = 0

    def key(self, extension: str) -> str:
        """Its name in an object store: tenant/date/task-attempt-index.ext, the date in UTC (ADR 7)."""
        day = self.created_at.astimezone(UTC).date().isoformat()
        return f"{self.tenant_id}/{day}/{self.task}-{self.attempt}-{self.index}.{extension}"

    def file_name(self, extension: str) -> str:
        """Its name at the HTTP file service: asynch_<unix seconds>_<unique>.<ext>."""
        return f"asynch_{int(self.created_at.timestamp())}_{self.task.hex}-{self.attempt}-{self.index}.{extension}"
