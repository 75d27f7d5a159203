"""What strangers send: never a 500, always a problem, never half a task."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from libs.common.runtime import failpoints
from services.api import bodies, serving
from services.api.app import rest_app
from tests.support.api import Tenant, running_api

pytestmark = pytest.mark.asyncio(loop_scope="package")

MEGABYTE = 2**20


def assert_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert set(problem) == {"type", "title", "status", "code", "detail", "errors", "trace_id"}
    assert (problem["type"], problem["status"]) == (f"urn:sluiceway:problem:{problem['code']}", status)
    assert problem["code"] == code
    assert len(problem["trace_id"]) == 32
    return problem


async def send(tenant: Tenant, content: Any, path: str = "/v1/tasks", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await tenant.call("POST", path, content=content, headers={"Content-Type": "application/json", **named})


async def raw(tenant: Tenant) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = tenant.api.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


def head(tenant: Tenant, *headers: str) -> bytes:
    lines = ["POST /v1/tasks HTTP/1.1", "Host: h", f"Authorization: Bearer {tenant.key}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"\xff", b'{"model":"m","payload":NaN}', b'{"model":"m","model":"m"}',
     b'{"model":"m","payload":{"a":1,"a":2}}', b"[" * 500_000,
     b'{"model":"m","payload":' + b"[" * 1_000 + b"]" * 1_000 + b"}", b'{"model":"m","payload":"\\ud800"}',
     b'{"model":"m"', b"{'model':'m'}", b'{"model":"m","payload":1e}'],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks/batch", "/v1/models", "/v1/tasks/read"])
async def test_what_is_no_strict_json(tenant: Tenant, body: bytes, path: str) -> None:
    answer = await send(tenant, body, path)
    code = "invalid" if body == b"" and path in ("/v1/models", "/v1/tasks/read") else "bad_json"
    assert_problem(answer, 400, code)
    assert not await tenant.stored()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""), ("m", ""), (5, ""), (None, ""), ({}, "/model"), ({"model": None}, "/model"), ({"model": 5}, "/model"),
        ({"model": ""}, "/model"), ({"model": "x" * 129}, "/model"), ({"model": "m\x00"}, "/model"),
        ({"model": "m", "biz_name": "a\x00b"}, "/biz_name"), ({"model": "m", "biz_name": None}, "/biz_name"),
        ({"model": "m", "biz_name": "x" * 513}, "/biz_name"), ({"model": "m", "input_ref": ["x"]}, "/input_ref"),
        ({"model": "m", "input_ref": "\x00"}, "/input_ref"), ({"model": "m", "priority": "1"}, "/priority"),
        ({"model": "m", "priority": 1.5}, "/priority"), ({"model": "m", "priority": 32_768}, "/priority"),
        ({"model": "m", "priority": 2**63}, "/priority"), ({"model": "m", "priority": True}, "/priority"),
        ({"model": "m", "not_before": "2026-02-30T00:00:00Z"}, "/not_before"),
        ({"model": "m", "not_before": "2026-02-03T00:00:00"}, "/not_before"),
        ({"model": "m", "not_before": 1_700_000_000}, "/not_before"),
        ({"model": "m", "not_before": "soon"}, "/not_before"),
        ({"model": "m", "not_before": "1700000000"}, "/not_before"),
        ({"model": "m", "not_before": "9999-12-31T23:59:59Z"}, "/not_before"),
        ({"model": "m", "not_before": "0001-01-01T00:00:00+14:00"}, "/not_before"),
        ({"model": "m", "a/b~c": 1}, "/a~1b~0c"), ({"model": "m", "tenant_id": 1}, "/tenant_id"),
        ({"model": "m", "start_by": "2030-01-01T00:00:00Z"}, "/start_by"),
    ],
    ids=repr,
)  # fmt: skip
async def test_what_breaks_a_rule_is_pointed_at(tenant: Tenant, body: Any, pointer: str) -> None:
    problem = assert_problem(await send(tenant, json.dumps(body)), 400, "invalid")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    batch = await send(tenant, json.dumps({"tasks": [body]}), "/v1/tasks/batch")
    assert batch.status_code == 207
    (item,) = batch.json()["items"]
    assert item["problem"]["errors"][0]["pointer"] == f"/tasks/0{pointer}"
    assert not await tenant.stored()


async def test_the_first_instant_of_the_calendar_is_one_that_has_passed(tenant: Tenant) -> None:
    # Clients that know no "unset" send it.
    assert (await tenant.submit(not_before="0001-01-01T00:00:00Z")).json()["status"] == "submitted"


async def test_a_surprise_is_a_problem_that_names_its_trace(tenant: Tenant) -> None:
    task = await tenant.task()
    failpoints.arm("api/before-cancel:1:raise")
    try:
        answer = await tenant.call("POST", f"/v1/tasks/{task}/cancel")
    finally:
        failpoints.arm("")
    assert_problem(answer, 500, "internal")


async def test_nul_and_odd_characters_in_a_payload_are_fine(tenant: Tenant) -> None:
    raw = '{"a\\u0000":"\\u0000\u202e"}'.encode()
    assert (await send(tenant, b'{"model":"m","payload":' + raw + b"}")).status_code == 202
    (row,) = await tenant.stored()
    assert row["payload"] == raw


class TestSize:
    async def test_a_payload_of_the_limit_passes_and_one_byte_more_does_not(self, tenant: Tenant) -> None:
        text = b'"' + b"x" * (MEGABYTE - 2) + b'"'
        assert (await send(tenant, b'{"model":"m","payload":' + text + b"}")).status_code == 202
        over = await send(tenant, b'{"model":"m","payload":"x' + text[1:] + b"}")
        assert_problem(over, 413, "payload_too_large")
        assert len(await tenant.stored()) == 1

    async def test_a_body_over_the_limit_is_refused_before_it_is_read(self, tenant: Tenant) -> None:
        body = b'{"model":"m","payload":1}' + b" " * (2 * MEGABYTE)
        assert_problem(await send(tenant, body), 413, "body_too_large")

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/v1/models"), ("PATCH", "/v1/models/m"), ("POST", "/v1/tasks/read"), ("POST", "/v1/webhooks")],
    )
    async def test_what_takes_no_payload_takes_no_large_body(self, tenant: Tenant, method: str, path: str) -> None:
        """A megabyte of little values is read in half a second, in which nobody else is answered."""
        body = b'{"ids":[%s]}' % b",".join([b"[[[[]]]]"] * 60_000)
        assert_problem(await tenant.call(method, path, content=body), 413, "body_too_large")

    async def test_a_model_may_have_all_the_configuration_that_there_is(self, tenant: Tenant) -> None:
        config = {"headers": {"X": "\N{BLACK STAR}" * 65_000}}
        body = {"name": "n", "base_url": "http://127.0.0.1:9", "adapter": "replicate", "adapter_config": config}
        answer = await tenant.call("POST", "/v1/models", content=json.dumps(body))
        assert answer.status_code != 413

    async def test_large_bodies_fill_no_memory_and_no_tenant_has_all_the_room(
        self, stores: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.api.app._LARGE_AT_ONCE", 2)
        batch = json.dumps({"tasks": [{"model": "m", "payload": "x" * 900_000}] * 2})
        async with running_api(*stores) as api:
            tenant, other = await api.tenant(), await api.tenant()
            for one in (tenant, other):
                await one.model("m")
            _, writer = await raw(tenant)
            length = f"Content-Length: {len(batch)}"
            writer.write(head(tenant, length).replace(b"/v1/tasks", b"/v1/tasks/batch") + batch[:1_000_000].encode())
            await writer.drain()
            await asyncio.sleep(0.5)
            waiting = asyncio.create_task(tenant.call("POST", "/v1/tasks/batch", content=batch))
            assert (await other.call("POST", "/v1/tasks/batch", content=batch)).status_code == 202
            await asyncio.wait([waiting], timeout=1)
            assert not waiting.done()
            assert (await tenant.submit()).status_code == 202
            writer.close()
            assert (await waiting).status_code == 202
            assert (await tenant.call("POST", "/v1/tasks/batch", content=batch)).status_code == 202

    async def test_nor_is_a_chunked_one_read_to_its_end(self, tenant: Tenant) -> None:
        reader, writer = await raw(tenant)
        writer.write(head(tenant, "Transfer-Encoding: chunked"))
        sent = 0
        with suppress(ConnectionError):
            while not reader.at_eof() and sent < 40 * MEGABYTE:
                writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
                await writer.drain()
                sent += 65_536
        assert sent < 10 * MEGABYTE
        writer.close()

    async def test_a_chunked_body_of_a_fair_size_is_read(self, tenant: Tenant) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for part in (b'{"model":', b'"m","pay', b'load":[1.0', b"]}"):
                yield part
                await asyncio.sleep(0)

        assert (await send(tenant, chunks())).status_code == 202
        assert [row["payload"] for row in await tenant.stored()] == [b"[1.0]"]

    async def test_a_large_batch_passes(self, tenant: Tenant) -> None:
        tasks = [{"model": "m", "payload": "x" * 500_000} for _ in range(20)]
        answer = await send(tenant, json.dumps({"tasks": tasks}), "/v1/tasks/batch")
        assert answer.status_code == 202

    @pytest.mark.parametrize("sent", [b'{"model":', b""])
    async def test_a_body_that_drips_or_does_not_come_is_given_up(
        self, tenant: Tenant, monkeypatch: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
        reader, writer = await raw(tenant)
        writer.write(head(tenant, "Content-Length: 100") + sent)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"slow_body" in answer
        writer.close()

    async def test_a_body_that_comes_behind_its_head_is_read(self, tenant: Tenant) -> None:
        reader, writer = await raw(tenant)
        body = b'{"model":"m"}'
        writer.write(head(tenant, f"Content-Length: {len(body)}"))
        for part in (body[:5], body[5:]):
            await asyncio.sleep(0.05)
            writer.write(part)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 202 ")
        writer.close()


class TestHttp:
    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            ("application/json; charset=utf-8", 202), ("APPLICATION/JSON", 202), ("application/vnd.x+json", 202),
            ("text/plain", 415), ("application/x-www-form-urlencoded", 415), ("multipart/form-data; boundary=x", 415),
            ("application/jsonp", 415), (";", 415),
        ],
    )  # fmt: skip
    async def test_content_types(self, tenant: Tenant, kind: str, status: int) -> None:
        answer = await tenant.call("POST", "/v1/tasks", content=b'{"model":"m"}', headers={"Content-Type": kind})
        assert answer.status_code == status
        if status == 415:
            assert_problem(answer, 415, "unsupported_media_type")

    async def test_a_body_without_a_type_is_taken_for_json(self, tenant: Tenant) -> None:
        answer = await tenant.call("POST", "/v1/tasks", content=b'{"model":"m"}')
        assert answer.status_code == 202
        answer = await tenant.call("POST", "/v1/models", content=b'{"name":"n","base_url":"http://127.0.0.1"}')
        assert answer.status_code == 201

    async def test_compressed_bodies_are_refused(self, tenant: Tenant) -> None:
        answer = await send(tenant, b"\x1f\x8b", Content_Encoding="gzip")
        assert_problem(answer, 415, "unsupported_media_type")

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("PUT", "/v1/tasks"), ("DELETE", "/v1/tasks"), ("HEAD", "/v1/tasks/batch"), ("TRACE", "/v1/tasks"),
            ("OPTIONS", "/v1/models"), ("POST", "/v1/models/m"), ("PUT", "/v1/models/m"), ("PATCH", "/v1/tasks/batch"),
        ],
    )  # fmt: skip
    async def test_methods_that_are_not_offered(self, tenant: Tenant, method: str, path: str) -> None:
        answer = await tenant.call(method, path)
        assert answer.status_code == 405
        described = rest_app().openapi()["paths"]["/v1/models/{name}" if path == "/v1/models/m" else path]
        offered = {name.upper() for name in described} | ({"HEAD"} if "get" in described else set())
        assert answer.headers["allow"] == ", ".join(sorted(offered))
        assert answer.headers["content-type"] == "application/problem+json"
        if method != "HEAD":
            assert_problem(answer, 405, "method_not_allowed")
            assert answer.json()["detail"] == f"This route takes {answer.headers['allow']}."

    @pytest.mark.parametrize(
        "path",
        ["/v1/", "/v1/nothing", "/v1/tasks/", "/v1//tasks", "/v1/%2e%2e/tasks", "/v1/tasks%00", "/v1/tasks/a/b/c"],
    )
    async def test_paths_that_lead_nowhere(self, tenant: Tenant, path: str) -> None:
        answer = await tenant.call("GET", path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        if path != "/v1/tasks%00":
            assert "/docs" in answer.json()["detail"], "who has the wrong address is told where the right ones are"

    async def test_the_trace_of_the_caller_is_in_the_problem(self, tenant: Tenant) -> None:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        for path in ("/v1/nothing", "/v1/tasks/x", "/nothing"):
            answer = await tenant.call("GET", path, headers={"traceparent": trace})
            assert answer.json()["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"

    @pytest.mark.parametrize(
        "sent",
        [
            b"GET /v1/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/tasks HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /v1/tasks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /v1/tasks HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01",
        ],
        ids=lambda sent: repr(sent[:30]),
    )
    async def test_broken_http_hurts_nobody(self, tenant: Tenant, sent: bytes) -> None:
        reader, writer = await raw(tenant)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(200), 5)
        writer.close()
        assert b" 500 " not in answer
        assert (await tenant.submit()).status_code == 202

    @pytest.mark.parametrize("pause", [0, 0.05])
    async def test_who_offers_another_protocol_is_heard_to_the_end(self, tenant: Tenant, pause: float) -> None:
        # Java's HttpClient does so with its first request on every connection.
        offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAAB")
        payload = b'{"a":   "GET /v1/tasks HTTP/1.1"}'
        body = b'{"model":"m","payload":%s}' % payload
        reader, writer = await raw(tenant)
        for _ in range(2):
            for part in (head(tenant, *offer, f"Content-Length: {len(body)}"), body):
                writer.write(part)
                await asyncio.sleep(pause)
            answer = await asyncio.wait_for(reader.readuntil(b"}"), 5)
            assert answer.startswith(b"HTTP/1.1 202 ")
        writer.close()
        assert [row["payload"] for row in await tenant.stored()] == [payload] * 2

    async def test_any_number_of_offers_is_declined(self, tenant: Tenant) -> None:
        reader, writer = await raw(tenant)
        writer.write(b"GET /v1/tasks HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" * 1_000)
        async with asyncio.timeout(20):
            for _ in range(1_000):
                assert (await reader.readuntil(b'"}')).startswith(b"HTTP/1.1 401 ")
        writer.close()

    async def test_no_tunnel_is_dug(self, tenant: Tenant) -> None:
        reader, writer = await raw(tenant)
        writer.write(b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 400 ")
        writer.close()

    async def test_a_head_without_end_is_given_up(self, tenant: Tenant) -> None:
        reader, writer = await raw(tenant)
        writer.write(b"GET /v1/tasks HTTP/1.1\r\nHost: h\r\nX: ")
        sent = 0
        with suppress(ConnectionError):
            while not reader.at_eof() and sent < 40 * MEGABYTE:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
        assert sent < 10 * MEGABYTE
        writer.close()

    async def test_a_head_that_drips_is_given_up(self, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "HEAD_SECONDS", 0.3)
        reader, writer = await raw(tenant)
        for _ in range(2):
            writer.write(b"GET /v1/tasks HTTP/1.1\r\nHost: h\r\n")
            await asyncio.sleep(0.1)
            writer.write(b"\r\n")
            assert (await reader.readuntil(b'"}')).startswith(b"HTTP/1.1 401 ")
        with suppress(ConnectionError):
            async with asyncio.timeout(5):
                while not writer.transport.is_closing():
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.02)
        writer.close()

    @pytest.mark.parametrize(
        "said",
        [
            b"",
            b"\r\n",
            b"GET /livez HTTP/1.1\r\nHost: h\r\n\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{",
        ],
        ids=["nothing", "a line's end", "a line's end behind a request", "a body that was not waited for"],
    )
    async def test_who_connects_and_says_nothing_more_is_hung_up_on(
        self, stores: tuple[str, str], monkeypatch: pytest.MonkeyPatch, said: bytes
    ) -> None:
        monkeypatch.setattr(serving, "_KEEP_ALIVE_SECONDS", 0.3)
        async with running_api(*stores) as api:
            reader, writer = await asyncio.open_connection(*api.url.removeprefix("http://").split(":"))
            writer.write(said)
            await asyncio.sleep(0.1)
            writer.write(said[-1:])  # of a body, or a line's end
            await asyncio.wait_for(reader.read(), 5)
            writer.close()

    async def test_trailers_without_end_are_given_up(self, tenant: Tenant) -> None:
        _, writer = await raw(tenant)
        writer.write(b"POST /v1/tasks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ")
        sent = 0
        with suppress(ConnectionError):
            while sent < 40 * MEGABYTE:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
        assert sent < 10 * MEGABYTE
        writer.close()

    async def test_trailers_are_no_headers(self, tenant: Tenant) -> None:
        reader, writer = await raw(tenant)
        begin = b"POST /v1/tasks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(begin + b'd\r\n{"model":"m"}\r\n0\r\n' + f"Authorization: Bearer {tenant.key}\r\n\r\n".encode())
        assert (await reader.readuntil(b'"}')).startswith(b"HTTP/1.1 401 ")
        writer.close()
        assert await tenant.stored() == []

    async def test_half_a_head_behind_a_request_is_not_its_answer(
        self, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serving, "HEAD_SECONDS", 0.2)
        location = (await tenant.submit()).headers["Location"]
        reader, writer = await raw(tenant)
        lines = [f"GET {location} HTTP/1.1", "Host: h", f"Authorization: Bearer {tenant.key}", "Prefer: wait=1", "", ""]
        writer.write("\r\n".join(lines).encode() + b"GET /livez HTT")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 400 " in await asyncio.wait_for(reader.read(), 5)
        writer.close()

    async def test_rubbish_behind_a_create_is_not_its_answer(self, tenant: Tenant) -> None:
        body = b'{"model":"m"}'
        reader, writer = await raw(tenant)
        writer.write(head(tenant, f"Content-Length: {len(body)}") + body + b"   ")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert b"HTTP/1.1 400 " not in answer
        assert len(await tenant.stored()) == 1

    async def test_who_goes_on_with_rubbish_is_hung_up_on(self, tenant: Tenant) -> None:
        lines = ["GET /v1/events HTTP/1.1", "Host: h", f"Authorization: Bearer {tenant.key}", "", ""]
        reader, writer = await raw(tenant)
        writer.write("\r\n".join(lines).encode())
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).startswith(b"HTTP/1.1 200 ")
        sent = 0
        with suppress(ConnectionError):
            while sent < 40 * MEGABYTE:
                writer.write(b" " * 65_536)
                await writer.drain()
                sent += 65_536
        assert sent < 10 * MEGABYTE
        writer.close()

    async def test_rubbish_in_a_body_is_a_bad_request(self, tenant: Tenant) -> None:
        reader, writer = await raw(tenant)
        writer.write(head(tenant, "Transfer-Encoding: chunked") + b"zz\r\n")
        assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
        writer.close()
        assert await tenant.stored() == []

    async def test_a_large_head_is_read(self, tenant: Tenant) -> None:
        answer = await tenant.call("GET", "/v1/tasks", headers={f"X-{n}": "x" * 8_000 for n in range(16)})
        assert answer.status_code == 200

    async def test_who_leaves_in_the_middle_of_the_body_creates_nothing(self, tenant: Tenant) -> None:
        _, writer = await raw(tenant)
        writer.write(head(tenant, "Content-Length: 100") + b'{"model":"m"}')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await tenant.submit()).status_code == 202
        assert len(await tenant.stored()) == 1
