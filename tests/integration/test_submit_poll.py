"""submit-poll against a provider with its own ideas: other paths, other words, results at an address of their own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiohttp import web

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.job_http import GuardedJobHttp, open_job_http
from libs.common.adapters.models.submit_poll import SubmitPoll
from libs.common.domain.model_errors import Busy, JobGone, ModelError
from libs.common.ports_jobs import JobCall, JobStatus
from tests.support.serving import serving
from tests.support.turns import slowest_turn

SECRET = "k-0123456789abcdef"
CONFIG: dict[str, Any] = {
    "submit": {
        "method": "POST",
        "path": "queue/{{payload.kind}}",
        "query": {"n": "{{output_count}}", "seed": "{{payload.seed}}"},
        "headers": {"X-Request-Id": "sw-{{intent_key}}"},
        "body": {
            "text": "{{payload.text}}",
            "opts": {"style": "{{payload.style}}", "steps": 20},
            "hook": "{{callback_url}}",
        },
    },
    "job_id": "data.task_id",
    "poll": {"method": "POST", "path": "status", "body": {"task": "{{job_id}}"}},
    "status": "data.state",
    "statuses": {"queued": [0, "WAIT"], "processing": [1], "succeeded": [2], "failed": [-1], "canceled": ["STOPPED"]},
    "percent": "data.done",
    "percent_full": 1.0,
    "message": "data.note",
    "result": {"path": "results/{{job_id}}"},
    "outputs": "images[?!hidden].link",
    "error": "data.why || msg",
    "retryable_errors": ["overloaded"],
    "cancel": {"method": "DELETE", "path": "queue/{{job_id}}"},
    "find": {
        "path": "mine",
        "query": {"ref": "sw-{{intent_key}}"},
        "items": "tasks",
        "match": "ref",
        "job_id": "task_id",
        "absence_is_certain": True,
    },
}  # fmt: skip


@dataclass
class Seen:
    method: str
    target: str
    headers: dict[str, str]
    body: Any


@dataclass
class Provider:
    """Answers what the test has laid down, and keeps what came."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    answers: deque[tuple[int, Any]] = field(default_factory=deque)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        self.seen.append(
            Seen(request.method, request.raw_path, {n.lower(): v for n, v in request.headers.items()}, body)
        )
        status, told = self.answers.popleft()
        if isinstance(told, web.Response):
            return told
        return web.json_response(told, status=status)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", provider.answer)
    async with serving(app) as provider.url:
        yield provider


@pytest.fixture
async def http() -> AsyncIterator[GuardedJobHttp]:
    async with open_job_http(EgressGuard(["127.0.0.0/8"])) as opened:
        yield opened


@pytest.fixture
def adapter(http: GuardedJobHttp) -> SubmitPoll:
    return SubmitPoll(http)


def call_of(provider: Provider, config: dict[str, Any] = CONFIG, **changes: Any) -> JobCall:
    usual = JobCall(
        intent_key=str(uuid4()),
        base_url=f"{provider.url}/api/",
        route="",
        config=config,
        payload=b'{"text": "a \\u00fc cat", "kind": "a/b?c", "seed": 7}',
        headers=(("X-Key", SECRET),),
        timeout_seconds=5,
        output_count=2,
        intended_at=time.time() - 60,
        since_submit=60.0,
    )
    return replace(usual, **changes)


