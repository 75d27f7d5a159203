"""The task: its statuses, and every arrow between them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from libs.common.domain.errors import IllegalTransition


class TaskStatus(IntEnum):
    """What callers see; the numbers are contract codes and are stored."""

    DRAFT = 0  #: accepted, not yet due; becomes submitted when its time comes
    SUBMITTED = 1  #: waits in PostgreSQL for room in its lane's window
    QUEUED = 2  #: published to the model's topic, waits for a permit, or once more for its turn
    PROCESSING = 3  #: the model is working on it
    GENERATED = 4  #: the output is staged
    MIGRATING = 5  #: the output is on its way to object storage
    SUCCESS = 6  #: final
    FAILED = 7  #: final, unless a retry is due (then it goes back by itself)
    TIMEOUT = 8  #: final
    CANCELED = 9  #: final

    @property
    def word(self) -> str:
        """The name on every face."""
        return self.name.lower()

    @property
    def final(self) -> bool:
        return self >= TaskStatus.SUCCESS

    @property
    def progress(self) -> float:
        """Overall progress in percent; 0 for an end that is no success."""
        return _PROGRESS[self]


_PROGRESS: Final = {
    TaskStatus.DRAFT: 0.0,
    TaskStatus.SUBMITTED: 16.67,
    TaskStatus.QUEUED: 33.33,
    TaskStatus.PROCESSING: 50.0,
    TaskStatus.GENERATED: 66.67,
    TaskStatus.MIGRATING: 83.33,
    TaskStatus.SUCCESS: 100.0,
    TaskStatus.FAILED: 0.0,
    TaskStatus.TIMEOUT: 0.0,
    TaskStatus.CANCELED: 0.0,
}

_ENDS: Final = frozenset({TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.CANCELED})

#: Every arrow there is. docs/architecture.md draws it, tests compare the two.
NEXT: Final[dict[TaskStatus, frozenset[TaskStatus]]] = {
    TaskStatus.DRAFT: frozenset({TaskStatus.SUBMITTED}) | _ENDS,
    TaskStatus.SUBMITTED: frozenset({TaskStatus.QUEUED}) | _ENDS,
    # back to submitted: its executor fell silent before a provider had its job
    TaskStatus.QUEUED: frozenset({TaskStatus.SUBMITTED, TaskStatus.PROCESSING}) | _ENDS,
    # queued: the provider's own queue
    TaskStatus.PROCESSING: frozenset({TaskStatus.SUBMITTED, TaskStatus.QUEUED, TaskStatus.GENERATED}) | _ENDS,
    # back to submitted: the staged output is lost, the model is called once more
    TaskStatus.GENERATED: frozenset({TaskStatus.SUBMITTED, TaskStatus.MIGRATING, TaskStatus.SUCCESS}) | _ENDS,
    TaskStatus.MIGRATING: frozenset({TaskStatus.SUBMITTED, TaskStatus.SUCCESS}) | _ENDS,
    TaskStatus.SUCCESS: frozenset(),
    # a retry or an operator's replay takes it back; a retry that waits can be canceled or outlive its time
    TaskStatus.FAILED: frozenset({TaskStatus.SUBMITTED, TaskStatus.TIMEOUT, TaskStatus.CANCELED, TaskStatus.FAILED}),
    TaskStatus.TIMEOUT: frozenset({TaskStatus.SUBMITTED}),
    TaskStatus.CANCELED: frozenset(),
}


def become(before: TaskStatus, after: TaskStatus) -> TaskStatus:
    """`after`, if the state machine has that arrow; raises IllegalTransition otherwise."""
    if after not in NEXT[before]:
        raise IllegalTransition(before.word, after.word)
    return after


class Compact(IntEnum):
    """The old gateway's `state`."""

    WAITING = 0
    RUNNING = 1
    SUCCESS = 2
    FAILED = 3
    FETCHED = 4
    CANCELED = 5


def compact(status: TaskStatus, *, fetched: bool) -> Compact:
    """The old gateway's `state` for a status; a success that was fetched before reads 4."""
    if status <= TaskStatus.QUEUED:
        return Compact.WAITING
    if status <= TaskStatus.MIGRATING:
        return Compact.RUNNING
    if status is TaskStatus.SUCCESS:
        return Compact.FETCHED if fetched else Compact.SUCCESS
    return Compact.CANCELED if status is TaskStatus.CANCELED else Compact.FAILED


class Phase(IntEnum):
    """How far the present attempt has durably come; survives the executor that got there."""

    NONE = 0
    SUBMITTED = 1  #: a provider may hold a job of ours
    GENERATED = 2  #: the output is staged: never call the model again while it is there
    MIGRATING = 3  #: its upload lasts


class DispatchState(IntEnum):
    """Where an open task's dispatch row stands."""

    READY = 0
    IN_FLIGHT = 1
    LATER = 2  #: draft, refused by the broker, or parked upload: due at `due_at`, keeps its gate slot
    RETRY = 3  #: failed, waits for its retry; holds no gate slot
