"""Checks that every adapter for jobs has to pass, whoever wrote it.

    kit = AdapterKit(MyAdapter(http), my_provider)
    for result in await kit.run():
        print(result)

`my_provider` is yours: something that answers as the provider does, keeps a log of the jobs that it made, and can be
told to misbehave (ProviderUnderTest). Nothing here needs a test framework; `assert_passes()` fits into any.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeAlias
from uuid import uuid4

from libs.common.domain.errors import Invalid
from libs.common.domain.model_errors import Busy, JobGone, ModelError
from libs.common.ports_jobs import JobAdapter, JobCall, JobReport, JobStatus

#: An address of this machine at which nobody listens.
NOWHERE: Final = "http://127.0.0.1:1"
_POLLS: Final = 50


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider does nothing and answers so."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=lambda: {"detail": "not now"})


#: "lost": it does what it is asked for, and cuts the connection instead of answering; "garbage": it does it, and
#: answers with something that is not JSON.
Fault: TypeAlias = Refused | Literal["lost", "garbage"]


class ProviderUnderTest(Protocol):
    """What the author of an adapter gives the kit."""

    def new_call(self) -> JobCall:
        """A job that succeeds with at least one output, under a new intent key; its headers hold the secret."""

    def jobs_of(self, call: JobCall) -> int:
        """How many jobs the provider made for this intent key, by its own log."""

    def misbehave(self, fault: Fault) -> None:
        """The next request gets this."""

    def forget(self, call: JobCall) -> None:
        """The provider no longer knows this job."""


class NotOffered(Exception):
    """The adapter does not offer what a check is about."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a check went."""

    name: str
    outcome: Literal["passed", "not offered", "failed"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome:11} {self.name}" + (f": {self.detail}" if self.detail else "")


