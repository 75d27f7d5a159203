"""What the client makes of answers, and of the lines of an event stream."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from libs.client import ApiError, NotReachable, NotSendable
from libs.client.calls import Call, Pause, bearer, built, judge, page_of, retry_after, root_of, submit, task, task_of

READ = Call("GET", "/v1/tasks")
ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
ONCE = Call("POST", "/v1/models", repeatable=False)


def test_an_answer_is_its_json() -> None:
    assert judge(READ, httpx.Response(200, json={"id": "1"}), 0, 0) == {"id": "1"}
    assert judge(Call("DELETE", "/v1/models/m"), httpx.Response(204), 0, 0) is None


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>"), httpx.Response(200), httpx.Response(200, json=[])]
)
def test_whoever_answers_may_be_somebody_else(answer: httpx.Response) -> None:
    with pytest.raises(NotReachable, match="no API"):
        judge(READ, answer, 0, 0)


@pytest.mark.parametrize("answer", [httpx.Response(404, text="Not Found"), httpx.Response(405, json={"detail": "No"})])
def test_a_route_that_is_not_there_is_no_task_that_is_not_there(answer: httpx.Response) -> None:
    """A wrong address read as "there is no such task" by exit code and by class."""
    with pytest.raises(NotReachable, match="no API"):
        judge(READ, answer, 0, 0)


def test_answers_of_another_shape_are_told() -> None:
    with pytest.raises(NotReachable, match="no JSON"):
        judge(READ, httpx.Response(200, text="[" * 100_000), 0, 0)
    with pytest.raises(NotReachable, match="no list"):
        page_of(None)
    with pytest.raises(NotReachable, match="no list"):
        page_of({"ok": True})
    with pytest.raises(NotReachable, match="no task"):
        task_of({"ok": True})


def test_not_now_is_repeated_no_sooner_than_the_server_wants() -> None:
    for status in (429, 503):
        answer = judge(ONCE, httpx.Response(status, headers={"Retry-After": "7"}), 1, 0)
        assert isinstance(answer, Pause)
        assert answer.seconds == 7
        with pytest.raises(ApiError) as raised:
            judge(ONCE, httpx.Response(status, headers={"Retry-After": "7"}, json={"code": "queue_full"}), 0, 0)
        assert (raised.value.code, raised.value.retry_after) == ("queue_full", 7)


def test_who_shall_come_in_an_hour_is_told_so_and_does_not_come_in_a_minute() -> None:
    with pytest.raises(ApiError) as raised:
        judge(READ, httpx.Response(429, headers={"Retry-After": "3600"}, json={"code": "quota_exhausted"}), 4, 0)
    assert (raised.value.code, raised.value.retry_after) == ("quota_exhausted", 3_600)


def test_a_broken_connection_is_repeated_only_where_twice_is_once() -> None:
    assert isinstance(judge(READ, None, 1, 0), Pause)
    assert isinstance(judge(submit("m", {}, None, {}), None, 1, 0), Pause)
    with pytest.raises(NotReachable):
        judge(ONCE, None, 1, 0)
    with pytest.raises(NotReachable):
        judge(READ, None, 0, 0)


def test_what_may_have_been_done_is_not_done_again() -> None:
    unknown = httpx.Response(503, json={"code": "outcome_unknown"})
    assert isinstance(judge(submit("m", {}, None, {}), unknown, 1, 0), Pause)
    with pytest.raises(ApiError, match="outcome_unknown"):
        judge(ONCE, unknown, 1, 0)
    for status in (502, 504):
        assert isinstance(judge(READ, httpx.Response(status), 1, 0), Pause)
        with pytest.raises(ApiError, match=f"http_{status}"):
            judge(ONCE, httpx.Response(status), 1, 0)


def test_a_refusal_names_code_and_place() -> None:
    problem = {"code": "invalid", "detail": "no", "errors": [{"pointer": "/model", "detail": "is missing"}]}
    with pytest.raises(ApiError, match=r"invalid: no \(/model is missing\)"):
        judge(READ, httpx.Response(400, json=problem), 3, 0)
    with pytest.raises(ApiError, match="http_500"):
        judge(READ, httpx.Response(500, text="<html>"), 3, 0)


@pytest.mark.parametrize("errors", [["bad"], {"name": ["bad"]}, "bad", 7, [None]])
def test_a_refusal_of_somebody_else_is_a_refusal(errors: Any) -> None:
    with pytest.raises(ApiError, match="http_400: no") as raised:
        judge(READ, httpx.Response(400, json={"detail": "no", "errors": errors}), 3, 0)
    assert raised.value.errors == []


def test_a_refusal_says_nothing_twice() -> None:
    problem = {"code": "bad", "detail": "no such thing", "errors": [{"pointer": "/a", "detail": "no such thing"}]}
    assert str(ApiError(400, problem)) == "bad: no such thing (/a)"


def test_every_create_has_a_key() -> None:
    keys = {submit("m", {}, None, {}).headers["Idempotency-Key"] for _ in range(3)}
    assert len(keys) == 3
    assert submit("m", {}, "mine", {}).headers["Idempotency-Key"] == "mine"


def test_ids_stay_one_segment_of_the_path() -> None:
    assert task("../models").path == "/v1/tasks/..%2Fmodels"
    with httpx.Client(base_url="http://h") as http:
        assert str(built(http, task(".."), 1.0).url) == "http://h/v1/tasks/%2E%2E"


@pytest.mark.parametrize(
    "call",
    [
        submit("m", float("nan"), None, {}),
        submit("m", "\ud800", None, {}),
        submit("m", 1, "\u00fc", {}),
        submit("m", 1, "a\nb", {}),
        submit("m", object(), None, {}),
        submit("m", ENDLESS, None, {}),
    ],
)
def test_what_cannot_be_sent_is_told(call: Call) -> None:
    with httpx.Client(base_url="http://h") as http, pytest.raises(NotSendable):
        built(http, call, 1.0)


def test_a_long_wait_is_many_requests_and_a_connection_is_made_soon() -> None:
    with httpx.Client(base_url="http://h") as http:
        times = built(http, task("1", wait=86_400), 10.0).extensions["timeout"]
    assert times == {"connect": 10, "read": 65, "write": 10, "pool": 10}


@pytest.mark.parametrize("key", ["", "\u00fc", "two\nlines"])
def test_a_key_is_checked(key: str) -> None:
    with pytest.raises(ValueError, match="API key"):
        bearer(key)


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("9999", 9999.0), ("9" * 400, float("inf")), ("soon", None), ("", None)]
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}) == seconds


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://host", "http://", "http://h:x", "http://h:99999", "http://[::1", "http://\u00fc..x"],
)
def test_an_address_is_checked(url: str) -> None:
    with pytest.raises(ValueError, match="write http://host:port"):
        root_of(url)


def test_a_retry_that_waits_is_no_end() -> None:
    from libs.client import Task

    fields: dict[str, Any] = {"id": "1", "model": "m", "status": "failed", "code": 7}
    assert not Task(**fields, times={"finished_at": None}).ended
    assert Task(**fields, times={"finished_at": "2026-01-01T00:00:00Z"}).ended
