"""How an attempt can end, as a closed set of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from libs.common.domain.times import DEADLINE_EXCEEDED


@dataclass(frozen=True, slots=True)
class ResultFile:
    """One stored file of a result."""

    url: str
    file_type: str
    size: int
    sha256: str
    name: str


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The output lies in object storage, all files of it, in order."""

    files: tuple[ResultFile, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended without a result. `retryable` says whether the same call may do better later."""

    code: str
    message: str
    retryable: bool
    retry_after: float | None = None  #: seconds that the other side asked for
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Canceled:
    """The caller wanted it stopped."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """Nobody's fault: the executor stops, or the model said "busy". Uses up no attempt."""

    reason: str
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class UploadPending:
    """The output is staged, but storage does not take it now."""

    code: str
    message: str
    permanent: bool = False
    retry_after: float | None = None  #: seconds that storage asked for


@dataclass(frozen=True, slots=True)
class StagingGone:
    """The staged output is lost: the model must be called once more."""

    message: str


#: The task's own deadline passed while it ran.
EXPIRED: Final = Failed(DEADLINE_EXCEEDED, "the task's deadline passed", retryable=False, timed_out=True)

Outcome: TypeAlias = Succeeded | Failed | Canceled | HandedBack | UploadPending | StagingGone
