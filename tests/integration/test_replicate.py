"""The replicate adapter against a provider that breaks every promise."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.job_http import open_job_http
from libs.common.adapters.models.replicate import Replicate
from libs.common.domain.model_errors import Busy, EgressRefused, JobGone, ModelError
from libs.common.ports_jobs import JobAnswer, JobCall, JobReport, JobStatus
from tests.support.replicate_provider import MARKER, TOKEN, Plan, Refusal, ReplicateProvider, replicate_provider

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
async def provider() -> AsyncIterator[ReplicateProvider]:
    async with replicate_provider() as opened:
        yield opened


@pytest.fixture
async def adapter() -> AsyncIterator[Replicate]:
    async with open_job_http(EgressGuard(["127.0.0.0/8"])) as http:
        yield Replicate(http)


def call_of(provider: ReplicateProvider, **changes: Any) -> JobCall:
    usual = JobCall(
        intent_key=str(uuid4()),
        base_url=provider.url,
        route="",
        config={},
        payload=b'{"prompt": "a cat"}',
        headers=(("Authorization", f"Bearer {TOKEN}"),),
        timeout_seconds=5,
        intended_at=time.time() - 60,
        since_submit=60.0,
    )
    return replace(usual, **changes)


async def ended(adapter: Replicate, call: JobCall) -> JobReport:
    """The job's end, asked for until it is there."""
    report = await adapter.submit(call)
    for _ in range(10):
        if report.status.over:
            return report
        report = await adapter.get(call, report.provider_id)
    raise AssertionError("it never ended")


# what is sent


async def test_a_payload_is_the_input_and_carries_our_key(provider: ReplicateProvider, adapter: Replicate) -> None:
    call = call_of(
        provider, config={"version": "acme/picture"}, job_seconds=1_800.0, callback_url="https://us/cb/t0ken"
    )
    report = await adapter.submit(call)
    assert (report.status, report.provider_id) == (JobStatus.QUEUED, "job0001")
    [submit] = provider.submits
    assert submit.path == "/v1/predictions"
    assert submit.body == {
        "input": {"prompt": "a cat", MARKER: call.intent_key},
        "version": "acme/picture",
        "webhook": "https://us/cb/t0ken",
        "webhook_events_filter": ["start", "completed"],
    }
    assert submit.headers["Cancel-After"] == "1800s"


async def test_a_payload_with_an_input_goes_out_as_it_is(provider: ReplicateProvider, adapter: Replicate) -> None:
    payload = b'{"input": {"n": 2}, "version": "v", "webhook": "https://theirs", "stream": false}'
    config = {"marker": "", "cancel_after": False}
    await adapter.submit(call_of(provider, payload=payload, config=config, callback_url="https://us/cb"))
    [submit] = provider.submits
    assert submit.body == {"input": {"n": 2}, "version": "v", "webhook": "https://theirs", "stream": False}
    assert "Cancel-After" not in submit.headers


@pytest.mark.parametrize("route", ["v1/models/acme/picture/predictions", "/v1/deployments/acme/mine/predictions/"])
async def test_models_and_deployments_have_addresses_of_their_own(
    provider: ReplicateProvider, adapter: Replicate, route: str
) -> None:
    call = call_of(provider, route=route.rstrip("/"))
    report = await adapter.submit(call)
    assert provider.submits[0].path == f"/{route.strip('/')}"
    assert (await adapter.get(call, report.provider_id)).status is JobStatus.PROCESSING
    assert await adapter.find(call) is not None


# what comes back


async def test_a_job_goes_from_queued_to_its_files(provider: ReplicateProvider, adapter: Replicate) -> None:
    provider.plan = Plan(files=3)
    call = call_of(provider)
    first = await adapter.submit(call)
    second = await adapter.get(call, first.provider_id)
    assert (second.status, second.unit_progress) == (JobStatus.PROCESSING, 50.0)
    third = await adapter.get(call, first.provider_id)
    assert (third.status, third.unit_progress) == (JobStatus.SUCCEEDED, 100.0)
    assert [output.url for output in third.outputs] == [f"{provider.url}/files/job0001/{n}.png" for n in range(3)]


@pytest.mark.parametrize(
    ("statuses", "status", "message"),
    [
        (("failed",), JobStatus.FAILED, "the model ran out of luck"),
        (("canceled",), JobStatus.CANCELED, ""),
        (("aborted",), JobStatus.CANCELED, "the provider gave the job up before it started"),
        (("dreaming",), JobStatus.PROCESSING, "unknown status 'dreaming'"),
        (("starting",), JobStatus.QUEUED, ""),
    ],
)
async def test_every_status_has_its_meaning(
    provider: ReplicateProvider, adapter: Replicate, statuses: tuple[str, ...], status: JobStatus, message: str
) -> None:
    provider.plan = Plan(statuses=statuses, logs=())
    report = await adapter.submit(call_of(provider))
    assert (report.status, report.message, report.retryable) == (status, message, False)


