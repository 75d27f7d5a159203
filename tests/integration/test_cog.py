"""The cog adapter against a real Cog server: answers in the call, answers by callback, and what Cog does not offer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiohttp import web

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.cog import Cog
from libs.common.adapters.models.job_http import open_job_http
from libs.common.domain.model_errors import Busy, ModelError
from libs.common.ports_jobs import JobAnswer, JobCall, JobReport, JobStatus
from tests.support.cog_server import CogServer, cog_server
from tests.support.serving import serving
from tests.support.waiting import until

CALLBACK = {"answer": "callback"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    with cog_server(tmp_path_factory.mktemp("cog")) as running:
        yield running


@pytest.fixture
async def adapter() -> AsyncIterator[Cog]:
    async with open_job_http(EgressGuard(["127.0.0.0/8"])) as http:
        yield Cog(http)


@dataclass
class Receiver:
    """Where Cog calls back to."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        return web.Response(status=204)

    def said(self, adapter: Cog, call: JobCall) -> list[JobReport]:
        """What the callbacks say of this job."""
        reports = (adapter.called_back(replace(call, payload=b""), {}, body) for body in self.bodies)
        return [report for report in reports if report is not None]

    def over(self, adapter: Cog, call: JobCall) -> JobReport | None:
        """The job's end."""
        return next((report for report in self.said(adapter, call) if report.status.over), None)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application(client_max_size=16 * 2**20)
    app.router.add_post("/callbacks/{token}", receiver.receive)
    async with serving(app) as url:
        receiver.url = f"{url}/callbacks/t0ken-0123456789"
        yield receiver


def call_of(server: CogServer, payload: dict[str, Any], **changes: Any) -> JobCall:
    usual = JobCall(
        intent_key=str(uuid4()),
        base_url=server.url,
        route="",
        config={},
        payload=orjson.dumps(payload),
        timeout_seconds=20,
    )
    return replace(usual, **changes)


async def is_ready(server: CogServer) -> None:
    """Wait until its one slot is free."""
    async with asyncio.timeout(10):
        while await asyncio.to_thread(server.status) != "READY":
            await asyncio.sleep(0.02)


async def test_an_answer_in_the_call_brings_the_file(server: CogServer, adapter: Cog) -> None:
    for payload in ({"text": "one"}, {"input": {"text": "one"}, "more": 1}):
        await is_ready(server)  # its slot is free a moment after the answer
        call = call_of(server, payload)
        report = await adapter.submit(call)
        assert (report.status, report.provider_id) == (JobStatus.SUCCEEDED, call.intent_key)
        [output] = report.outputs
        assert (output.content, output.content_type) == (b"\x89PNG\r\n\x1a\none", "image/png")


async def test_a_prediction_that_fails_says_why(server: CogServer, adapter: Cog) -> None:
    await is_ready(server)
    report = await adapter.submit(call_of(server, {"text": "you", "kind": "fail"}))
    assert report.status is JobStatus.FAILED
    assert "no luck with you" in report.message
    for payload in (b"[1]", b"{"):
        with pytest.raises(ModelError) as raised:
            await adapter.submit(replace(call_of(server, {}), payload=payload))
        assert (raised.value.code, raised.value.sent) == ("bad_payload", False)


async def test_a_full_server_is_nobodys_fault(server: CogServer, adapter: Cog, receiver: Receiver) -> None:
    await is_ready(server)
    running = call_of(server, {"text": "long", "seconds": 30.0}, config=CALLBACK, callback_url=receiver.url)
    assert (await adapter.submit(running)).status is JobStatus.PROCESSING
    for config in ({}, CALLBACK):
        with pytest.raises(Busy) as raised:
            await adapter.submit(call_of(server, {"text": "late"}, config=config, callback_url=receiver.url))
        assert raised.value.retry_after == 1.0
        assert "At capacity" in raised.value.message
    await adapter.cancel(running, running.intent_key)
    await until(lambda: receiver.over(adapter, running), seconds=10)
    assert (report := receiver.over(adapter, running)) is not None
    assert report.status is JobStatus.CANCELED
    assert "late" not in server.runs()
    await adapter.cancel(running, running.intent_key)  # it is over: harmless
    await is_ready(server)


async def test_a_callback_brings_the_file(server: CogServer, adapter: Cog, receiver: Receiver) -> None:
    config = {"answer": "callback", "progress": True}
    call = call_of(server, {"text": "two", "seconds": 1.0}, config=config, callback_url=receiver.url)
    report = await adapter.submit(call)
    assert (report.status, report.provider_id) == (JobStatus.PROCESSING, call.intent_key)
    await until(lambda: receiver.over(adapter, call), seconds=10)
    assert 50.0 in {report.unit_progress for report in receiver.said(adapter, call)}
    assert (report := receiver.over(adapter, call)) is not None
    assert report.status is JobStatus.SUCCEEDED
    assert [output.content for output in report.outputs] == [b"\x89PNG\r\n\x1a\ntwo"]
    stranger = call_of(server, {}, config=config, callback_url=receiver.url)
    assert receiver.said(adapter, stranger) == []
    await is_ready(server)


async def test_the_same_put_makes_no_second_run_while_it_runs_and_one_after_it(
    server: CogServer, adapter: Cog, receiver: Receiver
) -> None:
    """Why the adapter says that it does not dedupe: this is what Cog does, not what we would like."""
    call = call_of(server, {"text": "again", "seconds": 1.0}, config=CALLBACK, callback_url=receiver.url)
    await adapter.submit(call)
    assert (await adapter.submit(call)).status is JobStatus.PROCESSING
    await until(lambda: receiver.over(adapter, call), seconds=10)
    await is_ready(server)
    assert server.runs().count("again") == 1
    await adapter.submit(replace(call, payload=b'{"text": "again"}'))
    await is_ready(server)
    assert server.runs().count("again") == 2
    assert not adapter.dedupes(call.config)


async def test_what_cog_does_not_offer(server: CogServer, adapter: Cog) -> None:
    call = call_of(server, {})
    assert not adapter.polls(call.config)
    with pytest.raises(LookupError):
        await adapter.find(call)
    with pytest.raises(ModelError):
        await adapter.get(call, call.intent_key)
    with pytest.raises(ModelError) as raised:
        await adapter.submit(replace(call, config=CALLBACK))
    assert (raised.value.code, raised.value.sent) == ("bad_config", False)


async def test_a_server_that_loads_its_model_or_is_behind_a_proxy() -> None:
    loading = b'{"error":"Setup has not finished yet.","status":"failed"}'
    begun = b'{"error":"x","status":"failed","id":"a"}'
    for status, body, busy in ((503, loading, True), (503, begun, False), (503, b"<html>", False), (409, b"{}", False)):
        http = _Fixed(status, body)
        with pytest.raises(ModelError) as raised:
            await Cog(http).submit(JobCall(intent_key="k", base_url="http://x", route="", config={}, payload=b"{}"))
        assert isinstance(raised.value, Busy) is busy
        assert raised.value.retryable


class _Fixed:
    """Answers every request the same."""

    def __init__(self, status: int, body: bytes) -> None:
        self._status = status
        self._body = body

    async def send(self, *_given: Any, **_more: Any) -> Any:
        return JobAnswer(self._status, {}, self._body)
