"""What the product asks of an adapter for jobs: submit a job to a provider, ask how it goes, take its outputs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

#: For taking all outputs of a job that is over, waiting and trying again included.
COLLECT_SECONDS: Final = 600
#: Bytes of an answer that may be in memory without asking for room.
LITTLE_ANSWER: Final = 256 * 1024


class JobStatus(Enum):
    """How a provider's job stands."""

    QUEUED = "queued"  #: it waits in the provider's own queue
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"  #: at the provider, by whomever

    @property
    def over(self) -> bool:
        """Whether it will never change again."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)


@dataclass(frozen=True, slots=True)
class JobOutput:
    """One output of a job: where it can be fetched, or what it is."""

    url: str = ""
    content: bytes | None = field(default=None, repr=False)
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a provider says of a job."""

    status: JobStatus
    provider_id: str = ""  #: as the provider knows it; the answer to a submit has it, others may
    unit_progress: float | None = None  #: its own percentage, 0 to 100
    message: str = ""
    outputs: tuple[JobOutput, ...] = ()
    error_code: str = ""  #: of a job that FAILED: stable, for callers; empty: `provider_failed`
    retryable: bool = False  #: of a job that FAILED: whether the same job may do better later
    ask_again_after: float | None = None  #: seconds that the provider wants to be left alone


async def _room_enough(_: int) -> None:
    """Who asks little, and one question at a time, needs no share of anything."""


@dataclass(frozen=True, slots=True)
class JobCall:
    """One attempt's job, as every call of the adapter gets it. What may hold secrets is kept out of its repr."""

    intent_key: str  #: ours, the same for every call of this attempt; safe in a URL (a UUID)
    base_url: str
    route: str
    config: Mapping[str, Any]  #: the model's adapter_config, checked when it was saved
    payload: bytes = field(repr=False)  #: for `submit` alone; empty in other calls: thousands of jobs wait in memory
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  #: from the model's api_key
    timeout_seconds: float = 30.0  #: of this one call, all of it
    output_count: int = 1
    job_seconds: float = 3_600.0  #: how long the whole job may take; providers that take a deadline are told
    intended_at: float | None = None  #: when the submit was intended, in Unix seconds: `find` looks no further back
    #: Seconds since a submit with this key was last under way, as far as anybody knows: what `find` judges an absence
    #: by. No wall clock is in it, and none of the time that the submit itself took.
    since_submit: float = 0.0
    tenant_id: int = 0  #: whose job it is: what takes long is done for one tenant after the other
    callback_url: str = field(default="", repr=False)  #: carries this attempt's token; empty where none can be had
    #: Asked by JobHttp when the connection is there, before the first byte of each request leaves; raises ModelError to
    #: keep it here.
    sends: Callable[[], None] = field(default=lambda: None, repr=False)
    #: Told by JobHttp how large an answer is before it takes more than LITTLE_ANSWER bytes of it into memory; waits
    #: until there is room.
    room: Callable[[int], Awaitable[None]] = field(default=_room_enough, repr=False)


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What a provider answered to one request, whatever its status."""

    status: int
    headers: Mapping[str, str]  #: names without regard to case
    body: bytes = field(repr=False)

    @property
    def accepted(self) -> bool:
        """Whether it is a success (2xx)."""
        return 200 <= self.status < 300


class JobHttp(Protocol):
    """How adapters reach providers: within the deadline and the size limit of one call, and nowhere else.

    The model's own headers are added, and so only the origin of its base_url can be asked; redirects are followed
    where they keep origin and method. Nothing is sent a second time.
    """

    async def send(
        self,
        call: JobCall,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> JobAnswer:
        """The answer of any status. `path` is joined to base_url, or is an address of the same origin.

        Raises ModelError, with `sent=False` when no connection was made.
        """


class JobAdapter(Protocol):
    """One way to run jobs at providers of one kind. Stateless: everything that must last is in the call or at the
    provider, since any executor may go on with a job at any time.

    Every method raises ModelError: `retryable` whether asking again may help, `retry_after` what the provider asked
    for, `sent=False` when certainly no byte of a request left, `answered=True` when the provider itself refused. A
    retryable error of `submit` that is neither leaves open whether there is a job: it is looked for, or the task ends
    as `submit_unknown`. An answer that means "full, later" is `Busy`.
    """

    def dedupes(self, config: Mapping[str, Any]) -> bool:
        """Whether a submit that is repeated with the same intent key never makes a second job, whenever it comes."""

    def polls(self, config: Mapping[str, Any]) -> bool:
        """Whether `get` works. False: what `submit` reports or a callback's body says is the truth, and a job that
        has neither is ended by its deadline.
        """

    def keyed(self, config: Mapping[str, Any]) -> bool:
        """Whether the provider's id of a job is our intent key: it can be ended even if its submit's answer is lost."""

    def check(self, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        """Raises Invalid, with a pointer to /route or below /adapter_config, for a configuration that cannot work."""

    async def submit(self, call: JobCall) -> JobReport:
        """Make the job. Called at most once for each attempt, unless `dedupes` or a call said `sent=False` or Busy.

        The report may be over already, for providers that answer when done.
        """

    async def find(self, call: JobCall) -> JobReport | None:
        """The job that an earlier submit with this intent key made, whose answer was lost; None: certainly none.

        Raises LookupError where the provider offers no way to tell, and TooEarly when it cannot be certain yet: the
        provider may still be at work on a request that was given up a moment ago (`since_submit`).
        """

    async def get(self, call: JobCall, provider_id: str) -> JobReport:
        """How the job stands. Raises JobGone when the provider does not know it (any more)."""

    async def cancel(self, call: JobCall, provider_id: str) -> None:
        """Ask the provider to end the job; harmless when it is over or unknown."""

    def called_back(self, call: JobCall, headers: Mapping[str, str], body: bytes) -> JobReport | None:
        """What a callback says; None when it says nothing of this job. Raises nothing."""


#: What an installed package offers under an entry point of the group `sluiceway.adapters`.
JobAdapterFactory = Callable[[JobHttp], JobAdapter]
