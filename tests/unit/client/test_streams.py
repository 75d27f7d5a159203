"""What the client makes of the lines of an event stream, and of its breaks."""

from __future__ import annotations

import httpx
import pytest

from libs.client import ApiError, NotReachable
from libs.client.streams import Events, Patience, is_end

STREAM = httpx.Response(200, headers={"Content-Type": "text/event-stream"})
BROKEN = httpx.ReadError("gone")


def test_events_are_put_together_from_lines() -> None:
    stream, seen = Events(), []
    lines = ["retry: 1", ": ping", "", "id: a:1", 'data: {"status":', 'data: "queued"}', "", "id: a:2", 'data:{"n":2}']
    for line in lines:
        seen += list(stream.feed(f"{line}\n"))
    assert seen == [{"status": "queued", "event_id": "a:1"}]
    assert stream.last == "a:1", "the second one is not whole yet"
    seen += list(stream.feed("\n"))
    assert (seen[-1], stream.last) == ({"n": 2, "event_id": "a:2"}, "a:2")


def test_what_a_break_cut_in_half_is_dropped() -> None:
    stream, seen = Events(), []
    seen += list(stream.feed('id: a:2\ndata: {"half":'))
    assert stream.begin(STREAM)
    seen += list(stream.feed('id: a:2\ndata: {"n": 2}\n\n'))
    assert seen == [{"n": 2, "event_id": "a:2"}]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_lines_end_as_the_specification_says_wherever_the_text_is_cut(end: str) -> None:
    message = "one\u2028two\u2029three\x85four\x0bfive"
    told = f'id: a:1{end}data: {{"a":{end}data: "{message}"}}{end}{end}: more'.replace("\x0b", "\\u000b")
    for size in range(1, len(told)):
        stream, seen = Events(), []
        for at in range(0, len(told), size):
            seen += list(stream.feed(told[at : at + size]))
        assert (seen, stream.last) == ([{"a": message, "event_id": "a:1"}], "a:1")


def test_the_end_of_what_is_told_again_is_no_change() -> None:
    stream = Events("before")
    told = 'data: {"n": 1}\n\nid: now\nevent: caught_up\ndata: {"complete": true, "complete_from": null}\n\n'
    heard = list(stream.feed(told + 'id: later\ndata: {"n": 2}\n\n'))
    assert heard == [{"n": 1, "event_id": None}, {"n": 2, "event_id": "later"}], "to that nobody comes back"
    assert stream.last == "later"


def test_changes_that_may_not_be_told_again_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    told = 'event: caught_up\ndata: {"complete": false, "complete_from": "2026-11-23T09:00:00Z"}\n\n'
    assert list(Events("before").feed(told)) == []
    assert "created before 2026-11-23T09:00:00Z may have been missed" in caplog.text


def test_a_place_may_come_without_a_change() -> None:
    stream = Events()
    assert list(stream.feed("retry: 2000\nid: here\n\n")) == []
    assert stream.last == "here"


@pytest.mark.parametrize("data", ["{nope", "7", "[" * 100_000])
def test_what_is_no_event_is_told(data: str) -> None:
    with pytest.raises(NotReachable, match="no API"):
        list(Events().feed(f"data: {data}\n\n"))


def test_an_answer_may_be_no_stream() -> None:
    assert not Events("a:4").begin(httpx.Response(204)), "the caller has the end"
    for answer in (httpx.Response(204), httpx.Response(200, text="<html>")):
        with pytest.raises(NotReachable, match="no API"):
            Events().begin(answer)


def test_a_failure_that_is_tried_again_is_no_end() -> None:
    assert not is_end({"status": "failed", "final": False})
    assert is_end({"status": "failed", "final": True})


def test_a_stream_that_was_never_had_is_given_up_soon() -> None:
    patience = Patience(tries=3)
    assert 0 < patience.pause(BROKEN, 0.0) < 3
    patience.pause(None, 1.0)
    with pytest.raises(NotReachable):
        patience.pause(BROKEN, 2.0)


def test_a_stream_that_was_had_is_wanted_back_for_two_minutes() -> None:
    patience = Patience(tries=1)
    for _ in range(3):
        patience.had()
        for at in range(0, 120, 10):
            assert 0 < patience.pause(BROKEN, float(at)) <= 16
    with pytest.raises(NotReachable):
        patience.pause(BROKEN, 121.0)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_not_now_is_no_end_of_a_stream(status: int) -> None:
    patience = Patience(tries=2)
    assert patience.pause(ApiError(status, {}, retry_after=30.0), 0.0) >= 30
    with pytest.raises(ApiError):
        patience.pause(ApiError(status, {}), 1.0)


def test_a_refusal_is_the_end_of_a_stream() -> None:
    patience = Patience(tries=5)
    patience.had()
    with pytest.raises(ApiError):
        patience.pause(ApiError(401, {}), 0.0)
