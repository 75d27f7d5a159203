"""What strangers send to the old routes: always the envelope, never a 500, never half a task."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from services.api import bodies
from services.api.legacy.envelope import CODES
from services.api.openapi import document
from tests.support.api import Tenant

pytestmark = pytest.mark.asyncio(loop_scope="package")

MEGABYTE = 2**20
ROUTES = [
    (method.upper(), path)
    for path, operations in document()["paths"].items()
    if not path.startswith("/v1/")
    for method in operations
]
BODIES = [
    b"hello", b"\xff", b"[" * MEGABYTE, b'{"a":' + b"[" * 1_000 + b"]" * 1_000 + b"}", b"[]", b"5", b"null",
    b'{"modelName":"m","modelName":"m"}', b'{"modelName":"m","model_name":"n"}', b'{"id":NaN}', b'{"id":1',
    b'{"modelName":"\\ud800"}', b'{"taskId":"\\udfff"}', b'{"id":' + b"9" * 5_000 + b"}",
]  # fmt: skip
#: One field of each route that is wrong.
FIELDS: dict[tuple[str, str], Sequence[dict[str, Any]]] = {
    ("POST", "/model/createModel"): [
        *[{"modelName": name} for name in ("", " ", "x" * 300, "a\x00", "a\nb", ["m"], True, None)],
        *[{"baseUrl": url} for url in (
            "", "model", "file:///etc/passwd", "gopher://x", "http://u:p@x", "http://x#y", "http://", "http://x:0",
            "http://10.0.0.1", "http://0x0a000001", "http://169.254.169.254", "http://[::ffff:10.0.0.1]",
            "http://metadata.google.internal", "http://x y", "x" * 5_000, 5, ["http://127.0.0.1"], "http://a\x00b",
        )],
        *[{"route": route} for route in ("/\\x", "a b", "x" * 5_000, "/?\x00", {})],
        {"baseUrl": "http://127.0.0.1?a=b", "route": "@evil"}, {"httpMethod": "DELETE"}, {"httpMethod": ["GET"]},
        *[{"apiKey": key} for key in (
            'A:"b', "Host:x", "Content-Length:1", "Transfer-Encoding:x", "a b:c", "A:b,A:c", "A:\u4e2d", "A:b\r\nC:d",
            ",".join(f"H{n}:v" for n in range(100)), "A:" + "x" * 20_000, ["A:b"], True,
        )],
        *[{"enabled": flag} for flag in (2, -1, "yes", [], 0.5)],
        *[{name: value}
          for name in ("maxConcurrency", "queueLimit", "timeoutSeconds", "retryTimes", "autoCleanSeconds", "price")
          for value in (1.5, "x", True, [1], {}, 2**31, 2**63, 2**64, "1e3", "9" * 400)],
        {"timeoutSeconds": 10**9}, {"retryTimes": 40_000}, {"adapter": "nobody"}, {"adapter": 5.5},
        {"adapterConfig": []}, {"adapterConfig": "{"}, {"adapterConfig": {"a": "x" * 70_000}}, {"remark": "x" * 20_000},
        {"remark": "\x00"},
    ],
    ("POST", "/task/createTask"): [
        *[{"modelName": name} for name in ("", None, "x" * 300, "m\x00", ["m"], {"a": 1}, True)],
        {"bizName": "x" * 600}, {"bizName": "\x00"}, {"bizName": []}, {"inputRef": "x" * 9_000}, {"inputRef": {}},
    ],
    ("GET", "/task/getTaskResult"): [{}, {"taskId": ""}, {"taskId": "x" * 100}, {"taskId": "\x00"}, {"taskId": []}],
    ("POST", "/task/getTaskBatch"): [
        {}, {"taskIds": None}, {"taskIds": 5}, {"taskIds": {}}, {"taskIds": [None]}, {"taskIds": [["x"]]},
        {"taskIds": "[1"}, {"taskIds": ["x"] * 1_001},
    ],
    ("POST", "/task/listTask"): [
        {"page": 5}, {"page": []}, {"page": "{"}, {"page": {"pageNum": "x"}}, {"page": {"pageNum": 2**63}},
        {"page": {"pageSize": 1.5}}, {"pageNum": "x"}, {"state": 6}, {"state": -1}, {"state": "x"}, {"state": 2**63},
        {"taskId": "x" * 65}, {"modelName": "\x00"}, {"taskId": "\x00"}, {"modelName": []},
    ],
    ("POST", "/model/listModel"): [{"page": "x"}, {"modelName": "\x00"}, {"modelName": "x" * 129}, {"modelName": {}}],
    ("POST", "/stat/listModelStat"): [
        {"startDay": "2026-02-30"}, {"startDay": "2026-2-3"}, {"endDay": "x"}, {"endDay": 20260101}, {"endDay": []},
        {"startDay": "2026-03-02", "endDay": "2026-03-01"}, {"tenantId": "x"}, {"tenantId": 2**63}, {"creator": "\x00"},
        {"modelName": []}, {"creator": "x" * 300},
    ],
}  # fmt: skip


def assert_refused(answer: Any, *codes: int) -> None:
    assert answer.status_code < 500, answer.text
    body = answer.json()
    assert set(body) == {"code", "message", "data"}
    assert body["code"] in CODES
    assert (body["data"], bool(body["message"])) == (None, True)
    assert str(body["code"]).startswith(str(answer.status_code))
    assert not codes or body["code"] in codes, answer.text


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_bodies_that_cannot_be_read(tenant: Tenant, method: str, path: str) -> None:
    for body in BODIES:
        answer = await tenant.call(method, path, content=body, headers={"Content-Type": "application/json"})
        assert_refused(answer, 40_001, 40_002)
    assert not await tenant.stored()


@pytest.mark.parametrize(("method", "path"), FIELDS)
async def test_fields_that_are_not_what_they_should_be(tenant: Tenant, method: str, path: str) -> None:
    whole = {
        "/model/createModel": {"modelName": "n", "baseUrl": "http://127.0.0.1:9"},
        "/task/createTask": {"modelName": "m"},
    }.get(path, {})
    for wrong in FIELDS[method, path]:
        answer = await tenant.call(method, path, json={**whole, **wrong})
        assert answer.is_client_error, (wrong, answer.text)
        assert_refused(answer)
        assert answer.status_code in (400, 404), wrong
    assert not await tenant.stored()
    assert len(await tenant.api.sql("SELECT 1 FROM model WHERE tenant_id = $1", tenant.id)) == 1


@pytest.mark.parametrize("path", ["/model/getModel", "/model/deleteModel", "/model/updateModel"])
async def test_ids_that_are_none(tenant: Tenant, path: str) -> None:
    method = {"/model/getModel": "GET", "/model/deleteModel": "DELETE", "/model/updateModel": "PUT"}[path]
    for wrong in ("", "x", "1.5", "9" * 19, "9" * 400, "\x00", "0x1", "1;DROP TABLE model"):
        assert_refused(await tenant.call(method, path, params={"id": wrong}), 40_002)
    for number in (b"1e999", b"1.5", b"true", b"[1]", b"{}", b"9223372036854775808"):
        assert_refused(await tenant.call(method, path, content=b'{"id":' + number + b"}"), 40_002)
    for unknown in ("0", "-1", str(2**63 - 1), "1"):
        assert_refused(await tenant.call(method, path, params={"id": unknown, "remark": "x"}), 404)


async def test_names_that_are_odd_but_fine(tenant: Tenant) -> None:
    for name in ("a/b", "...", "with spaces", "\u202eright to left", "%", "_", "\\", "a.b", "A-B", "a-b", "😀" * 100):
        made = await tenant.call(
            "POST", "/model/createModel", json={"modelName": name, "baseUrl": "http://127.0.0.1:9", "unknown": [1]}
        )
        assert made.status_code == 200, made.text
        created = await tenant.call("POST", "/task/createTask", json={"modelName": name})
        assert created.status_code == 200, created.text
        found = await tenant.call("POST", "/model/listModel", json={"modelName": name})
        assert name in [row["modelName"] for row in found.json()["data"]["list"]]
        listed = await tenant.call("POST", "/task/listTask", json={"modelName": name})
        assert {row["modelName"] for row in listed.json()["data"]["list"]} >= {name}


async def test_a_nul_in_a_payload_is_its_senders_business(tenant: Tenant) -> None:
    raw = '{"a\\u0000":"\\u0000\u202e"}'
    answer = await tenant.call("POST", "/task/createTask", content='{"modelName":"m","requestPayload":' + raw + "}")
    assert answer.status_code == 200
    read = await tenant.call("GET", "/task/getTaskResult", params=answer.json()["data"])
    assert raw in read.text


@pytest.mark.parametrize("field", ["requestPayload[a]", "requestPayload.a", "modelName[a]", "bizName[a]"])
async def test_a_group_of_fields_where_there_is_one(tenant: Tenant, field: str) -> None:
    for how in ("params", "data"):
        fields = {"modelName": "m", field: "1"} if "model" not in field else {field: "1"}
        answer = await tenant.call("POST", "/task/createTask", **{how: fields})
        assert_refused(answer, 40_002)
    assert not await tenant.stored()


@pytest.mark.parametrize("charset", ["undefined", "idna", "unicode_escape", "utf-7", "utf-16", "nobody's", "gbk"])
async def test_forms_in_encodings_of_their_own(tenant: Tenant, charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; charset={charset}; boundary=x"}
    for text, code in ((b"\\ud800 +2AA- gr\xc3\xbcn", 0), (b"\xff\xfe", 40_002)):
        part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        content = part % (b"modelName", b"m") + part % (b"bizName", text) + part % (b"inputRef", text) + b"--x--\r\n"
        answer = await tenant.call("POST", "/task/createTask", content=content, headers=headers)
        assert answer.json()["code"] == code, answer.text
    (stored,) = await tenant.stored()
    assert stored["biz_name"] == "\\ud800 +2AA- grün"


async def test_sizes(tenant: Tenant) -> None:
    text = '"' + "x" * (MEGABYTE - 2) + '"'
    for payload, code in ((text, 0), ('"x' + text[1:], 40_006)):
        body = '{"modelName":"m","requestPayload":' + payload + "}"
        answer = await tenant.call("POST", "/task/createTask", content=body)
        assert answer.json()["code"] == code
    assert_refused(await tenant.call("POST", "/task/createTask", content=b" " * (2 * MEGABYTE)), 40_006)
    many = {"taskIds": [str(uuid4()) for _ in range(100_000)]}
    assert_refused(await tenant.call("POST", "/task/getTaskBatch", json=many), 40_002, 40_006)
    assert (await tenant.call("POST", "/task/getTaskBatch", json={"taskIds": ["x"] * 1_000})).status_code == 200
    assert_refused(await tenant.call("GET", "/task/getTaskResult?" + "a=1&" * 10_000), 40_002)
    assert len(await tenant.stored()) == 1


@pytest.mark.parametrize(
    ("headers", "content", "code"),
    [
        ({"Content-Type": "application/xml"}, b"<a/>", 40_007),
        ({"Content-Type": "text/plain"}, b"modelName=m", 40_007),
        ({"Content-Type": ";"}, b"modelName=m", 0),
        (
            {"Content-Encoding": "gzip", "Content-Type": "application/json"},
            gzip.compress(b'{"modelName":"m"}', mtime=0),
            40_007,
        ),
        ({"Content-Type": "multipart/form-data"}, b"--x--", 40_002),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--y\r\n", 40_002),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"modelName=%ff", 40_002),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"modelName=m&x=%", 0),
    ],
)
async def test_content_types(tenant: Tenant, headers: dict[str, str], content: bytes, code: int) -> None:
    answer = await tenant.call("POST", "/task/createTask", content=content, headers=headers)
    assert answer.json()["code"] == code, answer.text


@pytest.mark.parametrize("method", ["HEAD", "TRACE", "OPTIONS", "PATCH", "DELETE", "GET", "PUT"])
async def test_methods_that_are_not_offered(tenant: Tenant, method: str) -> None:
    answer = await tenant.call(method, "/task/createTask")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path", ["/task/", "/task/x", "/task//createTask", "/model/%2e%2e/task", "/stat/%00", "/task/CreateTask"]
)
async def test_paths_that_lead_nowhere(tenant: Tenant, path: str) -> None:
    assert_refused(await tenant.call("POST", path, json={"modelName": "m"}), 404)


async def test_a_body_that_drips_is_given_up(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    host, port = tenant.api.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = ["POST /task/createTask HTTP/1.1", "Host: h", f"Authorization: Bearer {tenant.key}", "Content-Length: 100"]
    writer.write("\r\n".join([*head, "", '{"modelName":']).encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":40008' in answer
    writer.close()


async def test_lists_of_ten_years_and_of_every_odd_part(tenant: Tenant) -> None:
    answer = await tenant.call("POST", "/stat/listModelStat", json={"startDay": "2016-01-01", "endDay": "2026-12-31"})
    assert answer.json()["data"] == {"list": [], "total": 0}
    for part in ("%", "_", "\\", "'", '"', "\\%", "\u202e", "%00"):
        for path in ("/model/listModel", "/task/listTask", "/stat/listModelStat"):
            answer = await tenant.call("POST", f"{path}?modelName={quote(part)}")
            assert answer.json()["data"] == {"list": [], "total": 0}, part