async def test_a_job_from_its_submit_to_its_files(provider: Provider, adapter: SubmitPoll) -> None:
    call = call_of(provider)
    provider.answers.append((200, {"data": {"task_id": 17}}))
    report = await adapter.submit(call)
    assert (report.status, report.provider_id) == (JobStatus.QUEUED, "17")
    [submit] = provider.seen
    assert (submit.method, submit.target) == ("POST", "/api/queue/a%2Fb%3Fc?n=2&seed=7")
    assert submit.body == {"text": "a ü cat", "opts": {"steps": 20}}  # neither a style nor a callback was there
    assert submit.headers["x-request-id"] == f"sw-{call.intent_key}"
    assert submit.headers["x-key"] == SECRET

    later = replace(call, payload=b"")
    provider.answers.append((200, {"data": {"state": 1, "done": 0.25, "note": "half way\n"}}))
    report = await adapter.get(later, "17")
    assert (report.status, report.unit_progress, report.message) == (JobStatus.PROCESSING, 25.0, "half way")
    assert (provider.seen[-1].method, provider.seen[-1].body) == ("POST", {"task": "17"})

    links = [{"link": "https://f/1"}, {"link": "https://f/2", "hidden": True}, {"link": "https://f/3"}]
    provider.answers.extend([(200, {"data": {"state": 2}}), (200, {"images": links})])
    report = await adapter.get(later, "17")
    assert report.status is JobStatus.SUCCEEDED
    assert [output.url for output in report.outputs] == ["https://f/1", "https://f/3"]
    assert provider.seen[-1].target == "/api/results/17"


@pytest.mark.parametrize(
    ("state", "status", "message"),
    [
        (0, JobStatus.QUEUED, ""),
        ("wait ", JobStatus.QUEUED, ""),
        ("stopped", JobStatus.CANCELED, ""),
        ("NEW WORD", JobStatus.PROCESSING, "unknown status 'NEW WORD'"),
        (99, JobStatus.PROCESSING, "unknown status '99'"),
    ],
)
async def test_words_and_numbers_have_their_meaning(
    provider: Provider, adapter: SubmitPoll, state: Any, status: JobStatus, message: str
) -> None:
    provider.answers.append((200, {"data": {"state": state}}))
    report = await adapter.get(call_of(provider, payload=b""), "17")
    assert (report.status, report.message) == (status, message)


@pytest.mark.parametrize(
    ("told", "message", "retryable"),
    [
        ({"state": -1, "why": f"bad {SECRET}"}, "bad ***", False),
        ({"state": -1, "why": {"message": "Overloaded, sorry"}}, "Overloaded, sorry", True),
        ({"state": -1, "why": ["x"]}, "x", False),
        ({"state": -1}, "the provider's job failed without a reason", False),
        ({"state": -1, "note": "out of luck"}, "out of luck", False),
    ],
)
async def test_a_failure_says_why_and_whether_it_passes(
    provider: Provider, adapter: SubmitPoll, told: Any, message: str, retryable: bool
) -> None:
    provider.answers.append((200, {"data": told}))
    report = await adapter.get(call_of(provider, payload=b""), "17")
    assert (report.status, report.message, report.retryable) == (JobStatus.FAILED, message, retryable)


@pytest.mark.parametrize("told", [{}, {"data": None}, {"data": {"state": None}}, {"data": {"state": {}}}, [], 7])
async def test_an_answer_without_a_status_is_asked_for_again(
    provider: Provider, adapter: SubmitPoll, told: Any
) -> None:
    provider.answers.append((200, told))
    with pytest.raises(ModelError) as raised:
        await adapter.get(call_of(provider, payload=b""), "17")
    assert (raised.value.code, raised.value.retryable) == ("bad_answer", True)


async def test_an_error_inside_a_success_is_a_refusal(provider: Provider, adapter: SubmitPoll) -> None:
    for told, retryable in (({"msg": "no such style"}, False), ({"msg": "we are OVERLOADED"}, True)):
        provider.answers.append((200, told))
        with pytest.raises(ModelError) as raised:
            await adapter.submit(call_of(provider))
        error = raised.value
        assert (error.code, error.message, error.retryable) == ("provider_refused", told["msg"], retryable)
        assert error.answered
    provider.answers.append((200, {"data": {"task_id": {"x": 1}}}))
    with pytest.raises(ModelError) as unknown:
        await adapter.submit(call_of(provider))
    assert (unknown.value.code, unknown.value.retryable, unknown.value.answered) == ("bad_answer", True, False)


@pytest.mark.parametrize("payload", [b'{"text": "x"}', b'{"kind": ".."}', b'{"kind": ""}', b'{"kind": {}}', b"{", b""])
async def test_a_payload_that_lacks_what_the_path_needs_never_leaves(
    provider: Provider, adapter: SubmitPoll, payload: bytes
) -> None:
    with pytest.raises(ModelError) as raised:
        await adapter.submit(call_of(provider, payload=payload))
    assert (raised.value.code, raised.value.retryable, raised.value.sent) == ("bad_payload", False, False)
    assert provider.seen == []


