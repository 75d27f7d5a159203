"""What the executor asks of the world for one call: the model, the staging store, the place of results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

from libs.common.domain.output import ResultName, StagedFile, StoredFile


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call of a model. What may hold secrets or a caller's data is kept out of its repr."""

    base_url: str
    route: str
    method: str  #: POST or GET
    timeout_seconds: float
    payload: bytes = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  #: from the model's api_key
    deadline: float | None = None  #: an end before the timeout's, by the event loop's clock
    sends: Callable[[], None] = field(default=lambda: None, repr=False)  #: told before the first byte leaves


@dataclass(frozen=True, slots=True)
class UploadCredentials:
    """What the task's creator may show to the file service."""

    authorization: str = field(default="", repr=False)
    user_info: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class OutputLink:
    """Where one output of a job lies, and what the model's own address may be shown."""

    url: str = field(repr=False)  #: http, https or data; it may be signed, so it is never shown whole
    base_url: str  #: the model's: its headers go to this origin and to no other
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    content_type: str = ""  #: what the provider says of it


@dataclass(slots=True)
class OutputSet:
    """The outputs of one job, which need their room in staging together."""

    size: int = 0  #: bytes of those that are there, and of those on their way


class StagingWriter(Protocol):
    """One output on its way into staging. Used as a context, it leaves nothing behind unless committed."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises StagingFull, and ModelError `answer_too_large` past the cap of one file, or past
        what staging could ever hold of the set."""

    async def commit(self, content_type: str = "") -> StagedFile:
        """Keep it: durably, or as the content of a StagedFile that becomes so when it is recorded.

        The type is sniffed from its bytes, `content_type` is a last hint. Raises StagingFull.
        """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Staging(Protocol):
    """Outputs between the model's answer and their place in storage."""

    @property
    def full(self) -> bool:
        """Whether it takes nothing now: admit no work."""

    def create(self, task: UUID, attempt: int, tenant: int, one_of: OutputSet | None = None) -> StagingWriter:
        """Begin an output; one of a set becomes a file, however small. Raises StagingFull."""

    def holds(self, reference: str) -> bool:
        """Whether the output can be read here: it lies in this store, or in PostgreSQL."""

    async def read(self, staged: StagedFile) -> bytes:
        """A small output as a whole. Raises StagedLost when it is gone or is not what was written, OSError when nothing
        can be read now."""

    def chunks(self, staged: StagedFile) -> AsyncIterator[bytes]:
        """An output of any size. Raises StagedLost before the last chunk of one that is not what was written."""

    async def remove(self, reference: str) -> None:
        """Delete an output's file; deleting twice, or one that lies elsewhere, changes nothing."""


class ModelAdapter(Protocol):
    """One way to call models."""

    async def invoke(self, call: ModelCall, sink: StagingWriter) -> StagedFile:
        """Call the model once and stage its answer. Raises ModelError and StagingFull.

        `call.sends` is told before the model can hear of the call: what fails before is not counted as a call.
        """


class OutputLinks(Protocol):
    """Outputs of jobs, fetched from wherever their providers put them."""

    async def fetch(self, link: OutputLink, sink: StagingWriter) -> StagedFile:
        """Fetch an output once, into staging. Raises StagingFull, and ModelError: retryable when the same link may do
        better in a moment, `output_link_expired` when the output is gone."""


class ResultStore(Protocol):
    """Where results are kept for good."""

    async def put(self, name: ResultName, staged: StagedFile, credentials: UploadCredentials | None) -> StoredFile:
        """Store a staged output; storing it again replaces it. Raises UploadFailed and StagedLost."""
