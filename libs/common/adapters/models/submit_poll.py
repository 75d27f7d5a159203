"""Jobs at any provider that takes a request and is then asked how it goes, described by configuration alone.

Long, because what may be configured, what is refused of it, and what is done by it are to be read beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, Literal, TypeVar

import orjson
from pydantic import Field

from libs.common.adapters.models.expressions import (
    BadExpression,
    Document,
    Expression,
    Missing,
    Template,
    TooLong,
    as_text,
    fits,
    sharing,
)
from libs.common.adapters.models.provider_answers import (
    WORD_LIMIT,
    bad_answer,
    document,
    job_id,
    percent,
    read_json,
    refusal,
    segment,
    text,
    unknown_status,
    unsettled,
)
from libs.common.adapters.models.provider_config import CODE, Config, bad_config, check_path, checked, pointer
from libs.common.adapters.models.provider_outputs import BadOutput, outputs_of
from libs.common.domain.errors import Invalid
from libs.common.domain.header_bindings import InvalidBindings, check_bindings
from libs.common.domain.model_errors import JobGone, ModelError
from libs.common.ports_jobs import JobAnswer, JobCall, JobHttp, JobReport, JobStatus
from libs.common.runtime.turns import Turns

_METHODS = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
_Words = list[str | int]
_Made = TypeVar("_Made")
BODY_BYTES: Final = 64 * 2**20
#: Steps of expressions that the loop is made to wait for: some milliseconds.
_QUICK_STEPS: Final = 4_000
#: What templates of every request may use, and what those of the first request may.
_ALWAYS: Final = frozenset({"intent_key", "output_count"})
_AT_SUBMIT: Final = _ALWAYS | {"payload", "callback_url", "job_seconds"}
_AFTERWARDS: Final = _ALWAYS | {"job_id"}


class RequestConfig(Config):
    """One request: `{{expressions}}` in path, query, headers and body."""

    method: _METHODS | None = None
    path: str = Field("", max_length=2_048)
    query: dict[str, str] = Field(default_factory=dict, max_length=50)
    headers: dict[str, str] = Field(default_factory=dict, max_length=50)
    body: Any = None


class FindConfig(RequestConfig):
    """A list at the provider in which a job is found again by our key."""

    items: str
    match: str
    job_id: str
    absence_is_certain: bool = False


class StatusesConfig(Config):
    """The provider's words for each of our statuses."""

    queued: _Words = Field(default_factory=list)
    processing: _Words = Field(default_factory=list)
    succeeded: _Words = Field(min_length=1)
    failed: _Words = Field(default_factory=list)
    canceled: _Words = Field(default_factory=list)


class SubmitPollConfig(Config):
    """adapter_config of `submit-poll`; docs/adapters.md says what each means."""

    submit: RequestConfig = RequestConfig()
    job_id: str
    poll: RequestConfig
    status: str
    statuses: StatusesConfig
    percent: str = ""
    percent_full: float = Field(100.0, gt=0)
    message: str = ""
    result: RequestConfig | None = None
    outputs: str
    join_text: bool = False
    error: str = ""
    retryable_errors: list[str] = Field(default_factory=list, max_length=100)
    cancel: RequestConfig | None = None
    find: FindConfig | None = None
    dedupes: bool = False
    gone: list[int] = Field(default_factory=lambda: [404, 410])
    settle_seconds: float = Field(20.0, ge=0, le=600)


class _Unseen(LookupError):
    """A list is too long to say that a job is not in it."""