async def test_what_may_not_leave_any_more_does_not(provider: Provider, adapter: SubmitPoll) -> None:
    """Asked when the connection is there: it may have taken long."""
    asked: list[int] = []

    def sends() -> None:
        asked.append(1)
        raise ModelError("too_late", "it is another one's", retryable=True, sent=False)

    with pytest.raises(ModelError) as raised:
        await adapter.submit(call_of(provider, sends=sends))
    assert (raised.value.code, asked, provider.seen) == ("too_late", [1], [])
    provider.answers.append((200, {"data": {"task_id": 17}}))
    assert (await adapter.submit(call_of(provider))).provider_id == "17"


async def test_a_path_cannot_lead_to_another_origin(provider: Provider, adapter: SubmitPoll) -> None:
    for path in ("http://10.0.0.1/{{job_id}}", "//evil/{{job_id}}", "@evil/{{job_id}}", "http://evil/{{job_id}}"):
        config = {**CONFIG, "poll": {"path": path}}
        provider.answers.append((404, {}))
        with pytest.raises(ModelError) as raised:
            await adapter.get(call_of(provider, config, payload=b""), "17")
        assert isinstance(raised.value, JobGone) or (raised.value.code, raised.value.sent) == ("bad_address", False)
        provider.answers.clear()
    assert all(seen.target.startswith("/api/") for seen in provider.seen)


@pytest.mark.parametrize(
    "submit",
    [
        {"path": "queue", "body": {"pages": "{{ceil(payload)}}"}},
        {"path": "queue", "body": '{{`"\\ud800"`}}'},
        {"path": 'queue/{{`"\\ud800"`}}'},
        {"path": "queue", "query": {"a": '{{`"\\ud800"`}}'}},
    ],
    ids=["number", "body", "path", "query"],
)
async def test_what_cannot_be_written_down_never_leaves(
    provider: Provider, adapter: SubmitPoll, submit: dict[str, Any]
) -> None:
    """It would be taken for a submit that may have been heard."""
    with pytest.raises(ModelError) as raised:
        await adapter.submit(call_of(provider, {**CONFIG, "submit": submit}, payload=b"1e300"))
    assert (raised.value.code, raised.value.retryable, raised.value.sent) == ("bad_payload", False, False)
    assert provider.seen == []


async def test_a_body_cannot_grow_without_end(provider: Provider, adapter: SubmitPoll) -> None:
    config = {**CONFIG, "submit": {"path": "queue", "body": ["{{payload}}"] * 200}}
    with pytest.raises(ModelError) as raised:
        await adapter.submit(call_of(provider, config, payload=b'"' + b"x" * 500_000 + b'"'))
    assert (raised.value.code, raised.value.sent) == ("bad_payload", False)
    assert provider.seen == []


async def test_a_header_cannot_be_torn_open(provider: Provider, adapter: SubmitPoll) -> None:
    config = {**CONFIG, "submit": {"path": "queue", "headers": {"X-Text": "{{payload.text}}"}}}
    with pytest.raises(ModelError) as raised:
        await adapter.submit(call_of(provider, config, payload=b'{"text": "a\\r\\nEvil: b"}'))
    assert (raised.value.code, raised.value.sent) == ("bad_bindings", False)
    assert provider.seen == []


async def test_a_submit_that_says_nothing_sends_the_payload_to_the_route(
    provider: Provider, adapter: SubmitPoll
) -> None:
    config = {name: CONFIG[name] for name in ("job_id", "poll", "status", "statuses", "outputs")}
    provider.answers.append((200, {"data": {"task_id": "x", "state": 1}}))
    report = await adapter.submit(call_of(provider, config, route="run", payload=b'{"n": 1.5}'))
    assert (report.status, provider.seen[0].target, provider.seen[0].body) == (
        JobStatus.PROCESSING,
        "/api/run",
        {"n": 1.5},
    )
    await adapter.cancel(call_of(provider, config, payload=b""), "x")
    assert len(provider.seen) == 1


