"""What a model would be sent, and what would be read from given answers: nothing leaves this process.

The very adapters of the executor run here, on a client that keeps their requests and gives the answers that an author
has laid down. Once the answers are used up, the requests that would follow are shown without what they would bring.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from multidict import CIMultiDict

from libs.common.adapters.foreign_text import Cleaner
from libs.common.adapters.models.job_http import address, request_headers
from libs.common.adapters.models.registry import PLAIN_HTTP, load_adapters
from libs.common.domain.endpoint import join_endpoint, with_query
from libs.common.domain.errors import Invalid
from libs.common.domain.header_bindings import parse_bindings
from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobAdapter, JobAnswer, JobCall, JobReport, JobStatus
from libs.common.runtime.redaction import MASK

SAMPLE_KEY: Final = "01890a5d-ac96-774b-bcce-b302099a8057"
SAMPLE_JOB: Final = "the-job"
SAMPLE_CALLBACK: Final = "https://this-service.example/v1/callbacks/the-token"

_SHOWN_BYTES: Final = 100


@dataclass(frozen=True, slots=True)
class DryModel:
    """The parts of a model that decide how it is called."""

    base_url: str
    route: str = ""
    http_method: str = "POST"
    api_key: str = field(default="", repr=False)
    adapter: str = PLAIN_HTTP
    adapter_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def masked(self) -> bool:
        """Whether its api_key is only what the API shows of it."""
        return self.api_key != "" and not self.api_key.strip("*")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> DryModel:
        """From the fields of POST /v1/models; others are left aside. Raises Invalid."""
        given = {name: fields[name] for name in cls.__slots__ if fields.get(name) is not None}
        for name, value in given.items():
            if not isinstance(value, dict if name == "adapter_config" else str):
                raise Invalid("model_field", f"{name} has the wrong type", field=f"/{name}")
        if not given.get("base_url"):
            raise Invalid("model_field", "base_url is required", field="/base_url")
        return cls(**given)


def answer_of(given: Any) -> JobAnswer:
    """An answer that somebody laid down: a JSON body, answered with 200, or {"http_status", "headers", "body"}."""
    if isinstance(given, dict) and isinstance(given.get("http_status"), int):
        headers = CIMultiDict((str(name), str(value)) for name, value in (given.get("headers") or {}).items())
        body = given.get("body")
        return JobAnswer(given["http_status"], headers, body.encode() if isinstance(body, str) else _bytes(body))
    return JobAnswer(200, CIMultiDict(), _bytes(given))


async def dry_run(model: DryModel, payload: bytes, answers: Iterable[Any] = ()) -> dict[str, Any]:
    """The steps of a job of this model: each with its requests, the answers that were given, and what they mean.

    Raises Invalid for a model that could not be saved.
    """
    http = _Dry(answers)
    adapters = load_adapters(http)
    adapters.check(model.adapter, model.base_url, model.route, model.adapter_config)
    call = _call(model, payload)
    join_endpoint(model.base_url, model.route)
    shown: dict[str, Any] = {"adapter": model.adapter}
    if model.masked:
        shown["headers_missing"] = "the headers of the model's api_key, which is masked"
    if model.adapter == PLAIN_HTTP:
        return {**shown, "steps": [_plain(model, call)]}
    adapter = adapters.jobs[model.adapter]
    facts = {"dedupes": adapter.dedupes(call.config), "polls": adapter.polls(call.config)}
    return {**shown, **facts, "steps": await _Steps(adapter, http, call).run()}


class _Unanswered(Exception):
    """A request for which nobody laid down an answer."""


class _Dry:
    """A client that sends nothing."""

    def __init__(self, answers: Iterable[Any]) -> None:
        self.answers = deque(answer_of(given) for given in answers)
        self.exchanges: list[dict[str, Any]] = []

    async def send(
        self,
        call: JobCall,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> JobAnswer:
        """Keep the request, made as the executor's client makes it."""
        shown = _shown_headers(call, headers, has_body=body is not None)
        request: dict[str, Any] = {"method": method, "url": address(call, path).url, "headers": shown}
        if body is not None:
            request["body"] = _json(body)
        self.exchanges.append({"request": request})
        if not self.answers:
            raise _Unanswered
        answer = self.answers.popleft()
        self.exchanges[-1]["answer"] = {"http_status": answer.status, "body": _json(answer.body, call)}
        return answer

    def take(self) -> list[dict[str, Any]]:
        """The exchanges since the last time."""
        taken, self.exchanges = self.exchanges, []
        return taken