class SubmitPoll:
    """Does what its configuration says. A status word that it does not list counts as processing, with a message: a
    provider's new word must not lose a job that was paid for; the job's deadline ends what never ends."""

    def __init__(self, http: JobHttp) -> None:
        self._http = http
        self._turns = Turns()

    def dedupes(self, config: Mapping[str, Any]) -> bool:
        return config.get("dedupes") is True

    def polls(self, config: Mapping[str, Any]) -> bool:
        return True

    def keyed(self, config: Mapping[str, Any]) -> bool:
        return False

    def check(self, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        """Raises Invalid."""
        _Provider(checked(SubmitPollConfig, config)).check_paths(base_url, route)

    async def submit(self, call: JobCall) -> JobReport:
        provider = _provider(call)
        answer = await self._send(call, provider.submit, "", call.route)
        if not answer.accepted:
            raise refusal(call, answer)
        return await self._apart(call, lambda: _submitted(call, provider, document(answer)))

    async def find(self, call: JobCall) -> JobReport | None:
        """Raises LookupError without a `find`, and for an absence that is not certain."""
        provider = _provider(call)
        if provider.find is None:
            raise LookupError("this model's configuration has no find")
        answer = await self._send(call, provider.find.request, "")
        if not answer.accepted:
            raise refusal(call, answer)
        known = await self._apart(call, partial(_found, call, provider.find, answer), over=_Unseen)
        if known is not None:
            return known
        if call.since_submit < provider.config.settle_seconds:
            raise unsettled(call, provider.config.settle_seconds)
        return None

    async def get(self, call: JobCall, provider_id: str) -> JobReport:
        provider = _provider(call)
        told = result = await self._ask(call, provider, provider.poll, provider_id)
        if provider.result is not None and await self._apart(call, lambda: provider.succeeded(told)):
            result = await self._ask(call, provider, provider.result, provider_id)
        return await self._apart(call, lambda: provider.report(call, provider_id, told, result))

    async def cancel(self, call: JobCall, provider_id: str) -> None:
        """Does nothing where the configuration has no cancel: the job goes on at the provider."""
        provider = _provider(call)
        if provider.cancel is None:
            return
        answer = await self._send(call, provider.cancel, provider_id)
        if answer.status not in (*provider.config.gone, 409) and not answer.accepted:
            raise refusal(call, answer)

    def called_back(self, call: JobCall, headers: Mapping[str, str], body: bytes) -> JobReport | None:
        """Read as an answer to a poll; what cannot be read, or only takes long to look through, says nothing."""
        try:
            provider, told = _provider(call), read_json(body)
            with sharing(_QUICK_STEPS, TooLong):
                found = as_text(provider.job_id.find(told)) or ""
                if provider.result is not None and provider.succeeded(told):
                    return JobReport(JobStatus.PROCESSING, found)  # a poll fetches the result
                return provider.report(call, found, told, told)
        except (ValueError, ModelError, TooLong):
            return None

    async def _ask(self, call: JobCall, provider: _Provider, request: _Request, provider_id: str) -> Any:
        answer = await self._send(call, request, provider_id)
        if answer.status in provider.config.gone:
            raise JobGone("the provider does not know this job any more")
        if not answer.accepted:
            raise refusal(call, answer)
        return document(answer)

    async def _send(self, call: JobCall, request: _Request, provider_id: str, path: str = "") -> JobAnswer:
        try:
            sent = await self._apart(call, lambda: request.filled(_scope(call, provider_id), path), over=Missing)
        except Missing as error:
            raise ModelError("bad_payload", f"a request cannot be made: {error}", retryable=False, sent=False) from None
        return await self._http.send(call, request.method, sent.path, headers=sent.headers, body=sent.body)

    async def _apart(self, call: JobCall, work: Callable[[], _Made], over: type[Exception] = ValueError) -> _Made:
        """Do what expressions are found in: here when that is quick, else beside the loop, one tenant after the other.
        Raises `over` behind the last step, unless that only means that nothing is found."""
        try:
            with sharing(_QUICK_STEPS, TooLong):
                return work()
        except TooLong:
            with sharing(over=over):
                return await self._turns.take(call.tenant_id, work)


@dataclass(frozen=True, slots=True)
class _Filled:
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes | None


class _Request:
    """A request whose templates are ready."""

    def __init__(self, config: RequestConfig, at: str, method: str, names: frozenset[str], body: Any = None) -> None:
        self.method = config.method or method
        self._at = at
        self._path = _made(Template.of, config.path, at, "path")
        self._query = {name: _made(Template.of, value, at, "query", name) for name, value in config.query.items()}
        self._headers = {name: _made(Template.of, value, at, "headers", name) for name, value in config.headers.items()}
        given = config.body if "body" in config.model_fields_set else body
        if self.method == "GET" and given is not None:
            raise Invalid(CODE, "a GET request has no body", field=pointer(at, "body"))
        self._body = None if given is None else _made(Document, given, at, "body")
        self._check_headers(at)
        for expression in self.expressions():
            if strangers := expression.roots() - names:
                message = f"{sorted(strangers)[0]} is not known here; known are {', '.join(sorted(names))}"
                raise Invalid(CODE, message, field=pointer(at))

    def filled(self, scope: Mapping[str, Any], path: str) -> _Filled:
        """The request for one call. Raises Missing."""
        where = self._path.text(scope, _one_segment) or path
        query = {name: template.value(scope) for name, template in self._query.items()}
        pairs = [f"{_quoted(name)}={_quoted(value)}" for name, found in query.items() if (value := as_text(found))]
        if pairs:
            where = f"{where}{'&' if '?' in where else '?'}{'&'.join(pairs)}"
        headers = [(name, template.text(scope)) for name, template in self._headers.items()]
        return _Filled(where, headers, None if self._body is None else _written(self._body.value(scope)))

    def check_path(self, base_url: str, path: str = "") -> None:
        """Raise Invalid unless the request can be sent, whatever its placeholders stand for."""
        where = _sample(self._path) or path
        if self._query:
            where = f"{where}{'&' if '?' in where else '?'}x=x"
        check_path(base_url, where, self._at, "path")

    def expressions(self) -> Iterator[Expression]:
        for template in (self._path, *self._query.values(), *self._headers.values()):
            yield from template.expressions()
        if self._body is not None:
            yield from self._body.expressions()

    def _check_headers(self, at: str) -> None:
        sample = [(name, _sample(template) or "x") for name, template in self._headers.items()]
        try:
            check_bindings(sample)
        except InvalidBindings as error:
            raise Invalid(CODE, error.message.replace("api_key", "headers"), field=pointer(at, "headers")) from None


class _Find:
    def __init__(self, config: FindConfig) -> None:
        self.request = _Request(config, "find", "GET", _ALWAYS)
        self.items = _made(Expression, config.items, "find", "items")
        self.match = _made(Expression, config.match, "find", "match")
        self.job_id = _made(Expression, config.job_id, "find", "job_id")
        self.absence_is_certain = config.absence_is_certain


class _Provider:
    """A whole configuration, ready for use. Raises Invalid that points at the first mistake."""

    def __init__(self, config: SubmitPollConfig) -> None:
        self.config = config
        self.submit = _Request(config.submit, "submit", "POST", _AT_SUBMIT, _payload_for(config.submit))
        self.poll = _Request(config.poll, "poll", "GET", _AFTERWARDS)
        self.result = None if config.result is None else _Request(config.result, "result", "GET", _AFTERWARDS)
        self.cancel = None if config.cancel is None else _Request(config.cancel, "cancel", "POST", _AFTERWARDS)
        self.find = None if config.find is None else _Find(config.find)
        self.job_id = _made(Expression, config.job_id, "job_id")
        self.status = _made(Expression, config.status, "status")
        self.outputs = _made(Expression, config.outputs, "outputs")
        self._percent = config.percent and _made(Expression, config.percent, "percent")
        self._message = config.message and _made(Expression, config.message, "message")
        self._error = config.error and _made(Expression, config.error, "error")
        self._statuses = _words(config.statuses)
        for name, request in (("poll", self.poll), ("result", self.result), ("cancel", self.cancel)):
            if request and not any("job_id" in expression.names() for expression in request.expressions()):
                raise Invalid(CODE, f"{name} must use {{{{job_id}}}} somewhere", field=pointer(name))
        if config.dedupes and not any("intent_key" in found.names() for found in self.submit.expressions()):
            message = "a provider recognises a repeated submit only by our key: submit must use {{intent_key}}"
            raise Invalid(CODE, message, field=pointer("dedupes"))

    def check_paths(self, base_url: str, route: str) -> None:
        """Raise Invalid where one of the requests could go nowhere."""
        self.submit.check_path(base_url, route)
        for request in (self.poll, self.result, self.cancel, self.find.request if self.find else None):
            if request is not None:
                request.check_path(base_url)

    def word(self, told: Any) -> tuple[str, JobStatus | None]:
        """The provider's word for the status and what it means; raises ModelError when there is none."""
        word = (as_text(self.status.find(told)) or "")[:WORD_LIMIT]
        if not word.strip():
            raise bad_answer("the provider's answer has no status where the configuration looks for it")
        return word, self._statuses.get(word.strip().casefold())

    def succeeded(self, told: Any) -> bool:
        """Whether the job is done; raises ModelError as `word`."""
        return self.word(told)[1] is JobStatus.SUCCEEDED

    def report(self, call: JobCall, provider_id: str, told: Any, result: Any) -> JobReport:
        """What an answer says; `result` is where the outputs are."""
        word, status = self.word(told)
        message = text(call, self._message.find(told)) if self._message else ""
        if status is None:
            said = unknown_status(call, word)
            return JobReport(JobStatus.PROCESSING, provider_id, message=f"{said}: {message}" if message else said)
        if status is JobStatus.FAILED:
            error = self.error_in(call, told) or message or "the provider's job failed without a reason"
            return JobReport(status, provider_id, message=error, retryable=self.passes(error))
        if status is JobStatus.SUCCEEDED:
            return self._succeeded(provider_id, message, result)
        share = percent(self._percent.find(told), full=self.config.percent_full) if self._percent else None
        return JobReport(status, provider_id, share, message)

    def error_in(self, call: JobCall, told: Any) -> str:
        """The provider's error, empty where it gives none."""
        return text(call, self._error.find(told)) if self._error else ""

    def passes(self, error: str) -> bool:
        """Whether an error is one that may not come again."""
        return any(word.casefold() in error.casefold() for word in self.config.retryable_errors if word)

    def _succeeded(self, provider_id: str, message: str, result: Any) -> JobReport:
        try:
            outputs = outputs_of(self.outputs.find(result), join_text=self.config.join_text)
        except BadOutput as error:
            return JobReport(JobStatus.FAILED, provider_id, message=str(error), error_code=error.code)
        return JobReport(JobStatus.SUCCEEDED, provider_id, 100.0, message, outputs)


def _submitted(call: JobCall, provider: _Provider, told: Any) -> JobReport:
    if provider.job_id.find(told) is None and (error := provider.error_in(call, told)):
        retryable = provider.passes(error)
        raise ModelError("provider_refused", error, retryable=retryable, answered=True)
    provider_id = job_id(provider.job_id.find(told))
    # The job is there. Whatever failed from here on would be taken for a submit that failed, and bought again.
    if not (as_text(provider.status.find(told)) or "").strip():
        return JobReport(JobStatus.QUEUED, provider_id)
    if provider.result is not None and provider.succeeded(told):
        return JobReport(JobStatus.PROCESSING, provider_id)  # a poll fetches the result
    return provider.report(call, provider_id, told, told)


def _found(call: JobCall, find: _Find, answer: JobAnswer) -> JobReport | None:
    """The job in the provider's list. Raises LookupError for an absence that is not certain."""
    items = find.items.find(document(answer))
    for item in items if isinstance(items, list) else ():
        if call.intent_key in (as_text(find.match.find(item)) or ""):
            return JobReport(JobStatus.QUEUED, job_id(find.job_id.find(item)))
    if not find.absence_is_certain or not isinstance(items, list):
        raise LookupError("the provider does not list the job, which does not mean that there is none")
    return None


def _sample(template: Template) -> str:
    return "".join(part if isinstance(part, str) else "x" for part in template.parts)


def _made(kind: Callable[[Any], _Made], given: Any, *at: str) -> _Made:
    try:
        return kind(given)
    except BadExpression as error:
        raise Invalid(CODE, str(error), field=pointer(*at)) from None


def _words(config: StatusesConfig) -> dict[str, JobStatus]:
    found: dict[str, JobStatus] = {}
    for status in JobStatus:
        for place, word in enumerate(getattr(config, status.value)):
            plain = str(word).strip().casefold()
            if not plain or found.get(plain, status) is not status:
                message = "is empty" if not plain else f"stands for {found[plain].value} already"
                raise Invalid(CODE, f"this word {message}", field=pointer("statuses", status.value, place))
            found[plain] = status
    return found


def _payload_for(submit: RequestConfig) -> str | None:
    """The body of a submit that says nothing of one."""
    return None if submit.method == "GET" else "{{payload}}"


def _provider(call: JobCall) -> _Provider:
    try:
        return _prepared(orjson.dumps(dict(call.config)))
    except Invalid as error:
        raise bad_config(f"{error.field}: {error.message}") from None


@lru_cache(maxsize=1_024)
def _prepared(config: bytes) -> _Provider:
    return _Provider(checked(SubmitPollConfig, orjson.loads(config)))


def _scope(call: JobCall, provider_id: str) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "intent_key": call.intent_key,
        "output_count": call.output_count,
        "callback_url": call.callback_url or None,
        "job_seconds": call.job_seconds,
        "job_id": provider_id or None,
    }
    if call.payload:
        try:
            scope["payload"] = orjson.loads(call.payload)
        except orjson.JSONDecodeError:
            raise ModelError("bad_payload", "the payload is not JSON", retryable=False, sent=False) from None
    return scope


def _written(body: Any) -> bytes:
    if not fits(body, BODY_BYTES):
        raise Missing(f"its body would be larger than {BODY_BYTES} bytes")
    try:
        return orjson.dumps(body)
    except TypeError as error:  # what an expression made of numbers beyond 64 bits, or half a character
        raise Missing(f"its body cannot be JSON: {error}") from None


def _one_segment(value: str) -> str:
    """A value inside a path, which it cannot leave."""
    if value in ("", ".", ".."):
        raise Missing("a part of the path would be empty or lead upwards")
    return _quoted(value)


def _quoted(value: str) -> str:
    try:
        return segment(value)
    except UnicodeEncodeError:
        raise Missing("a part of the address would have half a character") from None