class AdapterKit:
    """One adapter against one provider. Each check makes jobs of its own; they may run in any order."""

    def __init__(self, adapter: JobAdapter, provider: ProviderUnderTest) -> None:
        self._adapter = adapter
        self._provider = provider

    async def run(self) -> list[Result]:
        """Every check, whatever the others say."""
        return [await self._result(name, check) for name, check in self.checks().items()]

    async def assert_passes(self) -> None:
        """Raises AssertionError that names every check that failed."""
        failed = [str(result) for result in await self.run() if result.outcome == "failed"]
        if failed:
            raise AssertionError("\n".join(failed))

    def checks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """All checks by name; each raises AssertionError, or NotOffered."""
        prefix = "check_"
        return {name.removeprefix(prefix): getattr(self, name) for name in sorted(dir(self)) if name.startswith(prefix)}

    async def check_configuration(self) -> None:
        """Its own configuration is accepted; an unknown name in it is refused with a pointer below adapter_config."""
        call = self._provider.new_call()
        self._adapter.check(call.base_url, call.route, call.config)
        try:
            self._adapter.check(call.base_url, call.route, {**call.config, "no such option": 1})
        except Invalid as error:
            _expect(error.field.startswith("/adapter_config"), f"the pointer is {error.field!r}")
        else:
            raise AssertionError("an unknown option is accepted")

    async def check_job_to_its_end(self) -> None:
        """A job succeeds, with outputs, and is one job at the provider; what is over stays over."""
        call = self._provider.new_call()
        report = await self._ended(call)
        _expect(report.status is JobStatus.SUCCEEDED, f"it ended as {report.status.value}: {report.message}")
        _expect(bool(report.outputs), "it has no outputs")
        for output in report.outputs:
            _expect(bool(output.url) != (output.content is not None), "an output is a link or content, not both")
        _expect(self._provider.jobs_of(call) == 1, f"it became {self._provider.jobs_of(call)} jobs")
        keyed = self._adapter.keyed(call.config)
        _expect(not keyed or report.provider_id == call.intent_key, f"its id is {report.provider_id}, not our key")
        if self._adapter.polls(call.config):
            again = await self._adapter.get(_later(call), report.provider_id)
            _expect(again.status is JobStatus.SUCCEEDED, f"later it is {again.status.value}")

    async def check_lost_answer(self) -> None:
        """A submit whose answer is lost says that it may have been heard; whatever follows makes no second job."""
        for fault in ("lost", "garbage"):
            call = self._provider.new_call()
            self._provider.misbehave(fault)
            error = await self._refusal(call, self._adapter.submit(call))
            _expect(error.sent and not error.answered, "it claims that the provider did not take the job")
            _expect(error.retryable, f"{error.code} is final: the job would be forgotten")
            await self._adopt(call)
            _expect(self._provider.jobs_of(call) == 1, f"there are {self._provider.jobs_of(call)} jobs now")

    async def check_nothing_sent(self) -> None:
        """Where nobody listens, nothing was sent, and it says so."""
        call = replace(self._provider.new_call(), base_url=NOWHERE)
        error = await self._refusal(call, self._adapter.submit(call))
        _expect(not error.sent, "it claims that something may have been sent")
        _expect(error.retryable, f"{error.code} is final, but the provider may come back")

    async def check_full_provider(self) -> None:
        """A 429 is Busy, with the provider's own delay, and no job."""
        call = self._provider.new_call()
        self._provider.misbehave(Refused(429, {"Retry-After": "7"}))
        error = await self._refusal(call, self._adapter.submit(call))
        _expect(isinstance(error, Busy), f"it is {type(error).__name__} {error.code}")
        _expect(error.retry_after == 7.0, f"it would be tried again after {error.retry_after}")
        _expect(self._provider.jobs_of(call) == 0, "a job was made")

    async def check_refusals(self) -> None:
        """A refused key is final, a provider that is away is not; neither shows the key. What stands before a provider
        says nothing of what it did."""
        for status, retryable in ((401, False), (403, False), (503, True), (502, True), (504, True), (524, True)):
            call = self._provider.new_call()
            secret = _secrets(call)[0]
            self._provider.misbehave(Refused(status, {}, {"detail": f"you sent {secret}", "error": f"not {secret}"}))
            error = await self._refusal(call, self._adapter.submit(call))
            _expect(error.retryable is retryable, f"after {status}, retryable is {error.retryable}")
            between = status in (502, 504, 524)
            _expect(
                not (between and error.answered), f"after {status} it claims that the provider did not take the job"
            )

    async def check_polls_that_fail(self) -> None:
        """A poll that fails may be repeated, and says nothing of the job."""
        call = self._polled()
        report = await self._adapter.submit(call)
        for fault in (Refused(500), Refused(503), "lost", "garbage"):
            self._provider.misbehave(fault)
            error = await self._refusal(call, self._adapter.get(_later(call), report.provider_id))
            _expect(error.retryable and not isinstance(error, JobGone), f"after {fault} it is {error.code}, final")

    async def check_forgotten_job(self) -> None:
        """A job that the provider does not know is JobGone."""
        call = self._polled()
        report = await self._adapter.submit(call)
        self._provider.forget(call)
        error = await self._refusal(call, self._adapter.get(_later(call), report.provider_id))
        _expect(isinstance(error, JobGone), f"it is {type(error).__name__} {error.code}")

    async def check_cancel(self) -> None:
        """Cancelling is harmless twice, after the end, and for a job that nobody knows."""
        call = self._provider.new_call()
        report = await self._adapter.submit(call)
        for provider_id in (report.provider_id, report.provider_id, str(uuid4())):
            await self._adapter.cancel(_later(call), provider_id)
        _expect(self._provider.jobs_of(call) == 1, f"there are {self._provider.jobs_of(call)} jobs now")

    async def check_callbacks_of_others(self) -> None:
        """What is no callback, or not this job's, is nothing, and raises nothing."""
        call = self._provider.new_call()
        for body in (b"", b"null", b"[]", b'"x"', b"{", b"{}", b"\xff", b"[" * 5_000):
            _expect(self._adapter.called_back(_later(call), {}, body) is None, f"{body[:10]!r} says something")

    async def _adopt(self, call: JobCall) -> None:
        """What the executor does after an answer was lost."""
        if self._adapter.dedupes(call.config):
            await self._adapter.submit(call)
            return
        try:
            found = await self._adapter.find(_later(call))
        except LookupError:
            return  # an operator decides
        _expect(found is not None, "the job is there, and find says that certainly none is")

    async def _ended(self, call: JobCall) -> JobReport:
        report = await self._adapter.submit(call)
        for _ in range(_POLLS):
            if report.status.over:
                return report
            if not self._adapter.polls(call.config):
                raise NotOffered("the job ends by a callback")
            report = await self._adapter.get(_later(call), report.provider_id)
        raise AssertionError(f"after {_POLLS} polls it is {report.status.value}")

    def _polled(self) -> JobCall:
        call = self._provider.new_call()
        if not self._adapter.polls(call.config):
            raise NotOffered("this provider cannot be asked")
        return call

    async def _refusal(self, call: JobCall, action: Awaitable[object]) -> ModelError:
        """The ModelError that an action ends with, which shows no secret."""
        try:
            await action
        except ModelError as error:
            for secret in _secrets(call):
                _expect(secret not in f"{error.message} {error!r} {error}", f"{error.code} shows a secret")
            return error
        raise AssertionError("it raised nothing")

    async def _result(self, name: str, check: Callable[[], Awaitable[None]]) -> Result:
        try:
            await check()
        except NotOffered as reason:
            return Result(name, "not offered", str(reason))
        except Exception as error:  # whatever an adapter raises, the other checks are of interest
            detail = str(error) if isinstance(error, AssertionError) else f"it raised {error!r}"
            return Result(name, "failed", detail)
        return Result(name, "passed")


def _later(call: JobCall) -> JobCall:
    """The call as every request after the submit gets it."""
    return replace(call, payload=b"")


def _secrets(call: JobCall) -> list[str]:
    """The longest header value first, without its scheme."""
    values = [value.rpartition(" ")[2] for _, value in call.headers]
    token = call.callback_url.rpartition("/")[2]
    found = sorted((value for value in values if len(value) >= 8), key=len, reverse=True)
    if not found:
        raise AssertionError("new_call() must give a header with a secret of at least 8 characters")
    return [*found, token] if token else found


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
