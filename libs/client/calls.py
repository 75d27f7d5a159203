"""What is sent, and what answers mean: everything about the protocol that does no input or output."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx

from libs.client.errors import ApiError, NotReachable
from libs.client.task import Task

#: As long as the server lets a request wait; longer waits are several requests.
WAIT_SECONDS: Final = 60
BATCH: Final = 1_000
_LONGEST_PAUSE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `repeatable`: sent twice it does no more than once."""

    method: str
    path: str
    params: Mapping[str, Any] | None = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    wait_seconds: float = 0.0  #: how much longer than usual the answer may take


@dataclass(frozen=True, slots=True)
class Pause:
    """Send it again after so many seconds."""

    seconds: float


def root_of(url: str) -> str:
    """The address without a slash at its end; raises ValueError for what is no address of a server."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address: write http://host:port")
    return url.rstrip("/")


def submit(model: str, payload: Any, key: str | None, options: Mapping[str, Any]) -> Call:
    """A create. Without a key of the caller's it gets a fresh one, so that it can be repeated safely."""
    body = {"model": model, "payload": payload, **options}
    return Call("POST", "/v1/tasks", body=body, headers={"Idempotency-Key": key or str(uuid4())})


def submit_batch(tasks: Sequence[Mapping[str, Any]], key: str | None) -> Call:
    """A create of up to 1,000, each judged on its own."""
    return Call(
        "POST", "/v1/tasks/batch", body={"tasks": list(tasks)}, headers={"Idempotency-Key": key or str(uuid4())}
    )


def task(task_id: str, *, wait: float | None = None) -> Call:
    """A read; with `wait` it is answered when the task has ended, or after so many seconds."""
    return Call("GET", f"/v1/tasks/{quoted(task_id)}", headers=_waits({}, wait), wait_seconds=wait or 0.0)


def about_task(task_id: str, what: str) -> Call:
    """A read of what belongs to a task: attempts, history, why."""
    return Call("GET", f"/v1/tasks/{quoted(task_id)}/{what}")


def cancel(task_id: str) -> Call:
    """A cancel; repeating it changes nothing."""
    return Call("POST", f"/v1/tasks/{quoted(task_id)}/cancel")


def result(task_id: str, index: int) -> Call:
    """The content of a result's file."""
    return Call("GET", f"/v1/tasks/{quoted(task_id)}/result/{index}")


def stream(task_id: str | None, last: str) -> Call:
    """The changes of a task, or of all of the tenant's."""
    path = f"/v1/tasks/{quoted(task_id)}/events" if task_id else "/v1/events"
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
    return Call("GET", path, headers=headers)


def quoted(text: str) -> str:
    """As one segment of a path."""
    return quote(text, safe="")


def judge(call: Call, response: httpx.Response | None, tries_left: int, nth: int) -> Any:
    """What an answer means: its JSON, or a Pause before the next try. Raises ApiError and NotReachable.

    `response` None: the connection failed. An answer of 429 or 503 says that nothing was done, so whatever the request
    was, it may be sent again.
    """
    if response is None:
        if not call.repeatable or not tries_left:
            raise NotReachable("the server cannot be reached")
        return Pause(_backoff(nth))
    if response.is_success:
        return _json(response)
    wanted = retry_after(response.headers)
    if response.status_code in (429, 503) and tries_left:
        return Pause(max(wanted or 0.0, _backoff(nth)))
    problem = _json(response)
    raise ApiError(response.status_code, problem if isinstance(problem, dict) else {}, wanted)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server wants to see the request again, at most a minute."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), _LONGEST_PAUSE)
    try:
        return min(max(parsedate_to_datetime(value).timestamp() - time(), 0.0), _LONGEST_PAUSE)
    except (ValueError, TypeError, OverflowError):
        return None


class Events:
    """Puts the lines of an event stream together (Server-Sent Events, WHATWG HTML 9.2)."""

    def __init__(self) -> None:
        self.last = ""  #: where to go on after a break
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, line: str) -> Iterator[dict[str, Any]]:
        """The event that this line completes, if it does."""
        if not line:
            if self._id is not None:
                self.last = self._id
            if self._data:
                event = json.loads("\n".join(self._data))
                self._data = []
                if isinstance(event, dict):
                    yield event
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value


def task_of(answer: Any) -> Task:
    """A task from an answer."""
    return Task.model_validate(answer)


def _waits(headers: dict[str, str], wait: float | None) -> dict[str, str]:
    return headers | ({"Prefer": f"wait={max(1, int(min(wait, WAIT_SECONDS)))}"} if wait else {})


def _json(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError:
        return {"detail": f"the answer is no JSON ({response.headers.get('content-type', 'no type')})"}


def _backoff(nth: int) -> float:
    return min(0.25 * 2.0**nth, 8.0) * (1 + random.random())  # noqa: S311  spreads repetitions
