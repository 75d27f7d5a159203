"""What a provider's adapter is called with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson

from libs.common.domain.model import Model
from libs.common.domain.model_errors import ModelError, UnknownAdapter
from libs.common.ports_jobs import JobAdapter, JobCall
from libs.common.runtime.logging import get_logger
from libs.common.runtime.off_the_clock import off_the_clock
from services.executor.calls import ModelHeaders, payload_of
from services.executor.jobs.job import Job
from services.executor.jobs.memory import AnswerMemory, AnswerShare
from services.executor.runs import Run

log = get_logger()

#: Asking how a job stands, or to end it, is quick; a submit may last as long as the model's call may.
_ASK_SECONDS: Final = 30.0
#: An adapter keeps its time by itself; this ends one that does not.
_GRACE_SECONDS: Final = 5.0

Answer = TypeVar("Answer")


class JobCalls:
    """Finds adapters by name, and builds their calls from models and attempts."""

    def __init__(
        self,
        adapters: Mapping[str, JobAdapter],
        headers: ModelHeaders,
        newest: Callable[[int], Model | None],
        callback_url: Callable[[UUID, float], str],
    ) -> None:
        self._adapters = adapters
        self._newest = newest
        self._headers = headers
        self._callback_url = callback_url
        self._memory = AnswerMemory()
        self._configs: dict[int, tuple[str, Mapping[str, Any]]] = {}

    def runs(self, adapter: str) -> bool:
        """Whether this adapter is one of providers' jobs."""
        return adapter in self._adapters

    def names(self) -> list[str]:
        """The adapters that are known here."""
        return list(self._adapters)

    def adapter(self, name: str) -> JobAdapter:
        """The adapter of that name. Raises UnknownAdapter."""
        adapter = self._adapters.get(name)
        if adapter is None:
            raise UnknownAdapter(name)
        return adapter

    def share(self, run: Run) -> AnswerShare:
        """The room that this attempt's answers take up in memory."""
        return self._memory.share(run.attempt.tenant_id, run.slot)

    def aside(self, model: Model) -> AnswerShare:
        """The same for calls that no attempt waits for."""
        return self._memory.share(model.tenant_id, None)

    def now(self, model: Model) -> Model:
        """The model as it is now: a job outlives changes of its model, a new api_key above all.

        Of one that is called by another adapter now, nothing new says how this job is asked about.
        """
        newest = self._newest(model.id)
        return newest if newest is not None and newest.adapter == model.adapter else model

    def config(self, model: Model) -> Mapping[str, Any]:
        """The model's adapter_config, read once a change."""
        known = self._configs.get(model.id)
        if known is None or known[0] != model.adapter_config:
            known = self._configs[model.id] = (model.adapter_config, orjson.loads(model.adapter_config))
        return known[1]

    def submit(self, job: Job, sends: Callable[[], None]) -> JobCall:
        """The call that makes a job. Raises ModelError for an api_key that cannot be read."""
        attempt, left = job.run.attempt, job.left
        return replace(
            self.ask(job.run.model, job.key, job.intended_at, job.share, seconds=max(1.0, left)),
            payload=payload_of(attempt),
            output_count=attempt.output_count,
            job_seconds=left,
            callback_url=self._callback_url(job.key, left),
            sends=sends,
        )

    def ask(
        self,
        model: Model,
        key: UUID,
        intended_at: float,
        share: AnswerShare,
        *,
        since_submit: float = 0.0,
        seconds: float = _ASK_SECONDS,
    ) -> JobCall:
        """Any other call about a job, answered within `seconds`. Raises ModelError as above."""
        model = self.now(model)
        return JobCall(
            intent_key=str(key),
            base_url=model.base_url,
            route=model.route,
            config=self.config(model),
            payload=b"",
            headers=self._headers.of(model),
            timeout_seconds=min(float(model.timeout_seconds), seconds),
            intended_at=intended_at,
            tenant_id=model.tenant_id,
            since_submit=since_submit,
            room=share.take,
        )


async def in_time(
    call: JobCall, ask: Callable[[JobCall], Awaitable[Answer]], *, passes: type[Exception] = ModelError
) -> Answer:
    """What an adapter's method answers, in its time. Raises ModelError, whatever went wrong, and what `passes`."""
    try:
        async with asyncio.timeout(call.timeout_seconds + _GRACE_SECONDS) as limit:
            return await ask(replace(call, room=lambda size: off_the_clock(limit, call.room(size))))
    except (ModelError, passes):
        raise
    except TimeoutError:
        message = f"the provider did not answer within {call.timeout_seconds:g} s"
        raise ModelError("model_timeout", message, retryable=True) from None
    except Exception as error:
        log.error("adapter.surprise", intent=call.intent_key, error=type(error).__name__, exc_info=True)
        raise ModelError(
            "adapter_failed", f"unexpected {type(error).__name__} in the adapter", retryable=True
        ) from error
