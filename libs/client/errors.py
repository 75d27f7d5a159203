"""What can go wrong for a caller.

ClientError
|-- NotReachable    no answer, or one that says "not now", after every repetition
|-- NotSendable     what was given fits into no request; a ValueError, too
|-- ApiError        the server refused; `code` is stable
`-- TaskEnded       the task that was waited for ended without success
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libs.client.task import Task


class ClientError(Exception):
    """Anything that the client raises on purpose."""


class NotReachable(ClientError):
    """The server gives no answer."""


class NotSendable(ClientError, ValueError):
    """What was given fits into no request: a number that JSON does not know, a header that is not ASCII."""


class ApiError(ClientError):
    """The server refused. `errors` points at what is wrong; `retry_after` in seconds where repeating makes sense."""

    def __init__(self, status: int, problem: dict[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.code = str(problem.get("code") or f"http_{status}")
        self.detail = str(problem.get("detail") or problem.get("title") or "")
        errors = problem.get("errors")
        self.errors: list[dict[str, Any]] = (
            [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
        )
        self.trace_id = str(problem.get("trace_id") or "")
        self.retry_after = retry_after
        where = "; ".join(filter(None, map(self._place, self.errors)))
        super().__init__(f"{self.code}: {self.detail}" + (f" ({where})" if where else ""))

    def _place(self, error: dict[str, Any]) -> str:
        """Where something is wrong, and what, unless the whole problem says nothing else."""
        place, detail = error.get("pointer") or error.get("parameter") or "", error.get("detail", "")
        return str(place if detail == self.detail else f"{place} {detail}".strip())


class TaskEnded(ClientError):
    """A task that was waited for ended as failed, timeout or canceled."""

    def __init__(self, task: Task) -> None:
        error = task.error or {}
        super().__init__(f"task {task.id} ended as {task.status}: {error.get('code', '')} {error.get('message', '')}")
        self.task = task
