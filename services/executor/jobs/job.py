"""A provider's job as its executor knows it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from libs.common.domain.model_errors import ModelError
from libs.common.domain.texts import storable
from libs.common.ports_attempts import Attempt
from libs.common.ports_jobs import JobAdapter, JobReport, JobStatus
from libs.common.ports_provider_jobs import JobNews
from libs.common.runtime.redaction import redact_text
from services.executor.jobs.memory import AnswerShare
from services.executor.runs import Run

_MESSAGE_LIMIT: Final = 500
_ID_LIMIT: Final = 512
_NOT_BEGUN: Final = ("intended", "queued")


def intent_key(attempt: Attempt) -> UUID:
    """The key of an attempt's job: the same whoever computes it, so that no crash can forget it."""
    return uuid5(attempt.public_id, str(attempt.number))


@dataclass(slots=True, eq=False)
class Job:
    """One attempt's job, and what has been written down of it."""

    run: Run
    adapter: JobAdapter
    polls: bool
    key: UUID
    intended_at: float
    deadline: float  #: by the event loop's clock
    share: AnswerShare  #: of the memory that answers may take up
    provider_id: str = ""
    status: str = "intended"
    progress: float | None = None
    message: str = ""
    open: bool = False  #: a submit left open whether there is a job: it counts as one until its provider denies it
    asked_at: float = 0.0  #: when a submit of it was last under way, as far as is known here; by the loop's clock
    side: asyncio.Task[None] | None = None  #: shows meanwhile that its submit lasts

    async def quiet(self) -> None:
        """Wait until nothing is being written of it: what is written next must come after it."""
        if self.side is not None:
            await asyncio.wait((self.side,))
            self.side = None

    @property
    def left(self) -> float:
        """Seconds to its deadline."""
        return self.deadline - asyncio.get_running_loop().time()

    def heard(self, report: JobReport) -> JobNews | None:
        """What of a report has to be written down: nothing when it says what the last one said.

        Whatever a provider says, a job that has begun is not queued again, and its percentage does not fall.
        """
        status = report.status.value
        if report.status is JobStatus.QUEUED and self.begun:
            status = self.status
        news = JobNews(
            self.provider_id or _checked(report.provider_id),
            status,
            self._further(report.unit_progress),
            storable(redact_text(report.message))[:_MESSAGE_LIMIT],
            status not in _NOT_BEGUN,
        )
        said = (self.provider_id, self.status, self.progress, self.message)
        return None if said == (news.provider_id, news.status, news.unit_progress, news.message) else news

    def news(self, status: str) -> JobNews:
        """The same job with another status."""
        return JobNews(self.provider_id, status, self.progress, self.message, self.begun)

    def wrote(self, news: JobNews) -> None:
        """This is written down now."""
        self.provider_id, self.status = news.provider_id, news.status
        self.progress, self.message = news.unit_progress, news.message

    @property
    def begun(self) -> bool:
        """Whether its provider has begun to work on it."""
        return self.status not in _NOT_BEGUN

    def _further(self, percent: float | None) -> float | None:
        if percent is None or not math.isfinite(percent):
            return self.progress
        told = round(min(max(percent, 0.0), 100.0), 2)
        return told if self.progress is None else max(told, self.progress)


def _checked(provider_id: str) -> str:
    if len(provider_id) > _ID_LIMIT or storable(provider_id) != provider_id:
        raise ModelError("bad_answer", "the provider's id of the job cannot be kept", retryable=False)
    return provider_id
