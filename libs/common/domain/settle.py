"""What becomes of a task when its attempt ends: the one place that decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from libs.common.domain.outcome import (
    Canceled,
    Failed,
    HandedBack,
    Outcome,
    ResultFile,
    StagingGone,
    Succeeded,
    UploadPending,
)
from libs.common.domain.task import Phase, TaskStatus, become
from libs.common.domain.times import DEADLINE_EXCEEDED

#: An attempt that was lost, with its executor or its staged output, may be tried this often more; the caller's
#: retry_times stays untouched.
LOST_BUDGET: Final = 3
#: Stored messages of errors are cut to this many characters.
MESSAGE_LIMIT: Final = 2_000
BACKOFF_CAP_SECONDS: Final = 32


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A model's rule for further attempts."""

    retry_times: int
    retry_queue_max_seconds: int
    upload_max_seconds: int


@dataclass(frozen=True, slots=True)
class Course:
    """What deciding needs to know of the attempt that ended; ages in seconds."""

    phase: Phase
    retries: int
    lost: int
    age: float  #: since the task was created
    upload_age: float = 0.0  #: since the output was staged
    called: bool = True  #: the model may have heard of the call that was counted when the attempt began
    deadline_in: float | None = None  #: left until the task's deadline; None: it has none


@dataclass(frozen=True, slots=True)
class Finish:
    """The task is over; `dead` keeps it for operators. A call that was counted but not `called` counts no longer."""

    status: TaskStatus
    code: str = ""
    message: str = ""
    files: tuple[ResultFile, ...] = ()
    dead: bool = False
    called: bool = True


@dataclass(frozen=True, slots=True)
class Retry:
    """The attempt failed; another follows after `delay` seconds once the gate has a slot."""

    code: str
    message: str
    delay: float
    head: bool
    timed_out: bool
    called: bool = True  #: as in Finish


@dataclass(frozen=True, slots=True)
class Park:
    """The upload alone is tried again after `delay` seconds; permit back, slot kept."""

    code: str
    message: str
    delay: float


@dataclass(frozen=True, slots=True)
class GiveBack:
    """The row goes back to its place, as if never started."""

    reason: str
    delay: float


@dataclass(frozen=True, slots=True)
class CallAgain:
    """The staged output is lost: back to the head of the queue for one more call, recorded."""

    message: str


Settlement: TypeAlias = Finish | Retry | Park | GiveBack | CallAgain

_SHOWN: Final = {
    Phase.NONE: TaskStatus.PROCESSING,
    Phase.SUBMITTED: TaskStatus.PROCESSING,
    Phase.GENERATED: TaskStatus.GENERATED,
    Phase.MIGRATING: TaskStatus.MIGRATING,
}


def settle(course: Course, outcome: Outcome, policy: RetryPolicy) -> Settlement:
    """Decide what an ended attempt means for its task; raises IllegalTransition where there is no such arrow."""
    match outcome:
        case Succeeded(files):
            return Finish(become(TaskStatus.MIGRATING, TaskStatus.SUCCESS), files=files)
        case Canceled():
            status = become(_SHOWN[course.phase], TaskStatus.CANCELED)
            return Finish(status, "canceled", "canceled by the caller", called=course.called)
        case HandedBack(reason, after):
            return GiveBack(reason, after)
        case StagingGone(message):
            if _too_late(course, 0.0):
                return _expired(course, message)
            if course.lost >= LOST_BUDGET:  # a store that loses everything must not buy calls for ever
                return Finish(become(_SHOWN[course.phase], TaskStatus.FAILED), "staging_lost", message, dead=True)
            return CallAgain(message[:MESSAGE_LIMIT])
        case UploadPending():
            return _settle_upload(course, outcome, policy)
        case Failed():
            return _settle_failure(course, outcome, policy)
        case _:
            assert_never(outcome)


def _settle_upload(course: Course, outcome: UploadPending, policy: RetryPolicy) -> Settlement:
    message = outcome.message[:MESSAGE_LIMIT]
    if outcome.permanent or course.upload_age >= policy.upload_max_seconds:
        return Finish(become(_SHOWN[course.phase], TaskStatus.FAILED), outcome.code, message, dead=True)
    # A tenth of the time tried so far, within 5 s and 5 min: quick at first, rare in a long outage. What storage asks
    # for goes before, but for a last try when the time is over.
    asked = min(outcome.retry_after or 0.0, policy.upload_max_seconds - course.upload_age)
    delay = max(min(300.0, max(5.0, course.upload_age / 10)), asked)
    return _expired(course, message) if _too_late(course, delay) else Park(outcome.code, message, delay)


def _settle_failure(course: Course, outcome: Failed, policy: RetryPolicy) -> Settlement:
    message = outcome.message[:MESSAGE_LIMIT]
    if outcome.retryable and course.retries < policy.retry_times:
        delay = max(backoff_seconds(course.retries + 1), outcome.retry_after or 0.0)
        if _too_late(course, delay):
            return _expired(course, message)
        return Retry(outcome.code, message, delay, goes_to_head(policy, course.age), outcome.timed_out, course.called)
    if outcome.timed_out and _too_late(course, 0.0):
        return _expired(course, message)
    status = TaskStatus.TIMEOUT if outcome.timed_out else TaskStatus.FAILED
    return Finish(become(_SHOWN[course.phase], status), outcome.code, message, dead=True, called=course.called)


def _too_late(course: Course, delay: float) -> bool:
    """Whether nothing can begin after `delay` seconds, because the task's deadline comes first."""
    return course.deadline_in is not None and course.deadline_in <= delay


def _expired(course: Course, cause: str) -> Finish:
    text = f"the task's deadline leaves no time to go on: {cause}"[:MESSAGE_LIMIT]
    return Finish(
        become(_SHOWN[course.phase], TaskStatus.TIMEOUT), DEADLINE_EXCEEDED, text, dead=True, called=course.called
    )


def goes_to_head(policy: RetryPolicy, age: float) -> bool:
    """Whether a retry jumps the queue: always at 0, else once the task is older than the model's limit."""
    return policy.retry_queue_max_seconds <= 0 or age > policy.retry_queue_max_seconds


def backoff_seconds(failures: int) -> float:
    """1, 2, 4, 8, 16, 32, 32 ... after the n-th failure; callers add jitter upwards."""
    return float(min(2 ** max(0, min(failures, 16) - 1), BACKOFF_CAP_SECONDS))
