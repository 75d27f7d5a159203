"""What is sent, and what answers mean: everything about the protocol that does no input or output."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import ValidationError

from libs.client.errors import ApiError, NotReachable, NotSendable
from libs.client.task import Task

#: As long as the server lets a request wait; longer waits are several requests.
WAIT_SECONDS: Final = 55
BATCH: Final = 1_000
_LONGEST_PAUSE: Final = 60.0
_LARGEST_PORT: Final = 65_535
#: How much later than its caller wants an answer may come at most.
_LATEST_SECONDS: Final = 5.0
#: "Not now", of the API or of a proxy behind which it is being restarted; only of the former that nothing was done.
NOT_NOW: Final = (429, 502, 503, 504)
_NOT_DONE: Final = (429, 503)
STRANGER: Final = "what answers there is no API of this version"
#: Whoever waits for a task or listens keeps a connection: those who are many must not wait for each other.
LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=100)
#: No proxy that the environment names leads to this machine itself.
MOUNTS: Final = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}


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
    try:
        address = httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > _LARGEST_PORT:
        raise ValueError(f"{url!r} is no address: write http://host:port")
    return url.rstrip("/")


def bearer(key: str) -> dict[str, str]:
    """The header that says who asks; raises ValueError for what can be no key."""
    if not key or not _fits_a_header(key):
        raise ValueError("the API key is no key: it is empty, or has characters that no key has")
    return {"Authorization": f"Bearer {key}"}


def built(
    http: httpx.Client | httpx.AsyncClient, call: Call, seconds: float, left: float | None = None
) -> httpx.Request:
    """The request of a call; raises NotSendable. Only the answer may take longer than usual, not the connecting;
    neither takes much longer than what is `left` of its caller's time."""
    for name, value in call.headers.items():
        if not _fits_a_header(value):
            raise NotSendable(f"{name} takes visible ASCII characters alone")
    most = float("inf") if left is None else max(left, 0.0) + _LATEST_SECONDS
    timeout = httpx.Timeout(min(seconds, most), read=min(seconds + call.wait_seconds, most))
    try:
        return http.build_request(
            call.method, call.path, params=call.params, json=call.body, headers=call.headers, timeout=timeout
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise NotSendable(f"it cannot be sent: {error}") from None


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
    seconds = min(wait or 0.0, WAIT_SECONDS)
    headers = {"Prefer": f"wait={max(1, int(seconds))}"} if seconds else {}
    return Call("GET", f"/v1/tasks/{quoted(task_id)}", headers=headers, wait_seconds=seconds)


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
    """As one segment of a path, which `.` and `..` would not be: they lead elsewhere. Raises NotSendable."""
    try:
        segment = quote(text, safe="")
    except UnicodeEncodeError:
        raise NotSendable(f"{text!r} is no text") from None
    return segment if segment.strip(".") else segment.replace(".", "%2E")


def judge(call: Call, response: httpx.Response | None, tries_left: int, nth: int) -> Any:
    """What an answer means: its JSON, or a Pause before the next try. Raises ApiError and NotReachable.

    `response` None: the connection failed. An answer of 429 or 503 says that nothing was done, so whatever the request
    was, it may be sent again; unless it says that nobody knows. One of 502 or 504 is a proxy's, that does not know.
    """
    if response is None:
        if not call.repeatable or not tries_left:
            raise NotReachable("the server cannot be reached")
        return Pause(backoff(nth))
    if response.is_success:
        answer = _json(response)
        if not isinstance(answer, dict) and (answer is not None or call.method == "GET"):
            raise NotReachable(f"{STRANGER}: its answer is no object")
        return answer
    refused = refusal(response)
    if not call.repeatable and (refused.code == "outcome_unknown" or refused.status not in _NOT_DONE):
        raise refused
    return pause(refused, tries_left, nth)


def pause(refused: ApiError, tries_left: int, nth: int) -> Pause:
    """When to send again what was refused for now; raises the refusal where that is never, or too far away."""
    wanted = refused.retry_after or 0.0
    if refused.status not in NOT_NOW or not tries_left or wanted > _LONGEST_PAUSE:
        raise refused
    return Pause(max(wanted, backoff(nth)))


def refusal(response: httpx.Response, *, ours: bool = True) -> ApiError:
    """What an answer that is no success says; raises NotReachable for a 404 or 405 of somebody else. Not `ours`: of a
    server that a redirect led to.
    """
    try:
        problem = _json(response)
    except NotReachable:
        problem = {"detail": f"the answer is no JSON ({response.headers.get('content-type', 'no type')})"}
    said = problem if isinstance(problem, dict) else {}
    if ours and response.status_code in (404, 405) and "code" not in said:
        raise NotReachable(f"{STRANGER}: its {response.status_code} has no code")
    return ApiError(response.status_code, said, retry_after(response.headers))


def garbled() -> NotReachable:
    """An answer that is not packed as it says."""
    return NotReachable(f"{STRANGER}: its answer cannot be unpacked")


def elsewhere(response: httpx.Response) -> httpx.URL:
    """Where a redirect leads."""
    try:
        return response.url.join(response.headers["Location"])
    except httpx.InvalidURL:
        raise NotReachable(f"{STRANGER}: it leads to no address") from None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds until the server wants to see the request again."""
    value = headers.get("Retry-After", "").strip()
    try:
        if value.isdecimal():
            return float(value)
        return max(parsedate_to_datetime(value).timestamp() - time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def task_of(answer: Any) -> Task:
    """A task from an answer."""
    try:
        return Task.model_validate(answer)
    except ValidationError as error:
        raise NotReachable(f"{STRANGER}: its answer is no task ({error.error_count()} fields)") from None


def page_of(answer: Any) -> dict[str, Any]:
    """A list from an answer."""
    if not isinstance(answer, dict) or not isinstance(answer.get("items"), list):
        raise NotReachable(f"{STRANGER}: its answer is no list")
    return answer


def items_of(answer: Any) -> list[dict[str, Any]]:
    """All items of a list that has one page."""
    items: list[dict[str, Any]] = page_of(answer)["items"]
    return items


def _json(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except (ValueError, RecursionError):
        kind = response.headers.get("content-type", "of no type")
        raise NotReachable(f"{STRANGER}: its answer is no JSON, but {kind}") from None


def _fits_a_header(value: str) -> bool:
    return value.isascii() and value.isprintable()


def backoff(nth: int) -> float:
    """Seconds before the next try, spread so that many callers do not come at once."""
    return min(0.25 * 2.0**nth, 8.0) * (1 + random.random())  # noqa: S311  no secret