@pytest.mark.parametrize("error", ["Prediction interrupted; please retry (code: PA)", {"detail": "please retry"}])
async def test_an_error_that_passes_may_be_tried_again(
    provider: ReplicateProvider, adapter: Replicate, error: Any
) -> None:
    provider.plan = Plan(statuses=("failed",), error=error)
    assert (await adapter.submit(call_of(provider))).retryable


async def test_outputs_that_the_provider_deleted_are_an_error_of_their_own(
    provider: ReplicateProvider, adapter: Replicate
) -> None:
    call = call_of(provider)
    report = await adapter.submit(call)
    provider.jobs[report.provider_id].data_removed = True
    provider.jobs[report.provider_id].step = 2
    late = await adapter.get(call, report.provider_id)
    assert (late.status, late.error_code, late.outputs) == (JobStatus.FAILED, "output_expired", ())


async def test_a_success_without_files_says_so(provider: ReplicateProvider, adapter: Replicate) -> None:
    provider.plan = Plan(statuses=("succeeded",), output=[])
    report = await adapter.submit(call_of(provider))
    assert (report.status, report.outputs) == (JobStatus.SUCCEEDED, ())


# refusals


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"title": "Unauthenticated", "detail": f"token {TOKEN} is not valid"}, "token *** is not valid"),
        (402, {"title": "Insufficient credit", "detail": "Go and pay"}, "Go and pay"),
        (422, {"detail": [{"loc": ["body", "input", "n"], "msg": "not a number"}]}, "input.n: not a number"),
        (422, {"detail": "- input: prompt is required\n"}, "- input: prompt is required"),
        (404, {"detail": "The requested resource could not be found."}, "could not be found"),
    ],
)
async def test_refusals_are_final_and_say_why_without_secrets(
    provider: ReplicateProvider, adapter: Replicate, status: int, body: Any, words: str
) -> None:
    provider.creates.append(Refusal(status, body))
    with pytest.raises(ModelError) as raised:
        await adapter.submit(call_of(provider))
    error = raised.value
    assert (error.code, error.retryable, error.sent) == (f"model_http_{status}", False, True)
    assert words in error.message
    assert TOKEN not in repr(error) + error.message


@pytest.mark.parametrize(("headers", "seconds"), [({"Retry-After": "7"}, 7.0), ({}, 5.0), ({"Retry-After": "x"}, 5.0)])
async def test_too_many_requests_are_nobodys_fault(
    provider: ReplicateProvider, adapter: Replicate, headers: dict[str, str], seconds: float
) -> None:
    call = call_of(provider)
    report = await adapter.submit(call)
    busy = Refusal(429, {"detail": "slow down"}, headers)
    provider.creates.append(busy)
    provider.gets.append(busy)
    with pytest.raises(Busy) as raised:
        await adapter.submit(call_of(provider))
    assert raised.value.retry_after == seconds
    with pytest.raises(Busy):
        await adapter.get(call, report.provider_id)


async def test_what_never_left_says_so(provider: ReplicateProvider, adapter: Replicate) -> None:
    with pytest.raises(ModelError) as refused:
        await adapter.submit(call_of(provider, base_url=NOWHERE))
    assert (refused.value.code, refused.value.sent, refused.value.retryable) == ("model_unreachable", False, True)
    with pytest.raises(EgressRefused) as private:
        await adapter.submit(call_of(provider, base_url="http://10.0.0.1"))
    assert not private.value.sent
    with pytest.raises(ModelError) as unresolved:
        await adapter.submit(call_of(provider, base_url="http://nobody.invalid"))
    assert not unresolved.value.sent
    with pytest.raises(ModelError) as unreadable:
        await adapter.submit(call_of(provider, payload=b"[1]"))
    assert (unreadable.value.code, unreadable.value.sent) == ("bad_payload", False)


# answers that are lost, and jobs that are


@pytest.mark.parametrize("fault", ["lost", "garbage"])
async def test_a_job_whose_answer_was_lost_is_found(
    provider: ReplicateProvider, adapter: Replicate, fault: str
) -> None:
    provider.page_size = 2
    call = call_of(provider)
    provider.creates.append(fault)
    with pytest.raises(ModelError) as raised:
        await adapter.submit(call)
    assert (raised.value.retryable, raised.value.sent) == (True, True)
    for _ in range(5):
        await adapter.submit(call_of(provider))
    found = await adapter.find(call)
    assert found is not None
    assert found.provider_id == "job0001"
    assert provider.twice() == []


async def test_a_job_that_was_never_made_is_certainly_not_there(
    provider: ReplicateProvider, adapter: Replicate
) -> None:
    await adapter.submit(call_of(provider))
    assert await adapter.find(call_of(provider)) is None


async def test_absence_counts_only_once_the_request_must_have_arrived(
    provider: ReplicateProvider, adapter: Replicate
) -> None:
    await adapter.submit(call_of(provider))
    with pytest.raises(ModelError) as raised:
        await adapter.find(call_of(provider, since_submit=5.0))  # however long ago it was intended
    error = raised.value
    assert (error.code, error.retryable, error.retry_after) == ("submit_unsettled", True, 15.0)