class _Steps:
    """A job's life, as far as the answers go, and one look at each request beyond."""

    def __init__(self, adapter: JobAdapter, http: _Dry, call: JobCall) -> None:
        self._adapter = adapter
        self._http = http
        self._call = call
        self._steps: list[dict[str, Any]] = []

    async def run(self) -> list[dict[str, Any]]:
        adapter, call = self._adapter, self._call
        report = await self._step("submit", adapter.submit(call))
        job = report.provider_id if report is not None and report.provider_id else SAMPLE_JOB
        polls = adapter.polls(call.config)
        while polls and self._http.answers and not (report is not None and report.status.over):
            report = await self._step("poll", adapter.get(call, job))
        if polls and not (report is not None and report.status.over):
            await self._step("poll", adapter.get(call, job))
        self._http.answers.clear()
        await self._step("find a job whose answer was lost", adapter.find(call))
        await self._step("cancel", adapter.cancel(call, job))
        return self._steps

    async def _step(self, name: str, asked: Awaitable[JobReport | None]) -> JobReport | None:
        step: dict[str, Any] = {"step": name}
        report: JobReport | None = None
        try:
            report = await asked
            step["means"] = None if report is None else _report(report)
        except _Unanswered:
            pass
        except ModelError as error:
            step["error"] = _error(error)
        except LookupError as error:
            step["not_offered"] = str(error)
        self._steps.append({**step, "exchanges": self._http.take()})
        return report


def _call(model: DryModel, payload: bytes) -> JobCall:
    return JobCall(
        intent_key=SAMPLE_KEY,
        base_url=model.base_url,
        route=model.route,
        config=model.adapter_config,
        payload=payload,
        headers=parse_bindings("" if model.masked else model.api_key),
        intended_at=0.0,
        callback_url=SAMPLE_CALLBACK,
    )


def _plain(model: DryModel, call: JobCall) -> dict[str, Any]:
    """The one request of a model that is called and answers at once."""
    url, posts = address(call, model.route).url, model.http_method == "POST"
    shown = _shown_headers(call, (("Accept", "*/*"),), has_body=posts)
    url = url if posts else with_query(url, call.payload)
    request: dict[str, Any] = {"method": model.http_method, "url": url, "headers": shown}
    if posts:
        request["body"] = _json(call.payload)
    return {"step": "call", "exchanges": [{"request": request}]}


def _shown_headers(call: JobCall, headers: Sequence[tuple[str, str]], *, has_body: bool) -> dict[str, str]:
    """As the executor's client would send them; those of the model's api_key are masked."""
    own = {name.lower() for name, _ in call.headers}
    sent = request_headers(call, headers, has_body=has_body)
    return {name: MASK if name.lower() in own else value for name, value in sent.items()}


def _report(report: JobReport) -> dict[str, Any]:
    said: dict[str, Any] = {
        "status": report.status.value,
        "provider_id": report.provider_id,
        "unit_progress": report.unit_progress,
        "message": report.message,
    }
    if report.status is JobStatus.FAILED:
        said |= {"error_code": report.error_code or "provider_failed", "retryable": report.retryable}
    if report.status is JobStatus.SUCCEEDED:
        said["outputs"] = [
            {"url": output.url}
            if output.content is None
            else {"content_type": output.content_type, "size": len(output.content), "begins": _head(output.content)}
            for output in report.outputs
        ]
    return said


def _error(error: ModelError) -> dict[str, Any]:
    return {
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "retry_after": error.retry_after,
        "sent": error.sent,
    }


def _head(content: bytes) -> str:
    return content[:_SHOWN_BYTES].decode("utf-8", "replace")


def _bytes(value: Any) -> bytes:
    return b"" if value is None else json.dumps(value).encode()


def _json(body: bytes, call: JobCall | None = None) -> Any:
    """A body as JSON where it is some, else as text; what the call knows of secrets is masked."""
    text = body.decode("utf-8", "replace")
    for secret in Cleaner.of(value for _, value in call.headers).variants if call else ():
        text = text.replace(secret, MASK)
    try:
        return json.loads(text)
    except ValueError:
        return text