async def test_a_submit_is_one_request_even_of_a_job_that_is_done_at_once(
    provider: Provider, adapter: SubmitPoll
) -> None:
    """What fails after the provider named the job must not look like a submit that failed."""
    call = call_of(provider)
    provider.answers.append((200, {"data": {"task_id": "x", "state": 2}}))
    report = await adapter.submit(call)
    assert (report.status, report.provider_id, len(provider.seen)) == (JobStatus.PROCESSING, "x", 1)
    provider.answers.extend([(200, {"data": {"state": 2}}), (200, {"images": [{"link": "https://f"}]})])
    report = await adapter.get(replace(call, payload=b""), "x")
    assert (report.status, len(report.outputs)) == (JobStatus.SUCCEEDED, 1)
    config = {name: value for name, value in CONFIG.items() if name != "result"} | {"outputs": "data.images"}
    provider.answers.append((200, {"data": {"task_id": "y", "state": 2, "images": ["https://f"]}}))
    report = await adapter.submit(call_of(provider, config))
    assert (report.status, len(report.outputs)) == (JobStatus.SUCCEEDED, 1)


@pytest.mark.parametrize("state", [None, "", " ", {}])
async def test_a_job_that_is_named_without_a_status_waits(provider: Provider, adapter: SubmitPoll, state: Any) -> None:
    provider.answers.append((200, {"data": {"task_id": "x", "state": state}}))
    report = await adapter.submit(call_of(provider))
    assert (report.status, report.provider_id) == (JobStatus.QUEUED, "x")


async def test_a_lost_job_is_found_by_its_key(provider: Provider, adapter: SubmitPoll) -> None:
    call = call_of(provider, payload=b"")
    key = f"sw-{call.intent_key}"
    listed = {"tasks": [{"ref": None, "task_id": 4}, {"ref": key, "task_id": 5}, {"ref": "sw-other", "task_id": 6}]}
    provider.answers.append((200, listed))
    found = await adapter.find(call)
    assert found is not None
    assert found.provider_id == "5"
    assert provider.seen[0].target == f"/api/mine?ref={key}"
    provider.answers.append((200, {"tasks": []}))
    assert await adapter.find(call) is None
    provider.answers.append((200, {"tasks": []}))
    with pytest.raises(ModelError) as early:
        await adapter.find(replace(call, since_submit=5.0))  # however long ago it was intended
    assert (early.value.code, early.value.retryable, early.value.retry_after) == ("submit_unsettled", True, 15.0)
    config = {**CONFIG, "find": {**CONFIG["find"], "absence_is_certain": False}}
    for told in ({"tasks": []}, {"oops": 1}):
        provider.answers.append((200, told))
        with pytest.raises(LookupError):
            await adapter.find(replace(call, config=config))
    with pytest.raises(LookupError):
        await adapter.find(replace(call, config={**CONFIG, "find": None}))


async def test_cancel_is_what_the_configuration_says(provider: Provider, adapter: SubmitPoll) -> None:
    call = call_of(provider, payload=b"")
    for status in (204, 404, 409):
        provider.answers.append((status, web.Response(status=204) if status == 204 else {}))
        await adapter.cancel(call, "17")
    assert {(seen.method, seen.target) for seen in provider.seen} == {("DELETE", "/api/queue/17")}
    provider.answers.append((500, {}))
    with pytest.raises(ModelError):
        await adapter.cancel(call, "17")


async def test_limits_of_the_provider(provider: Provider, adapter: SubmitPoll) -> None:
    provider.answers.append((429, {"error": "slow down"}))
    with pytest.raises(Busy):
        await adapter.get(call_of(provider, payload=b""), "17")
    small = SubmitPoll(GuardedJobHttp(adapter._http._session, answer_bytes=1_000))  # type: ignore[attr-defined]
    provider.answers.append((200, {"data": {"state": 1, "note": "x" * 2_000}}))
    with pytest.raises(ModelError) as large:
        await small.get(call_of(provider, payload=b""), "17")
    assert large.value.code == "answer_too_large"