async def test_absence_means_nothing_where_marks_are_not_shown(provider: ReplicateProvider, adapter: Replicate) -> None:
    with pytest.raises(LookupError):  # nothing at all is listed
        await adapter.find(call_of(provider))
    provider.shows_markers = False
    await adapter.submit(call_of(provider))
    with pytest.raises(LookupError):
        await adapter.find(call_of(provider))
    provider.shows_markers = True
    next(iter(provider.jobs.values())).data_removed = True
    with pytest.raises(LookupError):
        await adapter.find(call_of(provider))
    with pytest.raises(LookupError):
        await adapter.find(call_of(provider, config={"marker": ""}))
    provider.lists.append(Refusal(403))
    with pytest.raises(LookupError):
        await adapter.find(call_of(provider))


async def test_marks_of_older_predictions_tell_that_marks_are_shown(
    provider: ReplicateProvider, adapter: Replicate
) -> None:
    await adapter.submit(call_of(provider))
    next(iter(provider.jobs.values())).created_at = "2026-01-01T00:00:00+00:00"
    assert await adapter.find(call_of(provider)) is None


async def test_a_provider_that_is_away_while_it_is_searched_is_asked_again(
    provider: ReplicateProvider, adapter: Replicate
) -> None:
    provider.lists.append(Refusal(503))
    with pytest.raises(ModelError) as raised:
        await adapter.find(call_of(provider))
    assert raised.value.retryable


async def test_a_job_that_is_gone_says_so(provider: ReplicateProvider, adapter: Replicate) -> None:
    call = call_of(provider)
    report = await adapter.submit(call)
    provider.jobs[report.provider_id].gone = True
    with pytest.raises(JobGone):
        await adapter.get(call, report.provider_id)


@pytest.mark.parametrize("fault", ["cut", "garbage", "other", Refusal(500), Refusal(503)])
async def test_a_poll_that_fails_may_be_repeated(provider: ReplicateProvider, adapter: Replicate, fault: Any) -> None:
    call = call_of(provider)
    report = await adapter.submit(call)
    provider.gets.append(fault)
    with pytest.raises(ModelError) as raised:
        await adapter.get(call, report.provider_id)
    assert raised.value.retryable
    assert not isinstance(raised.value, JobGone)
    assert (await adapter.get(call, report.provider_id)).provider_id == report.provider_id


@pytest.mark.parametrize("strange", ["a/b", "a?b=c", "../cancel", "%2e%2e", "x y"])
async def test_an_id_stays_in_its_place_of_the_address(
    provider: ReplicateProvider, adapter: Replicate, strange: str
) -> None:
    call = call_of(provider)
    with pytest.raises(JobGone):
        await adapter.get(call, strange)
    assert provider.calls == {"get": 1}


async def test_a_canceled_job_is_canceled_once_and_unknown_ones_do_no_harm(
    provider: ReplicateProvider, adapter: Replicate
) -> None:
    call = call_of(provider)
    report = await adapter.submit(call)
    await adapter.cancel(call, report.provider_id)
    assert (await adapter.get(call, report.provider_id)).status is JobStatus.CANCELED
    await adapter.cancel(call, report.provider_id)
    await adapter.cancel(call, "unknown")


# callbacks


async def test_a_callback_says_what_a_poll_would(provider: ReplicateProvider, adapter: Replicate) -> None:
    call = call_of(provider)
    await adapter.submit(call)
    job = provider.jobs["job0001"]
    job.step = 2
    body = _bytes(provider.shown(job))
    report = adapter.called_back(call, {}, body)
    assert report is not None
    assert (report.status, report.provider_id) == (JobStatus.SUCCEEDED, "job0001")
    assert adapter.called_back(call_of(provider), {}, body) is None  # it is another job's


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b'{"id": 1}', b'{"id": "x", "input": 3}', b"\xff", b"[" * 9_000]
)
def test_a_callback_that_says_nothing_is_nothing(body: bytes) -> None:
    adapter = Replicate(None)  # type: ignore[arg-type]
    call = JobCall(intent_key="k", base_url="http://x", route="", config={}, payload=b"{}")
    assert adapter.called_back(call, {}, body) is None


def _bytes(value: Any) -> bytes:
    import orjson

    return orjson.dumps(value)


@pytest.mark.parametrize("page", [{"results": 1}, {"results": [], "next": ["x"]}, {"results": [], "next": 2}])
async def test_a_list_that_is_none_says_nothing(provider: ReplicateProvider, page: dict[str, Any]) -> None:
    class Http:
        async def send(self, *_: Any, **__: Any) -> JobAnswer:
            return JobAnswer(200, {}, json.dumps(page).encode())

    with pytest.raises(ModelError) as raised:
        await Replicate(Http()).find(call_of(provider))
    assert (raised.value.code, raised.value.retryable) == ("bad_answer", True)
