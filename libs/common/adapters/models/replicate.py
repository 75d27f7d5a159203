"""Replicate's predictions API, and whatever else speaks it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from libs.common.adapters.models.provider_answers import (
    WORD_LIMIT,
    bad_answer,
    document,
    job_id,
    progress_in,
    read_json,
    refusal,
    segment,
    text,
    unknown_status,
    unsettled,
)
from libs.common.adapters.models.provider_config import CODE, Config, bad_config, check_base, checked, config_of
from libs.common.adapters.models.provider_outputs import BadOutput, outputs_of
from libs.common.adapters.models.refusals import RETRYABLE_STATUSES
from libs.common.domain.errors import Invalid
from libs.common.domain.model_errors import JobGone, ModelError
from libs.common.ports_jobs import JobAnswer, JobCall, JobHttp, JobReport, JobStatus

ROUTE: Final = "v1/predictions"
#: The name under which our intent key travels in a job's input. Replicate drops names that a model does not know
#: before it runs it, and shows them in its lists.
MARKER: Final = "sluiceway_job"
PAGES_LIMIT: Final = 20

_STATUSES: Final = {
    "starting": JobStatus.QUEUED,
    "processing": JobStatus.PROCESSING,
    "succeeded": JobStatus.SUCCEEDED,
    "failed": JobStatus.FAILED,
    "canceled": JobStatus.CANCELED,
    "aborted": JobStatus.CANCELED,
}
_EVENTS: Final = ["start", "completed"]
_CREATE: Final = re.compile(r"(?P<root>(?:.*?/)?)(?:(?:models|deployments)/[^/?]+/[^/?]+/)?predictions")
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_VERSION: Final = re.compile(rf"{_NAME}/{_NAME}(:[0-9a-f]{{64}})?|[0-9a-f]{{64}}")
_PASSING: Final = re.compile(r"please retry|interrupted", re.IGNORECASE)  #: errors that are not the job's fault
#: Replicate takes deadlines from 5 s on.
_SHORTEST: Final = 5
#: How far apart PostgreSQL's clock and the provider's may be.
_SKEW_SECONDS: Final = 300.0


class ReplicateConfig(Config):
    """adapter_config of `replicate`; docs/adapters.md says what each means."""

    version: str = ""
    marker: str = MARKER
    join_text: bool = False
    cancel_after: bool = True
    settle_seconds: float = 20.0


class Replicate:
    """Creates predictions, asks for them, finds those whose answer was lost by the mark in their input."""

    def __init__(self, http: JobHttp) -> None:
        self._http = http

    def dedupes(self, config: Mapping[str, Any]) -> bool:
        """Replicate makes a second job of a repeated create."""
        return False

    def polls(self, config: Mapping[str, Any]) -> bool:
        return True

    def keyed(self, config: Mapping[str, Any]) -> bool:
        return False

    def check(self, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        """Raises Invalid."""
        read = checked(ReplicateConfig, config)
        check_base(base_url)
        if read.version and not _VERSION.fullmatch(read.version):
            message = "must be owner/name, owner/name:version or the version's 64 hexadecimal digits"
            raise Invalid(CODE, f"version {message}", field="/adapter_config/version")
        if not re.fullmatch(r"[A-Za-z0-9_]{0,64}", read.marker):
            message = "marker may have letters, digits and underscores, at most 64"
            raise Invalid(CODE, message, field="/adapter_config/marker")
        if not 0 <= read.settle_seconds <= 600:
            message = "settle_seconds must be between 0 and 600"
            raise Invalid(CODE, message, field="/adapter_config/settle_seconds")
        _root(route)

    async def submit(self, call: JobCall) -> JobReport:
        config = config_of(ReplicateConfig, call)
        headers = []
        if config.cancel_after:
            headers.append(("Cancel-After", f"{max(_SHORTEST, round(call.job_seconds))}s"))
        body = orjson.dumps(_body(call, config))
        _predictions(call)
        answer = await self._http.send(call, "POST", call.route.strip() or ROUTE, headers=headers, body=body)
        return _report(call, config, _prediction(call, answer))

    async def find(self, call: JobCall) -> JobReport | None:
        """Looks through the predictions since the intent. None only where another prediction's mark shows that this
        provider keeps marks, and late enough that the lost request has come to its end."""
        config = config_of(ReplicateConfig, call)
        if not config.marker:
            raise LookupError("jobs of this model carry no marker")
        if call.intended_at is None:
            raise LookupError("nobody knows since when the job may exist")
        newest = _predictions(call)
        marked = False
        async for found in self._listed(call, f"{newest}?created_after={_since(call.intended_at)}", PAGES_LIMIT):
            if (mark := _mark(found, config)) == call.intent_key:
                return _report(call, config, found)
            if found.get("data_removed") is True:
                raise LookupError("the provider has deleted the inputs of predictions since the submit")
            marked = marked or mark is not None
        if call.since_submit < config.settle_seconds:
            raise unsettled(call, config.settle_seconds)
        if not marked and not any([_mark(found, config) async for found in self._listed(call, newest, 1)]):
            raise LookupError("no prediction of this provider shows a mark, so this one may exist without one")
        return None

    async def get(self, call: JobCall, provider_id: str) -> JobReport:
        config = config_of(ReplicateConfig, call)
        answer = await self._http.send(call, "GET", _path(call, provider_id))
        if answer.status in (404, 410):
            raise JobGone("the provider does not know this job any more")
        found = _prediction(call, answer)
        if found.get("id") != provider_id:
            raise bad_answer("the provider answered about another job")
        return _report(call, config, found)

    async def cancel(self, call: JobCall, provider_id: str) -> None:
        answer = await self._http.send(call, "POST", _path(call, provider_id, "/cancel"), body=b"{}")
        if answer.status not in (404, 410, 409) and not answer.accepted:
            raise refusal(call, answer)

    async def _listed(self, call: JobCall, first: str, pages: int) -> AsyncIterator[dict[str, Any]]:
        """Predictions, newest first. Raises LookupError where the provider lists none, or too many to be certain."""
        path = first
        for number in range(1, pages + 1):
            answer = await self._http.send(call, "GET", path)
            if 400 <= answer.status < 500 and answer.status not in RETRYABLE_STATUSES:
                raise LookupError(f"the provider answers {answer.status} when it is asked for its predictions")
            page = _prediction(call, answer)
            path = page.get("next") or ""
            if not isinstance(results := page.get("results"), list) or not isinstance(path, str):
                raise bad_answer("the provider's list of predictions is none")
            for found in results:
                if isinstance(found, dict):
                    yield found
            if not path or number == pages == 1:
                return
        raise LookupError(f"the provider lists more than {pages} pages since the submit")

    def called_back(self, call: JobCall, headers: Mapping[str, str], body: bytes) -> JobReport | None:
        try:
            config = config_of(ReplicateConfig, call)
            found = read_json(body)
            other = config.marker and _mark(found, config) not in (None, call.intent_key)
            return None if other else _report(call, config, found)
        except (ValueError, AttributeError, ModelError):
            return None


def _mark(found: dict[str, Any], config: ReplicateConfig) -> Any:
    given = found.get("input")
    return given.get(config.marker) if isinstance(given, dict) else None


def _since(intended_at: float) -> str:
    return datetime.fromtimestamp(intended_at - _SKEW_SECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _root(route: str) -> str:
    """What stands before `predictions` of this API. Raises Invalid."""
    found = _CREATE.fullmatch(route.strip().strip("/") or ROUTE)
    if found is None:
        message = "the route of a replicate model must end with predictions; the usual one is v1/predictions"
        raise Invalid("model_adapter_route", message, field="/route")
    return found["root"]


def _predictions(call: JobCall) -> str:
    try:
        return f"{_root(call.route)}predictions"
    except Invalid as error:
        raise bad_config(error.message) from None


def _path(call: JobCall, provider_id: str, action: str = "") -> str:
    return f"{_predictions(call)}/{segment(job_id(provider_id))}{action}"


def _body(call: JobCall, config: ReplicateConfig) -> dict[str, Any]:
    """The request of a create: the payload is the input, or has it under `input` beside other fields of the API."""
    try:
        payload = orjson.loads(call.payload or b"{}")
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        message = "the payload of a replicate model must be a JSON object"
        raise ModelError("bad_payload", message, retryable=False, sent=False)
    body = dict(payload) if isinstance(payload.get("input"), dict) else {"input": payload}
    if config.version:
        body["version"] = config.version
    if config.marker:
        body["input"] = {**body["input"], config.marker: call.intent_key}
    if call.callback_url and "webhook" not in body:
        body.update(webhook=call.callback_url, webhook_events_filter=_EVENTS)
    return body


def _prediction(call: JobCall, answer: JobAnswer) -> dict[str, Any]:
    if not answer.accepted:
        raise refusal(call, answer)
    found = document(answer)
    if not isinstance(found, dict):
        raise bad_answer("the provider's answer is no prediction")
    return found


def _report(call: JobCall, config: ReplicateConfig, found: dict[str, Any]) -> JobReport:
    """What a prediction says. Raises ModelError `bad_answer` for what is none."""
    provider_id, word = job_id(found.get("id")), found.get("status")
    if not isinstance(word, str) or not word:
        raise bad_answer("the provider's answer has no status")
    status = _STATUSES.get(word[:WORD_LIMIT].lower())
    if status is None:
        return JobReport(JobStatus.PROCESSING, provider_id, message=unknown_status(call, word))
    if status is JobStatus.SUCCEEDED:
        return _succeeded(config, provider_id, found)
    if status is JobStatus.FAILED:
        error = text(call, found.get("error")) or "the provider's job failed without a reason"
        return JobReport(status, provider_id, message=error, retryable=_PASSING.search(error) is not None)
    message = "the provider gave the job up before it started" if word.lower() == "aborted" else ""
    return JobReport(status, provider_id, progress_in(found.get("logs")), message)


def _succeeded(config: ReplicateConfig, provider_id: str, found: dict[str, Any]) -> JobReport:
    if found.get("data_removed") is True:
        message = "the job succeeded, but the provider has deleted its output"
        return JobReport(JobStatus.FAILED, provider_id, message=message, error_code="output_expired")
    try:
        outputs = outputs_of(found.get("output"), join_text=config.join_text)
    except BadOutput as error:
        return JobReport(JobStatus.FAILED, provider_id, message=str(error), error_code=error.code)
    return JobReport(JobStatus.SUCCEEDED, provider_id, 100.0, outputs=outputs)
