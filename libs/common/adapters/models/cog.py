"""Cog's own HTTP server: a model that runs one prediction at a time, or a few, and remembers none that has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from libs.common.adapters.models.provider_answers import (
    bad_answer,
    document,
    job_id,
    progress_in,
    read_json,
    refusal,
    segment,
    text,
)
from libs.common.adapters.models.provider_config import Config, bad_config, check_base, checked, config_of
from libs.common.adapters.models.provider_outputs import BadOutput, outputs_of
from libs.common.domain.errors import Invalid
from libs.common.domain.model_errors import Busy, ModelError
from libs.common.ports_jobs import JobAnswer, JobCall, JobHttp, JobReport, JobStatus

ROUTE: Final = "predictions"
#: How long a server that runs as many predictions as it can, or still loads its model, is left alone.
FULL_SECONDS: Final = 1.0
LOADING_SECONDS: Final = 5.0

_STATUSES: Final = {
    "starting": JobStatus.PROCESSING,  # it has no queue: what it takes, it runs
    "processing": JobStatus.PROCESSING,
    "succeeded": JobStatus.SUCCEEDED,
    "failed": JobStatus.FAILED,
    "canceled": JobStatus.CANCELED,
}


class CogConfig(Config):
    """adapter_config of `cog`; docs/adapters.md says what each means."""

    answer: Literal["call", "callback"] = "call"
    progress: bool = False
    join_text: bool = False


class Cog:
    """Runs predictions, answered in the call or by a callback. The intent key is the prediction's id."""

    def __init__(self, http: JobHttp) -> None:
        self._http = http

    def dedupes(self, config: Mapping[str, Any]) -> bool:
        """Cog runs a prediction again when its id comes again after its end."""
        return False

    def polls(self, config: Mapping[str, Any]) -> bool:
        """Cog offers no way to ask."""
        return False

    def keyed(self, config: Mapping[str, Any]) -> bool:
        """Cog takes the id of a prediction from who asks for it."""
        return True

    def check(self, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        """Raises Invalid."""
        checked(CogConfig, config)
        check_base(base_url)
        if route.strip().strip("/").rpartition("/")[2] not in ("", ROUTE):
            message = "the route of a cog model must end with predictions, or be empty"
            raise Invalid("model_adapter_route", message, field="/route")

    async def submit(self, call: JobCall) -> JobReport:
        config = config_of(CogConfig, call)
        body: dict[str, Any] = {"id": call.intent_key, "input": _input(call)}
        if config.answer == "call":
            answer = await self._http.send(call, "POST", _predictions(call), body=orjson.dumps(body))
            return _report(call, config, _prediction(call, answer))
        if not call.callback_url:
            raise bad_config("answers by callback need an address of this service that the model can call")
        body |= {
            "webhook": call.callback_url,
            "webhook_events_filter": ["start", "logs", "completed"] if config.progress else ["start", "completed"],
        }
        answer = await self._http.send(
            call,
            "PUT",
            f"{_predictions(call)}/{segment(call.intent_key)}",
            headers=[("Prefer", "respond-async")],
            body=orjson.dumps(body),
        )
        return _report(call, config, _prediction(call, answer))

    async def find(self, call: JobCall) -> JobReport | None:
        """Always raises LookupError: the only request that tells, the same PUT again, runs a prediction that has ended
        a second time."""
        raise LookupError("Cog remembers no prediction that has ended")

    async def get(self, call: JobCall, provider_id: str) -> JobReport:
        """Not offered by Cog."""
        raise ModelError("not_offered", "Cog cannot be asked how a prediction stands", retryable=False, sent=False)

    async def cancel(self, call: JobCall, provider_id: str) -> None:
        path = f"{_predictions(call)}/{segment(job_id(provider_id))}/cancel"
        answer = await self._http.send(call, "POST", path, body=b"{}")
        if answer.status != 404 and not answer.accepted:
            raise refusal(call, answer)

    def called_back(self, call: JobCall, headers: Mapping[str, str], body: bytes) -> JobReport | None:
        try:
            found = read_json(body)
            if not isinstance(found, dict) or found.get("id") != call.intent_key:
                return None
            return _report(call, config_of(CogConfig, call), found)
        except (ValueError, ModelError):
            return None


def _predictions(call: JobCall) -> str:
    return call.route.strip().strip("/") or ROUTE


def _input(call: JobCall) -> dict[str, Any]:
    """The payload, or its `input` where it has one, as a request to Cog itself would have."""
    try:
        payload = orjson.loads(call.payload or b"{}")
    except orjson.JSONDecodeError:
        payload = None
    if not isinstance(payload, dict):
        message = "the payload of a cog model must be a JSON object"
        raise ModelError("bad_payload", message, retryable=False, sent=False)
    given = payload.get("input")
    return given if isinstance(given, dict) else payload


def _prediction(call: JobCall, answer: JobAnswer) -> dict[str, Any]:
    """The prediction in an answer. Raises Busy where none was begun for want of room or of a loaded model."""
    if answer.accepted:
        found = document(answer)
        if not isinstance(found, dict):
            raise bad_answer("the answer of Cog is no prediction")
        return found
    error = refusal(call, answer)
    if answer.status in (409, 503) and _not_begun(answer):
        usual = FULL_SECONDS if answer.status == 409 else LOADING_SECONDS
        after = error.retry_after if error.retry_after is not None else usual
        raise Busy(error.message, retry_after=after)
    raise error


def _not_begun(answer: JobAnswer) -> bool:
    """Whether it is Cog that says no, and not a proxy before it; a prediction that was begun has an id."""
    try:
        said = read_json(answer.body)
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("status") == "failed" and "id" not in said


def _report(call: JobCall, config: CogConfig, found: dict[str, Any]) -> JobReport:
    """What a prediction says; its id is our intent key."""
    word = found.get("status")
    status = _STATUSES.get(word) if isinstance(word, str) else None
    if status is None:
        raise bad_answer("the answer of Cog has no status that is known")
    if status is JobStatus.FAILED:
        error = text(call, found.get("error")) or "the prediction failed without a reason"
        return JobReport(status, call.intent_key, message=error)
    if status is not JobStatus.SUCCEEDED:
        return JobReport(status, call.intent_key, progress_in(found.get("logs")))
    try:
        outputs = outputs_of(found.get("output"), join_text=config.join_text)
    except BadOutput as bad:
        return JobReport(JobStatus.FAILED, call.intent_key, message=str(bad), error_code=bad.code)
    return JobReport(status, call.intent_key, 100.0, outputs=outputs)
