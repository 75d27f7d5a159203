"""A task's life as spans of time, and where they lie on a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from libs.common.domain.task import TaskStatus
from libs.common.ports_tasks import TaskView

#: What each kind of span means, in the order of a life.
KINDS: Final = {
    "scheduled": "waits for its time",
    "retry": "waits for its retry",
    "waiting": "waits in the queue",
    "held": "on the road, or waits for a permit",
    "calling": "the model works",
    "storing": "output staged, upload begins",
    "uploading": "the upload lasts, or waits for storage",
}
_NARROWEST: Final = 0.4  #: percent; what lasted a moment is seen all the same


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a task did, and where it lies on the line (percent of its width)."""

    kind: str
    attempt: int
    began: datetime
    ended: datetime
    open: bool
    left: float
    width: float

    @property
    def lasted(self) -> timedelta:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened to a task at one moment."""

    what: str
    at: datetime
    left: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """All spans of a life, from its create until its end or now, and what happened on the way."""

    began: datetime
    ended: datetime
    spans: Sequence[Span]
    marks: Sequence[Mark]

    @property
    def lasted(self) -> timedelta:
        return self.ended - self.began

    @property
    def rows(self) -> Sequence[Sequence[Span]]:
        """The spans of each attempt; what comes before the first belongs to it."""
        attempts = sorted({span.attempt for span in self.spans})
        return [[span for span in self.spans if span.attempt == attempt] for attempt in attempts]

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds that there are, in the order of a life."""
        present = {span.kind for span in self.spans}
        return [kind for kind in KINDS if kind in present]


def timeline(
    task: TaskView, attempts: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]], now: datetime
) -> Timeline:
    """The life of a task; an open one's last span ends now."""
    pieces: list[tuple[str, int, datetime, datetime, bool]] = []
    scheduled = task.not_before if task.not_before and task.not_before > task.created_at else None
    draft = task.status is TaskStatus.DRAFT
    if scheduled:
        pieces.append(("scheduled", 1, task.created_at, min(scheduled, task.finished_at or now), draft))
    for row in attempts:
        pieces += _attempt(row["attempt"], _steps(row, row["started_at"]), row["ended_at"], running=False)
    if task.open and not draft:
        current = {name: getattr(task, name) for name in ("entered_at", "leased_at", "generated_at", "migrating_at")}
        begun = task.started_at or task.generated_at  # a replay of an output that still waits begins with it
        number = max(task.attempt, 1) if begun else task.attempt + 1
        waits = "retry" if task.status is TaskStatus.FAILED else "waiting"
        pieces += _attempt(number, _steps(current, task.started_at, waits), now, running=True)
    elif not attempts and task.finished_at and task.finished_at > (waited_from := scheduled or task.created_at):
        pieces += _attempt(1, [("waiting", waited_from)], task.finished_at, running=False)
    ended = max([task.finished_at or now, *(piece[3] for piece in pieces)])
    whole = (ended - task.created_at).total_seconds() or 1.0

    def place(at: datetime) -> float:
        return max(0.0, (at - task.created_at).total_seconds() / whole * 100)

    def laid(piece: tuple[str, int, datetime, datetime, bool]) -> Span:
        left = place(piece[2])
        width = max(_NARROWEST, (piece[3] - piece[2]).total_seconds() / whole * 100)
        return Span(*piece, left=round(min(left, 100 - _NARROWEST), 3), width=round(min(width, 100.0), 3))

    happened = [(row["kind"], row["at"]) for row in history]
    if task.finished_at:
        happened.append(("completion event", task.finished_at))
    marks = [Mark(what, at, round(min(place(at), 100.0), 3)) for what, at in happened]
    return Timeline(task.created_at, ended, [laid(piece) for piece in pieces], marks)


def _steps(row: Mapping[str, Any], started: datetime | None, waits: str = "waiting") -> list[tuple[str, datetime]]:
    """What an attempt did, each with its beginning, as far as it is known. One that went on with another executor was
    sent to it again: that is no step of its own."""
    leased = row["leased_at"]
    known = (
        (waits, row["entered_at"]),
        ("held", leased if leased and (started is None or leased <= started) else None),
        ("calling", started),
        ("storing", row["generated_at"]),
        ("uploading", row["migrating_at"]),
    )
    return [(kind, began) for kind, began in known if began is not None]


def _attempt(
    number: int, steps: Sequence[tuple[str, datetime]], ended: datetime, *, running: bool
) -> list[tuple[str, int, datetime, datetime, bool]]:
    ends = [began for _, began in steps[1:]] + [ended]
    return [
        (kind, number, began, max(began, end), running and index == len(steps) - 1)
        for index, ((kind, began), end) in enumerate(zip(steps, ends, strict=True))
    ]
