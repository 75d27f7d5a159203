"""The kit that authors of adapters get, run over our own adapters, and over adapters that break each of its rules."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.cog import Cog
from libs.common.adapters.models.job_http import open_job_http
from libs.common.adapters.models.kit import AdapterKit, Fault, Refused
from libs.common.adapters.models.replicate import Replicate
from libs.common.adapters.models.submit_poll import SubmitPoll
from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobAdapter, JobCall, JobHttp, JobReport, JobStatus
from tests.support.cog_provider import CogProvider, cog_provider
from tests.support.replicate_provider import MARKER, TOKEN, Refusal, ReplicateProvider, replicate_provider

#: Replicate's API once more, by configuration alone.
REPLICATE_BY_CONFIGURATION: dict[str, Any] = {
    "submit": {"path": "v1/predictions", "body": {"input": {"prompt": "{{payload.prompt}}", MARKER: "{{intent_key}}"}}},
    "job_id": "id",
    "poll": {"path": "v1/predictions/{{job_id}}"},
    "status": "status",
    "statuses": {
        "queued": ["starting"],
        "processing": ["processing"],
        "succeeded": ["succeeded"],
        "failed": ["failed"],
        "canceled": ["canceled", "aborted"],
    },
    "outputs": "output",
    "error": "error || detail",
    "cancel": {"path": "v1/predictions/{{job_id}}/cancel"},
    "find": {"path": "v1/predictions", "items": "results", "match": f"input.{MARKER}", "job_id": "id"},
}


def usual_call(url: str, config: Mapping[str, Any]) -> JobCall:
    return JobCall(
        intent_key=str(uuid4()),
        base_url=url,
        route="",
        config=config,
        payload=b'{"prompt": "a cat"}',
        headers=(("Authorization", f"Bearer {TOKEN}"),),
        timeout_seconds=5,
        intended_at=time.time() - 60,
        since_submit=60.0,
        callback_url="https://us.example/callbacks/t0ken-of-this-attempt",
    )


@dataclass
class Predictions:
    """The provider that speaks Replicate's API, as the kit wants it."""

    provider: ReplicateProvider
    config: Mapping[str, Any]

    def new_call(self) -> JobCall:
        return usual_call(self.provider.url, self.config)

    def jobs_of(self, call: JobCall) -> int:
        return len(self.provider.made_for(call.intent_key))

    def misbehave(self, fault: Fault) -> None:
        if isinstance(fault, Refused):
            refusal = Refusal(fault.status, dict(fault.body), dict(fault.headers))
            self.provider.anything.append(refusal)
        else:
            self.provider.anything.append(fault)

    def forget(self, call: JobCall) -> None:
        for job in self.provider.made_for(call.intent_key):
            job.gone = True


@dataclass
class CogPredictions:
    """The server that speaks Cog's API, as the kit wants it."""

    provider: CogProvider
    config: Mapping[str, Any]

    def new_call(self) -> JobCall:
        self.provider.running.clear()
        return usual_call(self.provider.url, self.config)

    def jobs_of(self, call: JobCall) -> int:
        return self.provider.runs.count(call.intent_key)

    def misbehave(self, fault: Fault) -> None:
        self.provider.faults.append(fault)

    def forget(self, call: JobCall) -> None:
        self.provider.running.pop(call.intent_key, None)


@asynccontextmanager
async def kit_of(name: str) -> AsyncIterator[AdapterKit]:
    """The kit for one of our adapters."""
    async with open_job_http(EgressGuard(["127.0.0.0/8"])) as http:
        if name.startswith("cog"):
            async with cog_provider() as cog:
                yield AdapterKit(Cog(http), CogPredictions(cog, {"answer": name.partition(" ")[2]}))
            return
        async with replicate_provider() as provider:
            if name == "replicate":
                yield AdapterKit(Replicate(http), Predictions(provider, {}))
            else:
                yield AdapterKit(SubmitPoll(http), Predictions(provider, REPLICATE_BY_CONFIGURATION))


OURS = ("replicate", "submit-poll", "cog call", "cog callback")
CHECKS = sorted(AdapterKit(None, None).checks())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OURS)
async def test_our_adapters_pass(name: str) -> None:
    async with kit_of(name) as kit:
        results = await kit.run()
    assert [str(result) for result in results if result.outcome == "failed"] == []
    skipped = {result.name for result in results if result.outcome == "not offered"}
    allowed = {"polls_that_fail", "forgotten_job"} if name.startswith("cog") else set()
    assert skipped - {"job_to_its_end"} == allowed
    assert ("job_to_its_end" in skipped) is (name == "cog callback")
    async with kit_of(name) as kit:
        await kit.assert_passes()


class Careless(SubmitPoll):
    """Breaks one rule of each check."""

    def __init__(self, http: JobHttp, flaw: str) -> None:
        super().__init__(http)
        self.flaw = flaw

    def check(self, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        if self.flaw != "configuration":
            super().check(base_url, route, config)

    async def submit(self, call: JobCall) -> JobReport:
        try:
            return await super().submit(call)
        except ModelError as error:
            if self.flaw == "lost_answer" and error.sent and error.code in ("model_unreachable", "bad_answer"):
                return await super().submit(call)
            if self.flaw == "nothing_sent":
                error.sent = True
            if self.flaw == "full_provider" and error.code == "model_busy":
                raise ModelError("model_http_429", "full", retryable=True) from None
            if self.flaw == "refusals":
                error.message += call.headers[0][1]
            raise

    async def get(self, call: JobCall, provider_id: str) -> JobReport:
        try:
            report = await super().get(call, provider_id)
        except ModelError as error:
            if self.flaw in ("polls_that_fail", "forgotten_job"):
                raise ModelError("gone", "gone", retryable=False) from error
            raise
        if self.flaw == "job_to_its_end" and report.status is JobStatus.SUCCEEDED:
            return replace(report, outputs=())
        return report

    async def cancel(self, call: JobCall, provider_id: str) -> None:
        await super().cancel(call, provider_id)
        if self.flaw == "cancel":
            await self.submit(replace(call, payload=b'{"prompt": "again"}'))

    def called_back(self, call: JobCall, headers: Mapping[str, str], body: bytes) -> JobReport | None:
        if self.flaw == "callbacks_of_others":
            return JobReport(JobStatus.PROCESSING)
        return super().called_back(call, headers, body)


@pytest.mark.parametrize("flaw", CHECKS)
async def test_each_check_finds_what_it_looks_for(flaw: str) -> None:
    async with open_job_http(EgressGuard(["127.0.0.0/8"])) as http, replicate_provider() as provider:
        adapter: JobAdapter = Careless(http, flaw)
        results = await AdapterKit(adapter, Predictions(provider, REPLICATE_BY_CONFIGURATION)).run()
    assert flaw in {result.name for result in results if result.outcome == "failed"}
