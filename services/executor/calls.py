"""How a model is called for a task: what it is sent, with which headers, by which adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import orjson

from libs.common.domain.header_bindings import InvalidBindings, parse_bindings
from libs.common.domain.model import Model
from libs.common.domain.model_errors import ModelError, SecretKeyMissing, UnknownAdapter
from libs.common.domain.output import StagedFile
from libs.common.domain.payload import is_empty
from libs.common.ports_attempts import Attempt
from libs.common.ports_execution import ModelAdapter, ModelCall, Staging
from libs.common.ports_secrets import KeyMissing
from services.executor.execution import Trust, Untrusted
from services.executor.runs import Run

#: Opens a sealed value for its owner; raises ValueError, KeyMissing where another process may do better.
Opener = Callable[[bytes, str], bytes]


class Jobs(Protocol):
    """Calls that are jobs of a provider."""

    def owns(self, run: Run) -> bool:
        """Whether this attempt's call is one, or was begun as one."""

    async def output(self, run: Run) -> tuple[StagedFile, ...]:
        """Have the job done, and stage what it has put out. Raises ModelError, StagingFull and NotOurs."""


class ModelCalls:
    """Calls models by the adapter that each names."""

    def __init__(
        self, adapters: Mapping[str, ModelAdapter], jobs: Jobs, staging: Staging, headers: ModelHeaders, trust: Trust
    ) -> None:
        self._trust = trust
        self._adapters = adapters
        self._jobs = jobs
        self._staging = staging
        self._headers = headers

    async def call(self, run: Run) -> tuple[StagedFile, ...]:
        """Call the model within its time and stage the answer. Raises ModelError or StagingFull, Untrusted among them:
        we have been silent for too long by the time that the connection is there.

        `run.called` says afterwards whether the model may have heard of it: what was refused before, here or on the
        way to its address, was no call.
        """
        if self._jobs.owns(run):
            return await self._jobs.output(run)
        model, attempt = run.model, run.attempt
        adapter = self._adapters.get(model.adapter)
        if adapter is None:
            raise UnknownAdapter(model.adapter)
        call = ModelCall(
            base_url=model.base_url,
            route=model.route,
            method=model.http_method,
            timeout_seconds=model.timeout_seconds,
            payload=payload_of(attempt),
            headers=self._headers.of(model),
            deadline=run.deadline,
            sends=partial(self._begin, run),
        )
        async with self._staging.create(attempt.public_id, attempt.number, attempt.tenant_id) as sink:
            return (await adapter.invoke(call, sink),)

    def _begin(self, run: Run) -> None:
        """The call is about to leave: from now on the model may hear of it."""
        if not self._trust.trusted and not run.called:
            raise Untrusted(sent=False)
        run.called = True


class ModelHeaders:
    """What models' api_keys add to their calls, opened once a change."""

    def __init__(self, open_sealed: Opener) -> None:
        self._open_sealed = open_sealed
        self._headers: dict[int, tuple[bytes, tuple[tuple[str, str], ...]]] = {}

    def of(self, model: Model) -> tuple[tuple[str, str], ...]:
        """The headers of a model. Raises ModelError."""
        if model.bindings is None:
            return ()
        known = self._headers.get(model.id)
        if known is not None and known[0] == model.bindings:
            return known[1]
        try:
            text = self._open_sealed(model.bindings, f"tenant:{model.tenant_id}").decode()
            headers = parse_bindings(text)
        except KeyMissing as error:
            raise SecretKeyMissing(str(error)) from error
        except (ValueError, InvalidBindings) as error:
            message = f"the model's api_key cannot be read: {error}"
            raise ModelError("api_key_unreadable", message, retryable=False, sent=False) from error
        self._headers[model.id] = (model.bindings, headers)
        return headers


def payload_of(attempt: Attempt) -> bytes:
    """What the model gets: the payload, or the reference in place of an empty one."""
    if attempt.input_ref and is_empty(attempt.payload):
        return orjson.dumps({"inputRef": attempt.input_ref})
    return attempt.payload
