"""The plain model call against a server that breaks every rule."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import threading
import zlib
from collections.abc import AsyncIterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from libs.common.adapters import names
from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.http_client import GuardedConnector
from libs.common.adapters.models import plain_http
from libs.common.adapters.models.plain_http import PlainHttp, open_plain_http
from libs.common.adapters.staging import Staging, open_staging
from libs.common.domain.endpoint import with_query
from libs.common.domain.model_errors import ModelError, OutOfPorts
from libs.common.domain.output import StagedFile
from libs.common.ports_execution import ModelCall
from tests.support.misbehaving_model import PNG, MisbehavingModel, answer, bare_deflate, chunked, gzip_bomb
from tests.support.misbehaving_model import misbehaving_model as open_model
from tests.support.waiting import until

SECRET = "sk-canary-0123456789"
LIMIT = 4 * 2**20


class Caller:
    """One model, one adapter, one staging store."""

    def __init__(self, model: MisbehavingModel, adapter: PlainHttp, staging: Staging) -> None:
        self.model = model
        self.staging = staging
        self.sends = 0
        self._adapter = adapter

    async def call(
        self,
        route: str,
        *,
        method: str = "POST",
        payload: bytes = b'{"text":"hi"}',
        headers: tuple[tuple[str, str], ...] = (("X-API-Key", SECRET),),
        seconds: float = 5,
        deadline: float | None = None,
    ) -> StagedFile:
        call = ModelCall(
            base_url=self.model.url,
            route=route,
            method=method,
            payload=payload,
            headers=headers,
            timeout_seconds=seconds,
            deadline=deadline,
            sends=self._sends,
        )
        async with self.staging.create(uuid4(), 1, 7) as sink:
            return await self._adapter.invoke(call, sink)

    def _sends(self) -> None:
        self.sends += 1

    async def refused(self, route: str, **changes: object) -> ModelError:
        """The error that a call ends with; whatever it is, it shows no secret and leaves nothing in staging."""
        before = await self.staging.entries()
        with pytest.raises(ModelError) as raised:
            await self.call(route, **changes)  # type: ignore[arg-type]
        assert SECRET not in repr(raised.value) + raised.value.message
        assert len(await self.staging.entries()) == len(before)
        return raised.value


@pytest.fixture
async def model() -> AsyncIterator[MisbehavingModel]:
    async with open_model() as model:
        yield model


@pytest.fixture
async def staging(tmp_path: Path) -> AsyncIterator[Staging]:
    async with open_staging(tmp_path / "staging", "local", max_file_bytes=2 * LIMIT, max_total_bytes=2**30) as staging:
        yield staging


@pytest.fixture
async def caller(model: MisbehavingModel, staging: Staging) -> AsyncIterator[Caller]:
    async with open_plain_http(EgressGuard(["127.0.0.0/8"]), LIMIT) as adapter:
        yield Caller(model, adapter, staging)


# what goes out


async def test_a_post_sends_the_payload_as_it_is_and_the_bindings_as_headers(caller: Caller) -> None:
    payload = b'{"n": 1.0, "n2":1e2 , "text":"\xc3\xa9"}'
    staged = await caller.call("echo/x", payload=payload, headers=(("X-API-Key", SECRET), ("operation", "true")))

    [seen] = caller.model.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/echo/x", payload)
    assert seen.header("content-type") == "application/json"
    assert seen.header("accept-encoding") == "identity"
    assert seen.header("x-api-key") == SECRET
    assert seen.header("operation") == "true"
    assert seen.header("cookie") is None
    assert await caller.staging.read(staged) == payload
    assert staged.sha256 == hashlib.sha256(payload).digest()


async def test_a_binding_replaces_what_we_would_have_sent(caller: Caller) -> None:
    await caller.call("ok", headers=(("content-type", "text/x-mine"), ("User-Agent", "other")))
    assert caller.model.seen[0].header("Content-Type") == "text/x-mine"
    assert caller.model.seen[0].header("User-Agent") == "other"


async def test_a_get_turns_the_payload_into_the_query(caller: Caller) -> None:
    await caller.call("echo?v=1", method="GET", payload=b'{"text":"a b&c","n":1.0,"deep":{"k":[1, 2]},"no":null}')
    [seen] = caller.model.seen
    assert (seen.method, seen.body) == ("GET", b"")
    assert seen.target == "/echo?v=1&text=a%20b%26c&n=1.0&deep=%7B%22k%22%3A%5B1%2C2%5D%7D"
    assert seen.header("content-type") is None


@pytest.mark.parametrize(("size", "beside"), [(1_000, False), (60_000, True)])
async def test_a_long_query_is_made_beside_the_loop(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, size: int, beside: bool
) -> None:
    """A megabyte of names took a third of a second in which all other calls stood still."""
    threads: list[int] = []

    def noted(url: str, payload: bytes) -> str:
        threads.append(threading.get_ident())
        return with_query(url, payload)

    monkeypatch.setattr(plain_http, "with_query", noted)
    await caller.refused("echo", method="GET", payload=b'["%b"]' % (b"x" * size))
    await caller.call("echo", method="GET", payload=b'{"a":"b","c":null%b}' % (b" " * size))
    assert [thread != threading.get_ident() for thread in threads] == [beside, beside]
    assert caller.model.seen[0].target == "/echo?a=b"


@pytest.mark.parametrize("size", [0, 1, 600_000, 3_000_000])
async def test_payloads_of_any_size_arrive_whole(caller: Caller, size: int) -> None:
    payload = b'"' + b"x" * size + b'"'
    await caller.call("ok", payload=payload)
    assert caller.model.seen[0].body == payload
    assert caller.model.seen[0].header("transfer-encoding") is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"headers": (("X-Key", "a\r\nEvil: b"),)}, "bad_bindings"),
        ({"headers": (("Host", "elsewhere"),)}, "bad_bindings"),
        ({"headers": (("X-Key", "\u4e2d"),)}, "bad_bindings"),
        ({"method": "GET", "payload": b"[1]"}, "bad_payload"),
        ({"method": "GET", "payload": b"\xff"}, "bad_payload"),
    ],
)
async def test_what_no_request_may_carry_never_leaves(caller: Caller, changes: dict[str, object], code: str) -> None:
    error = await caller.refused("ok", **changes)
    assert (error.code, error.retryable) == (code, False)
    assert caller.model.seen == []


# what comes back


async def test_an_answer_is_staged_with_hash_and_type(caller: Caller) -> None:
    staged = await caller.call("ok")
    assert (staged.file_type, staged.mime, staged.size) == ("png", "image/png", len(PNG))
    assert staged.sha256 == hashlib.sha256(PNG).digest()
    assert staged.content == PNG


async def test_the_bytes_decide_what_it_is_not_the_claim(caller: Caller) -> None:
    caller.model.answers["/lies"] = answer(b"<!doctype html><p>error</p>", Content_Type="image/png")
    assert (await caller.call("lies")).file_type == "html"


async def test_a_large_answer_goes_through_without_being_held(caller: Caller) -> None:
    body = bytes(range(256)) * 12_000
    caller.model.answers["/large"] = chunked(*(body[place : place + 65_536] for place in range(0, len(body), 65_536)))
    staged = await caller.call("large")
    assert (staged.size, staged.sha256) == (len(body), hashlib.sha256(body).digest())


async def test_connections_are_used_again(caller: Caller) -> None:
    for _ in range(3):
        await caller.call("ok")
    assert caller.model.connections == 1


async def test_what_a_kept_connection_says_unasked_is_no_answer(caller: Caller) -> None:
    """Load balancers send a 408 before they close an idle connection; the next task must not get that as its answer."""
    await caller.call("talkative")
    caller.model.speak_up.set()
    await until(lambda: caller.model.spoke_up)
    for _ in range(3):
        await asyncio.sleep(0)  # it is in the socket's buffer: the loop's next turn reads it
    staged = await caller.call("echo", payload=b"mine")
    assert await caller.staging.read(staged) == b"mine"
    assert caller.model.connections == 2


async def test_a_kept_connection_that_never_stops_talking_is_closed(caller: Caller) -> None:
    await caller.call("chatter")
    caller.model.speak_up.set()
    await until(lambda: caller.model.unasked)
    await caller.model.until_idle()
    assert caller.model.unasked < 5_000  # what lies in the buffers of two sockets, and no more
    assert (await caller.call("ok")).file_type == "png"


async def test_an_answer_longer_than_announced_is_cut_and_its_rest_forgotten(caller: Caller) -> None:
    caller.model.answers["/long"] = answer(b"right")[:-5] + b"right" + answer(b"wrong")
    assert await caller.staging.read(await caller.call("long")) == b"right"
    assert await caller.staging.read(await caller.call("echo", payload=b"mine")) == b"mine"
    assert caller.model.connections == 2


async def test_cookies_are_not_kept(caller: Caller) -> None:
    caller.model.url = caller.model.url.replace("127.0.0.1", "localhost")  # cookie jars keep none of bare addresses
    caller.model.answers["/cookie"] = answer(b"x", Set_Cookie="session=1; Path=/")
    await caller.call("cookie")
    await caller.call("ok")
    assert caller.model.seen[1].header("cookie") is None


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(PNG, mtime=0)),
        ("x-gzip", gzip.compress(PNG[:20], mtime=0) + gzip.compress(PNG[20:], mtime=0) + bytes(7)),
        ("deflate", zlib.compress(PNG)),
        ("deflate", bare_deflate(PNG)),
        ("identity", PNG),
        ("utf-8", PNG),
        ("aws-chunked", PNG),
    ],
)
async def test_an_answer_compressed_unasked_is_unpacked(caller: Caller, encoding: str, packed: bytes) -> None:
    caller.model.answers["/packed"] = answer(packed, Content_Encoding=encoding)
    staged = await caller.call("packed")
    assert await caller.staging.read(staged) == PNG


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("br", b"whatever"),
        ("zstd", b"whatever"),
        ("gzip, gzip", gzip.compress(gzip.compress(PNG, mtime=0), mtime=0)),
        ("gzip", b"not gzip at all"),
        ("gzip", gzip.compress(PNG, mtime=0)[:-6]),
        ("gzip", gzip.compress(PNG, mtime=0) + b"more"),
        ("deflate", zlib.compress(PNG) + b"more"),
        ("deflate", zlib.compress(PNG)[:-6]),
    ],
)
async def test_an_answer_that_cannot_be_unpacked_is_final(caller: Caller, encoding: str, packed: bytes) -> None:
    caller.model.answers["/packed"] = answer(packed, Content_Encoding=encoding)
    error = await caller.refused("packed")
    assert (error.code, error.retryable) == ("bad_answer", False)


async def test_a_gzip_bomb_is_stopped_at_the_cap(caller: Caller) -> None:
    caller.model.answers["/bomb"] = answer(gzip_bomb(50), Content_Encoding="gzip")
    error = await caller.refused("bomb")
    assert (error.code, error.retryable) == ("answer_too_large", False)
    assert f"larger than {LIMIT} bytes" in error.message


@pytest.mark.parametrize("route", ["flood", "announced"])
async def test_an_answer_over_the_cap_is_not_taken(caller: Caller, route: str) -> None:
    caller.model.answers["/announced"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\n"
    error = await caller.refused(route)
    assert (error.code, error.retryable) == ("answer_too_large", False)
    assert f"larger than {LIMIT} bytes" in error.message
    await caller.model.until_idle()


@pytest.mark.parametrize("raw", [answer(), answer(status="204 No Content"), chunked()])
async def test_an_answer_without_content_is_no_output(caller: Caller, raw: bytes) -> None:
    caller.model.answers["/empty"] = raw
    error = await caller.refused("empty")
    assert (error.code, error.retryable) == ("empty_output", False)


# how it fails


@pytest.mark.parametrize("route", ["hang", "drip", "drip-head", "interim-flood"])
async def test_one_deadline_covers_everything(caller: Caller, route: str) -> None:
    before = asyncio.get_running_loop().time()
    error = await caller.refused(route, seconds=0.3)
    assert (error.code, error.retryable) == ("model_timeout", True)
    assert asyncio.get_running_loop().time() - before < 2
    await caller.model.until_idle()


async def test_an_earlier_deadline_wins_over_the_timeout(caller: Caller) -> None:
    error = await caller.refused("hang", seconds=60, deadline=asyncio.get_running_loop().time() + 0.2)
    assert error.code == "model_timeout"


@pytest.mark.parametrize("route", ["reset", "close", "reset-inside", "chunk-cut"])
async def test_a_broken_connection_may_be_tried_later_and_is_not_tried_by_us(caller: Caller, route: str) -> None:
    for method in ("POST", "GET"):
        error = await caller.refused(route, method=method, payload=b"{}")
        assert (error.code, error.retryable) == ("model_unreachable", True)
    assert len(caller.model.seen) == 2


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_kept_connection_that_breaks_is_no_reason_to_send_again(caller: Caller, method: str) -> None:
    """A model may have taken the request before the connection broke: a second one would be paid twice."""
    caller.model.closes_kept_connections = True
    await caller.call("ok", method=method, payload=b"{}")
    error = await caller.refused("ok", method=method, payload=b"{}")
    assert (error.code, error.retryable) == ("model_unreachable", True)
    assert [seen.connection for seen in caller.model.seen] == [1, 1]


async def test_a_port_where_nobody_listens(caller: Caller, unused_tcp_port: int) -> None:
    caller.model.url = f"http://127.0.0.1:{unused_tcp_port}"
    error = await caller.refused("ok")
    assert (error.code, error.retryable) == ("model_unreachable", True)
    assert error.message == f"http://127.0.0.1:{unused_tcp_port}: connection refused"


async def test_a_name_that_does_not_resolve(caller: Caller) -> None:
    caller.model.url = "http://nowhere.invalid"
    error = await caller.refused("ok")
    assert (error.code, error.retryable) == ("model_unreachable", True)


async def test_a_server_without_tls_behind_https(caller: Caller) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready when you are\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        caller.model.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = await caller.refused("ok")
    assert (error.code, error.retryable) == ("model_unreachable", True)


@pytest.mark.parametrize("route", ["many-headers", "long-header", "raw"])
async def test_what_is_no_proper_http_is_final(caller: Caller, route: str) -> None:
    error = await caller.refused(route)
    assert (error.code, error.retryable) == ("bad_answer", False)
    await caller.model.until_idle()


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *((status, True) for status in (408, 409, 425, 429, 500, 503, 599)),
        *((status, False) for status in (300, 304, 400, 401, 404, 422, 600, 999)),
    ],
)
async def test_a_status_says_whether_trying_again_makes_sense(caller: Caller, status: int, retryable: bool) -> None:
    caller.model.answers["/status"] = answer(b"reason" if status >= 400 else b"", f"{status} Whatever")
    error = await caller.refused("status")
    assert (error.code, error.retryable) == (f"model_http_{status}", retryable)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7), ("0", 0), ("99999999999999999999", 86_400), ("-3", None), ("soon", None), ("", None), ("1.5", None)],
)
async def test_retry_after_in_seconds(caller: Caller, value: str, expected: float | None) -> None:
    caller.model.answers["/busy"] = answer(b"", "429 Too Many", Retry_After=value)
    assert (await caller.refused("busy")).retry_after == expected


async def test_retry_after_as_a_date_counts_from_the_answers_own_date(caller: Caller) -> None:
    theirs = datetime(2031, 5, 1, 12, 0, tzinfo=UTC)  # their clock is years ahead
    caller.model.answers["/busy"] = answer(
        b"",
        "503 Busy",
        Date=format_datetime(theirs, usegmt=True),
        Retry_After=format_datetime(theirs + timedelta(seconds=90), usegmt=True),
    )
    assert (await caller.refused("busy")).retry_after == 90


async def test_the_reason_is_shown_without_secrets_and_control_characters(caller: Caller) -> None:
    text = f"no\x00\x1b[31m\r\n key {SECRET} or token-abcdef in \u00fcbel " + "x" * 1_000
    caller.model.answers["/no"] = answer(text.encode(), "401 No")
    error = await caller.refused("no", headers=(("X-API-Key", SECRET), ("Authorization", "Bearer token-abcdef")))
    assert error.message.startswith("the model answered 401: no [31m  key *** or *** in \u00fcbel xxx")
    assert len(error.message) < 540


@pytest.mark.parametrize("place", [0, 490, 499, 2_600, 10_560])
async def test_a_secret_at_any_place_of_a_reason_is_masked_whole(caller: Caller, place: int) -> None:
    """Masking shortens the text: what was cut off further behind must not move into sight."""
    long_secret = "k" + SECRET * 100
    text = (long_secret * 6)[: place % 11] + "." * (place % 500) + long_secret * 8
    caller.model.answers["/no"] = answer(text.encode(), "500 No")
    error = await caller.refused("no", headers=(("X-API-Key", long_secret),))
    assert "canary" not in error.message


async def test_a_refusal_whose_text_never_ends_is_a_refusal(caller: Caller) -> None:
    error = await caller.refused("drip-error", seconds=0.4)
    assert (error.code, error.message) == ("model_http_503", "the model answered 503: busy")


@pytest.mark.parametrize("others", [(), ("::1",), ("::1", "::1")], ids=["alone", "with another", "before another"])
async def test_a_host_without_a_port_for_that_address_has_called_nobody(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, others: tuple[str, ...]
) -> None:
    """Two connections from one port to one address: what a host says, too, whose ports all lead there. What another
    address of that name says, by which nobody answers, is nothing of it."""
    model = urlsplit(caller.model.url)
    assert model.port is not None
    addresses = [(socket.AF_INET, ("127.0.0.1", model.port))]
    addresses += [(socket.AF_INET6, (other, model.port)) for other in others]
    known = Future[Any]()
    known.set_result([(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses])
    monkeypatch.setattr(names, "ask", lambda *_, **__: known)
    caller.model.url = f"http://model.example:{model.port}"
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.connect((model.hostname, model.port))
        made = GuardedConnector._socket

        def from_the_same_port(connector: GuardedConnector, address: Any) -> socket.socket:
            one = made(connector, address)
            if one.family == socket.AF_INET:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(other.getsockname())
            return one

        monkeypatch.setattr(GuardedConnector, "_socket", from_the_same_port)
        async with open_plain_http(EgressGuard(["127.0.0.0/8", "::1/128"]), LIMIT) as adapter:
            error = await Caller(caller.model, adapter, caller.staging).refused("ok")
    assert isinstance(error, OutOfPorts)
    assert not error.sent
    assert caller.model.seen == []


async def test_a_refusal_before_the_body_was_read(caller: Caller) -> None:
    error = await caller.refused("early", payload=b"x" * 400_000)
    assert error.code in ("model_http_413", "model_unreachable")  # whichever the kernel delivers first


# redirects


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("location", ["/ok/moved?q=1#part", "../ok/moved?q=1", "{url}/ok/moved?q=1"])
async def test_same_origin_307_and_308_are_followed_with_the_body(caller: Caller, status: int, location: str) -> None:
    caller.model.answers["/a/b"] = answer(b"", f"{status} Moved", Location=location.format(url=caller.model.url))
    staged = await caller.call("a/b", payload=b'{"big":1}')
    assert staged.size == len(PNG)
    assert [(seen.method, seen.target, seen.body) for seen in caller.model.seen] == [
        ("POST", "/a/b", b'{"big":1}'),
        ("POST", "/ok/moved?q=1", b'{"big":1}'),
    ]
    assert caller.model.seen[1].header("x-api-key") == SECRET


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirect_that_would_change_the_method_is_final(caller: Caller, status: int) -> None:
    caller.model.answers["/a"] = answer(b"", f"{status} Moved", Location="/ok?token=hidden")
    error = await caller.refused("a")
    assert (error.code, error.retryable) == ("redirect_refused", False)
    assert f"{caller.model.url}/ok" in error.message
    assert "hidden" not in error.message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("http://169.254.169.254/latest/meta-data?x=1", "http://169.254.169.254/latest/meta-data"),
        ("//evil.example/x", "http://evil.example/x"),
        ("https://127.0.0.1/x", "https://127.0.0.1/x"),
        ("file:///etc/passwd", "no readable address"),
        ("http://user:pw@127.0.0.1/", "no readable address"),
        ("http://[", "no readable address"),
        (f"http://other.example/login/{SECRET}", "http://other.example/login/***"),
        ("http://other.example/" + SECRET.replace("-", "%2D"), "http://other.example/***"),
    ],
)
async def test_a_redirect_to_another_origin_is_final_and_named(
    caller: Caller, status: int, location: str, named: str
) -> None:
    caller.model.answers["/a"] = answer(b"", f"{status} Moved", Location=location)
    error = await caller.refused("a")
    assert (error.code, error.retryable) == ("redirect_refused", False)
    assert named in error.message
    assert len(caller.model.seen) == 1


async def test_a_redirect_without_a_target_and_a_circle(caller: Caller) -> None:
    caller.model.answers["/nowhere"] = answer(b"", "307 Moved")
    caller.model.answers["/circle"] = answer(b"", "307 Moved", Location="/circle?token=hidden")
    nowhere, circle = await caller.refused("nowhere"), await caller.refused("circle")
    assert (nowhere.code, circle.code) == ("redirect_refused", "redirect_refused")
    assert "(307) to no readable address" in nowhere.message
    assert f"to {caller.model.url}/circle, not followed" in circle.message
    assert [seen.target for seen in caller.model.seen].count("/circle?token=hidden") == 5


# when it is given up


async def test_a_cancelled_call_closes_its_connection_and_leaves_nothing(caller: Caller) -> None:
    calling = asyncio.ensure_future(caller.call("flood", seconds=60))
    await until(lambda: caller.model.seen)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    await caller.model.until_idle()
    assert await caller.staging.entries() == []


async def test_what_fails_before_a_connection_is_there_was_never_sent(caller: Caller) -> None:
    """Those calls are not counted in the statistics."""
    await caller.refused("x", headers=(("Bad name", "x"),))
    await caller.refused("x", method="GET", payload=b"[1]")
    here = caller.model.url
    for address in (
        f"http://127.0.0.1:{_closed_port()}",
        "http://nobody.invalid",
        "http://169.254.169.254",
        "no address",
    ):
        caller.model.url = address
        await caller.refused("x")
    assert caller.sends == 0
    caller.model.url = here
    await caller.call("ok")
    assert caller.sends == 1


async def test_a_time_out_while_connecting_was_never_sent(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        crowd = [socket.socket() for _ in range(8)]
        for one in crowd:  # fill the queue of those who wait to be accepted
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        caller.model.url = f"http://127.0.0.1:{port}"
        assert (await caller.refused("x", seconds=0.3)).code == "model_timeout"
        for one in crowd:
            one.close()
    assert caller.sends == 0


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
