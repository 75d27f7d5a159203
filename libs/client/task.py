"""A task as its tenant sees it."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, ConfigDict

FINAL: Final = frozenset({"success", "failed", "timeout", "canceled"})


class Task(BaseModel):
    """One task; fields that a newer server adds are kept as they come.

    A `failed` with attempts left is shown until its retry and is no end: `ended` tells.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    model: str
    status: str
    code: int
    progress: float = 0.0
    unit_progress: float | None = None
    attempt: int = 0
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    times: dict[str, Any] = {}

    @property
    def ended(self) -> bool:
        """Whether it will not change any more by itself."""
        return self.status in FINAL and bool(self.times.get("finished_at"))

    @property
    def succeeded(self) -> bool:
        """Whether there is a result."""
        return self.status == "success"
