"""Downloading results over REST."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from libs.common.adapters.object_storage.result_reader import PIECE_BYTES, StoredResults
from libs.common.ports_results import WantedPart
from services.api import serving
from tests.support.api import Api, Tenant, running_api
from tests.support.stand_in_s3 import stand_in_s3

pytestmark = pytest.mark.asyncio(loop_scope="package")

PNG = b"\x89PNG\r\n\x1a\n" + bytes(56)


async def fetched(tenant: Tenant, task: str) -> bool:
    (row,) = await tenant.api.sql("SELECT fetched_at, expire_at FROM task WHERE public_id = $1", task)
    assert (row["fetched_at"] is None) == (row["expire_at"] is None)
    return row["fetched_at"] is not None


def elsewhere(url: str, **more: Any) -> list[dict[str, Any]]:
    """The files of a result that lies somewhere else."""
    return [{"url": url, "type": "png", "size": 3, "sha256": "ab", "name": "x.png", "index": 0, **more}]


async def test_a_result_is_handed_out_as_an_attachment_that_runs_nowhere(tenant: Tenant) -> None:
    task = await tenant.result(PNG)
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
    assert (answer.status_code, answer.content) == (200, PNG)
    kept = {name: answer.headers[name] for name in ("content-type", "content-length", "content-disposition")}
    assert kept == {
        "content-type": "image/png",
        "content-length": "64",
        "content-disposition": f'attachment; filename="{task}-1-0.png"',
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["cache-control"] == "private"


async def test_the_first_download_marks_the_task_as_fetched_and_later_ones_change_nothing(tenant: Tenant) -> None:
    task = await tenant.result(b"one", b"two")
    assert not await fetched(tenant, task)
    assert (await tenant.call("GET", f"/v1/tasks/{task}/result/1")).content == b"two"
    assert await fetched(tenant, task)
    (before,) = await tenant.api.sql("SELECT fetched_at FROM task WHERE public_id = $1", task)
    assert (await tenant.call("GET", f"/v1/tasks/{task}/result")).content == b"one"
    (after,) = await tenant.api.sql("SELECT fetched_at FROM task WHERE public_id = $1", task)
    assert before == after


async def test_a_look_at_it_says_the_same_without_the_content_and_marks_nothing(tenant: Tenant) -> None:
    task = await tenant.result(b"one", b"2")
    for path in (f"/v1/tasks/{task}/result", f"/v1/tasks/{task}/result/1"):
        look = await tenant.call("HEAD", path)
        assert (look.status_code, look.content) == (200, b"")
        assert not await fetched(tenant, task)
        told = dict(look.headers)
        told.pop("date")
        assert told.items() <= dict((await tenant.call("GET", path)).headers).items()
        await tenant.api.sql("UPDATE task SET fetched_at = NULL, expire_at = NULL WHERE public_id = $1", task)


async def test_a_download_that_broke_goes_on_where_it_stopped(tenant: Tenant) -> None:
    content = os.urandom(PIECE_BYTES + 17)
    task = await tenant.result(content)
    path = f"/v1/tasks/{task}/result"
    whole = await tenant.call("GET", path)
    assert (whole.status_code, whole.headers["accept-ranges"]) == (200, "bytes")
    tag = whole.headers["etag"]
    assert tag == f'"{sha256(content).hexdigest()}"'
    for headers in ({"Range": "bytes=100-"}, {"Range": "bytes=100-", "If-Range": tag}):
        rest = await tenant.call("GET", path, headers=headers)
        assert (rest.status_code, rest.content) == (206, content[100:])
        assert rest.headers["content-range"] == f"bytes 100-{len(content) - 1}/{len(content)}"
        assert (rest.headers["etag"], rest.headers["content-length"]) == (tag, str(len(content) - 100))
        assert rest.headers["content-disposition"].startswith("attachment")
    for headers in ({"Range": "bytes=100-", "If-Range": '"another"'}, {"Range": "bytes=0-1,5-6"}, {"Range": "x"}):
        assert (await tenant.call("GET", path, headers=headers)).content == content
    beyond = await tenant.call("GET", path, headers={"Range": f"bytes={len(content)}-"})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "no_such_part")
    assert beyond.headers["content-range"] == f"bytes */{len(content)}"
    look = await tenant.call("HEAD", path, headers={"Range": "bytes=100-"})
    assert (look.status_code, look.headers["content-length"], look.headers["etag"]) == (200, str(len(content)), tag)


async def test_a_large_file_comes_whole(tenant: Tenant) -> None:
    content = os.urandom(2 * PIECE_BYTES + 17)
    task = await tenant.result(content, kind="bin")
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result/0")
    assert answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("kind", "media"), [("html", "text/html"), ("svg", "image/svg+xml"), ("strange", "application/octet-stream")]
)
async def test_what_browsers_would_run_is_an_attachment_too(tenant: Tenant, kind: str, media: str) -> None:
    task = await tenant.result(b"<script>alert(1)</script>", kind=kind)
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
    assert answer.headers["content-type"].partition(";")[0] == media
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert "sandbox" in answer.headers["content-security-policy"]


async def test_what_lies_at_a_file_service_is_found_there(tenant: Tenant) -> None:
    task = await tenant.task()
    await tenant.succeed(task, elsewhere("https://files.example/a%20b.png?x=1"))
    look = await tenant.call("HEAD", f"/v1/tasks/{task}/result")
    assert (look.status_code, await fetched(tenant, task)) == (307, False)
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
    assert (answer.status_code, answer.headers["location"]) == (307, "https://files.example/a%20b.png?x=1")
    assert await fetched(tenant, task)


async def test_its_address_may_have_any_letters(tenant: Tenant) -> None:
    task = await tenant.task()
    await tenant.succeed(task, elsewhere("https://files.example/\u56fe/a%20b.png?x=1&y=\u00e9"))
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
    assert answer.status_code == 307
    assert answer.headers["location"] == "https://files.example/%E5%9B%BE/a%20b.png?x=1&y=%C3%A9"


@pytest.mark.parametrize("number", ["1", "99", str(2**31 - 1)])
async def test_a_file_that_the_result_does_not_have(tenant: Tenant, number: str) -> None:
    task = await tenant.result(b"one")
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result/{number}")
    assert (answer.status_code, answer.json()["code"]) == (404, "file_unknown")
    assert not await fetched(tenant, task)


@pytest.mark.parametrize("number", ["-1", "x", "1.5", str(2**31), "%2e%2e", "0x0", ""])
async def test_what_is_no_number_of_a_file(tenant: Tenant, number: str) -> None:
    task = await tenant.result(b"one")
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result/{number}")
    assert answer.status_code in (400, 404)
    assert answer.json()["code"] in ("invalid", "not_found")


async def test_before_its_end_a_task_has_no_result_yet(tenant: Tenant) -> None:
    task = await tenant.task()
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
    assert (answer.status_code, answer.json()["code"]) == (409, "result_pending")
    await tenant.api.sql("UPDATE dispatch SET state = 3, due_at = now() WHERE public_id = $1", task)
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")  # a failed attempt, but another one follows
    assert (answer.status_code, answer.json()["code"]) == (409, "result_pending")


async def test_a_task_that_ended_otherwise_has_none(tenant: Tenant) -> None:
    task = await tenant.task()
    await tenant.call("POST", f"/v1/tasks/{task}/cancel")
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
    assert (answer.status_code, answer.json()["code"]) == (404, "no_result")


async def test_a_file_that_is_gone_is_not_marked_as_fetched(tenant: Tenant) -> None:
    task = await tenant.result(b"one")
    assert tenant.api.results is not None
    next(tenant.api.results.glob(f"*/*/{task}*")).unlink()
    answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
    assert (answer.status_code, answer.json()["code"]) == (404, "result_gone")
    assert not await fetched(tenant, task)


async def test_only_the_tenants_own_part_of_the_store_is_read(tenant: Tenant, api: Api) -> None:
    other = await api.tenant()
    await other.model("m")
    theirs = await other.result(b"their secret")
    (row,) = await api.sql("SELECT oss_file FROM task WHERE public_id = $1", theirs)
    assert api.results is not None
    (api.results / "outside.png").write_bytes(b"outside")
    roots = (
        row["oss_file"],
        f"{api.results.as_uri()}/outside.png",
        f"{api.results.as_uri()}/{tenant.id}/../outside.png",
        f"{api.results.as_uri()}/{tenant.id}/%2E%2E/outside.png",
        f"{api.results.as_uri()}/{tenant.id}/",
    )
    for url in (*roots, "file:///etc/passwd", "javascript:alert(1)", "", "//x/y"):
        task = await tenant.task()
        await tenant.succeed(task, elsewhere(url))
        answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
        assert (answer.status_code, answer.json()["code"]) == (404, "result_gone"), url
        assert b"secret" not in answer.content
        assert not await fetched(tenant, task)


async def test_names_from_elsewhere_harm_no_header(tenant: Tenant) -> None:
    task = await tenant.result(b"one")
    (row,) = await tenant.api.sql("SELECT oss_file FROM task WHERE public_id = $1", task)
    for name, shown in (('a"; b\r\nX: y/é.png', "a_b_X_y_.png"), ("", f"{task}-0"), ("../..", f"{task}-0")):
        await tenant.succeed(task, elsewhere(row["oss_file"], name=name))
        answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
        assert answer.headers["content-disposition"] == f'attachment; filename="{shown}"'


async def test_a_store_that_is_away_is_no_lost_result(stores: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    async with stand_in_s3() as s3:
        for name, value in (
            ("ENDPOINT_URL", s3.url), ("ALLOW_HTTP", "true"), ("REGION", "us-east-1"), ("ACCESS_KEY_ID", "id"),
            ("SECRET_ACCESS_KEY", "canary-key"),
        ):  # fmt: skip
            monkeypatch.setenv(f"AWS_{name}", value)
        async with running_api(
            *stores, storage_url="s3://b/results", storage_public_url="https://cdn.example/r"
        ) as api:
            tenant = await api.tenant()
            await tenant.model("m")
            content = os.urandom(PIECE_BYTES + 5)
            s3.objects[f"results/{tenant.id}/d/a b.png"] = content
            task = await tenant.task()
            await tenant.succeed(task, elsewhere(f"https://cdn.example/r/{tenant.id}/d/a%20b.png"))
            s3.status = 503
            answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert not await fetched(tenant, task)
            s3.status = 0
            answer = await tenant.call("GET", f"/v1/tasks/{task}/result")
            assert answer.content == content


async def test_readers_that_take_nothing_fill_no_memory(tmp_path: Path) -> None:
    content = os.urandom(2 * PIECE_BYTES)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "a.bin").write_bytes(content)
    stored = StoredResults(tmp_path.as_uri())
    begun, taken = [], []
    for _ in range(100):
        found = await stored.open((tmp_path / "7" / "a.bin").as_uri())
        assert found is not None
        begun.append(found.chunks)
        taken.append(await anext(found.chunks) + await anext(found.chunks))
    assert sum(map(len, taken)) < 120 * 2**20
    assert taken[-1] + b"".join([piece async for piece in begun.pop()]) == content
    for chunks in begun:
        await chunks.aclose()  # type: ignore[attr-defined]
    found = await stored.open((tmp_path / "7" / "a.bin").as_uri())
    assert found is not None
    assert len(await anext(found.chunks)) < len(await anext(found.chunks)) == PIECE_BYTES


async def test_who_takes_nothing_of_an_answer_is_let_go(
    stores: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "TAKING_SECONDS", 1.0)
    async with running_api(*stores, storage_url=tmp_path.as_uri()) as api:
        tenant = await api.tenant()
        await tenant.model("m")
        task = await tenant.result(os.urandom(8 * PIECE_BYTES), kind="bin")
        parts = urlsplit(api.url)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            deaf.connect((parts.hostname, parts.port))
            head = f"GET /v1/tasks/{task}/result HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n\r\n"
            deaf.sendall(head.encode())
            await asyncio.sleep(4)
            deaf.settimeout(10)
            assert await asyncio.to_thread(taken, deaf) < PIECE_BYTES


def taken(connection: socket.socket) -> int:
    """How many bytes come until the connection is over."""
    size = 0
    with suppress(ConnectionError):
        while piece := connection.recv(65_536):
            size += len(piece)
    return size


async def test_of_a_part_or_of_the_whole_no_other_byte_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stand_in_s3() as s3:
        for name, value in (
            ("ENDPOINT_URL", s3.url), ("ALLOW_HTTP", "true"), ("REGION", "us-east-1"), ("ACCESS_KEY_ID", "id"),
            ("SECRET_ACCESS_KEY", "canary-key"),
        ):  # fmt: skip
            monkeypatch.setenv(f"AWS_{name}", value)
        content = os.urandom(3 * PIECE_BYTES)
        s3.objects["results/7/a.mp4"] = content
        stored = StoredResults("s3://b/results")
        for part in (WantedPart(0, 1), WantedPart(5, PIECE_BYTES + 5), WantedPart(None, 100)):
            s3.sent = 0
            found = await stored.open("s3://b/results/7/a.mp4", part)
            assert found is not None
            assert found.part is not None
            pieces = [piece async for piece in found.chunks]
            assert b"".join(pieces) == content[found.part.start : found.part.stop]
            assert s3.sent == len(found.part)
            assert max(map(len, pieces)) <= PIECE_BYTES
        for size in (100, 1_000_000, len(content)):
            s3.objects["results/7/c.mp4"], s3.sent = content[:size], 0
            found = await stored.open("s3://b/results/7/c.mp4")
            assert found is not None
            assert b"".join([piece async for piece in found.chunks]) == content[:size]
            assert (found.size, s3.sent) == (size, size)
        found = await stored.open("s3://b/results/7/a.mp4", WantedPart(len(content), None))
        assert found is not None
        assert found.part == range(0)
        assert await stored.open("s3://b/results/7/b.mp4", WantedPart(0, 1)) is None