async def test_redirects_stay_at_home(provider: Provider, adapter: SubmitPoll) -> None:
    elsewhere = web.Response(status=307, headers={"Location": "http://10.0.0.1/steal"})
    provider.answers.append((307, elsewhere))
    with pytest.raises(ModelError) as refused:
        await adapter.submit(call_of(provider))
    assert refused.value.code == "redirect_refused"
    home = web.Response(status=307, headers={"Location": "/api/moved"})
    provider.answers.extend([(307, home), (200, {"data": {"task_id": "x"}})])
    assert (await adapter.submit(call_of(provider))).provider_id == "x"
    assert [seen.target for seen in provider.seen][-1] == "/api/moved"


def test_a_callback_is_read_as_an_answer_to_a_poll() -> None:
    adapter = SubmitPoll(None)  # type: ignore[arg-type]
    call = JobCall(intent_key="k", base_url="http://x", route="", config=CONFIG, payload=b"")
    report = adapter.called_back(call, {}, b'{"data": {"task_id": 17, "state": 1, "done": 0.5}}')
    assert report is not None
    assert (report.status, report.provider_id, report.unit_progress) == (JobStatus.PROCESSING, "17", 50.0)
    done = adapter.called_back(call, {}, b'{"data": {"task_id": 17, "state": 2}}')
    assert done is not None
    assert done.status is JobStatus.PROCESSING  # the result has an address of its own: a poll fetches it


def test_a_callback_that_takes_long_to_look_through_says_nothing() -> None:
    """Its job has not failed: the next poll is looked through beside the loop."""
    config = {**CONFIG, "outputs": "data.files[?kind == 'result'].url", "result": None}
    files = [{"kind": "result", "url": "https://x/1.png"}, *[{"kind": "log", "url": "https://x/log"}] * 1_500]
    body = {"data": {"task_id": 17, "state": 2, "files": files}}
    call = JobCall(intent_key="k", base_url="http://x", route="", config=config, payload=b"")
    assert SubmitPoll(None).called_back(call, {}, orjson.dumps(body)) is None  # type: ignore[arg-type]


COSTLY = f"[{', '.join(['sum(payload)'] * 60)}] | [0]"


async def test_a_costly_request_holds_up_nothing_and_is_not_made(provider: Provider, adapter: SubmitPoll) -> None:
    """Twenty such templates had stopped an executor, and everything in it, for more than a minute."""
    config = {**CONFIG, "submit": {"path": "queue", "body": {"a": [f"{{{{{COSTLY}}}}}"] * 20}}}
    submitted = asyncio.ensure_future(adapter.submit(call_of(provider, config, payload=orjson.dumps([1] * 500_000))))
    assert await slowest_turn(submitted) < 1
    with pytest.raises(ModelError, match="too many steps") as failed:
        await submitted
    assert (failed.value.code, failed.value.sent) == ("bad_payload", False)
    assert not provider.seen


async def test_a_costly_answer_holds_up_nothing(provider: Provider, adapter: SubmitPoll) -> None:
    costly = " || ".join(["sum(data.n) == `-1`"] * 15)
    config = {**CONFIG, "message": f"({costly}) && 'never' || 'done'", "percent": costly}
    provider.answers.append((200, {"data": {"state": 1, "n": [1] * 20_000}}))
    asked = asyncio.ensure_future(adapter.get(call_of(provider, config), "17"))
    assert await slowest_turn(asked) < 0.5
    report = await asked
    assert (report.status, report.message) == (JobStatus.PROCESSING, "done")


async def test_a_list_that_is_too_long_to_be_looked_through_proves_no_absence(
    provider: Provider, adapter: SubmitPoll
) -> None:
    config = {
        **CONFIG,
        "find": {"path": "jobs", "items": "@", "match": "key", "job_id": "id", "absence_is_certain": True},
    }
    provider.answers.append((200, [{"key": "another"}] * 60_000))
    with pytest.raises(LookupError):
        await adapter.find(call_of(provider, config))
