"""What the executor and the API ask of PostgreSQL about jobs at providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from libs.common.ports_attempts import Attempt


@dataclass(frozen=True, slots=True)
class JobIntent:
    """A job that is about to be submitted."""

    key: UUID
    adapter: str
    polls: bool  #: whether the provider can be asked
    seconds: int  #: that the job may take


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job that somebody else began."""

    key: UUID
    adapter: str
    provider_id: str  #: empty: the submit's answer was never recorded
    permit: UUID  #: the token under which its permit was last known to be
    status: str
    unit_progress: float | None
    message: str
    intended_at: float  #: Unix seconds
    seconds_left: float  #: to its deadline


@dataclass(frozen=True, slots=True)
class JobNews:
    """What a provider says of a job."""

    provider_id: str
    status: str
    unit_progress: float | None
    message: str
    begun: bool  #: whether the provider has begun to work on it


@dataclass(frozen=True, slots=True)
class JobCallback:
    """What a provider has called back with."""

    id: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UnwantedJob:
    """A job that nobody wants any more, and whose provider does not know that."""

    key: UUID
    lane: int
    model_id: int
    adapter: str
    provider_id: str
    tries: int
    intended_at: float
    ended_for: float  #: seconds since its task ended


@dataclass(frozen=True, slots=True)
class UnwantedLook:
    """What who looks for unwanted jobs can take on."""

    limit: int
    of_a_lane: int  #: told at the same time, those at work included
    again_seconds: float  #: until somebody else may try
    adapters: Sequence[str]  #: that are known here
    at_work: Mapping[int, int]  #: by lane: how many are being told from here now


@dataclass(frozen=True, slots=True)
class TellLater:
    """When a provider is told again, and whether what was done so far was a try."""

    key: UUID
    seconds: float
    tried: bool


class ProviderJobs(Protocol):
    """Jobs at providers, by batches. Writes by attempts compare the token: who has lost it is left out."""

    async def intend_many(self, rows: Sequence[tuple[Attempt, JobIntent]]) -> dict[int, float | None]:
        """Jobs are about to be submitted; when that was written, in Unix seconds. Asking twice is safe.

        None, and nothing is written, where the attempt's model has another adapter by now.
        """

    async def resume_many(self, attempts: Sequence[Attempt]) -> dict[int, JobRow]:
        """The jobs that these attempts go on with."""

    async def own_permits(self, attempts: Sequence[Attempt]) -> set[int]:
        """The permits of resumed jobs have the tokens of these attempts now."""

    async def news_many(self, rows: Sequence[tuple[Attempt, JobNews]]) -> dict[int, str]:
        """What providers say; by task, the id of another job that was on record in place of this one, or nothing.

        Raises a data error for a provider's id that another task has.
        """

    async def named_late(self, key: UUID, provider_id: str) -> bool:
        """A submit was answered after its attempt was lost; False when that is not the job on record."""

    async def unwanted_permits(self, limit: int) -> list[tuple[int, UUID]]:
        """Lanes and permits of jobs that nobody wants any more, each once: whoever asks gives them back."""

    async def unwanted(self, look: UnwantedLook) -> list[UnwantedJob]:
        """Take jobs whose providers are to be told; who is not done in time leaves them to the next look."""

    async def tell_later(self, rows: Sequence[TellLater]) -> None:
        """These are not to be told when the next look would, but then."""

    async def told(self, jobs: Sequence[UnwantedJob]) -> None:
        """The providers of these were told, or cannot be; a job whose id became known meanwhile stays unwanted."""

    async def weigh_callbacks(self, attempts: Sequence[Attempt]) -> dict[int, int]:
        """How many bytes providers called back with, by task; those that did not are left out."""

    async def callbacks(self, attempts: Sequence[Attempt]) -> dict[int, list[JobCallback]]:
        """What providers called back with, oldest first, by task."""

    async def drop_callbacks(self, ids: Sequence[int]) -> None:
        """These were read and say nothing more."""


class CallbackBox(Protocol):
    """Where the API puts what providers call back with."""

    async def keep(self, key: UUID, headers: Mapping[str, str], body: bytes) -> int | None:
        """Keep it if the job is open and its provider cannot be asked; the id of its open task."""
