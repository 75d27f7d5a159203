"""The SDK's streams on a server that breaks them in every way, and downloads to what is no file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from libs.client import ApiError, AsyncClient, Client, NotReachable

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNKED = STREAM.replace(b"close\r\n", b"close\r\nTransfer-Encoding: chunked\r\n")
RESTARTED = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\nConnection: close\r\n\r\n<html"
NOT_NOW = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
REVOKED = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


GARBLED = (
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: text/event-stream\r\nContent-Length: 3\r\n\r\nabc"
)


def file(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(content), content)


def elsewhere(location: str) -> bytes:
    return f"HTTP/1.1 307 No\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def event(number: int, status: str, *, final: bool = False) -> bytes:
    return b'id: t:%d\ndata: {"status":"%s","final":%s}\n\n' % (
        number, status.encode(), b"true" if final else b"false"
    )  # fmt: skip


class Breaking:
    """Gives each connection the next of its answers, and keeps what was asked."""

    def __init__(self, *answers: bytes) -> None:
        self.url = ""
        self.asked: list[str] = []
        self._answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(self._answers.pop(0))
        await writer.drain()
        writer.close()


@asynccontextmanager
async def breaking(*answers: bytes) -> AsyncIterator[Breaking]:
    server = Breaking(*answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


async def asynchronously(url: str) -> list[dict[str, Any]]:
    async with AsyncClient(url, "k", tries=1) as client:
        return [event async for event in client.events("t")]


async def waiting(url: str) -> list[dict[str, Any]]:
    def listened() -> list[dict[str, Any]]:
        with Client(url, "k", tries=1) as client:
            return list(client.events("t"))

    return await asyncio.to_thread(listened)


@pytest.mark.parametrize("listened", [asynchronously, waiting])
async def test_breaks_are_bridged(listened: Callable[[str], Any]) -> None:
    async with breaking(
        STREAM + event(1, "queued") + event(2, "failed") + b'id: t:3\ndata: {"ha',  # it ends in the middle
        NOT_NOW,
        b"",
        CHUNKED + b"5\r\nretry",
        STREAM + event(3, "processing"),
        STREAM + event(4, "success", final=True) + b": more",
    ) as server:
        async with asyncio.timeout(60):
            seen = await listened(server.url)
        assert [one["status"] for one in seen] == ["queued", "failed", "processing", "success"]
        assert ["last-event-id: t:2" in asked for asked in server.asked] == [False, True, True, True, True, False]


@pytest.mark.parametrize("listened", [asynchronously, waiting])
async def test_a_message_may_hold_what_others_take_for_the_end_of_a_line(listened: Callable[[str], Any]) -> None:
    words = "the model answered 400: one\u2028two\x85three"
    told = f'id: t:1\ndata: {{"status":"failed","final":true,"message":"{words}"}}\n\n'
    async with breaking(STREAM + told.encode()) as server:
        (seen,) = await listened(server.url)
        assert seen["message"] == words


@pytest.mark.parametrize("listened", [asynchronously, waiting])
async def test_a_refusal_ends_it(listened: Callable[[str], Any]) -> None:
    async with breaking(STREAM + event(1, "queued"), REVOKED) as server:
        with pytest.raises(ApiError, match="401"):
            await listened(server.url)


async def test_a_download_leaves_links_and_pipes_what_they_are(tmp_path: Path) -> None:
    there, link, pipe = tmp_path / "there", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(there)
    os.mkfifo(pipe)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    async with breaking(answer, answer, answer, answer) as server:

        def load() -> None:
            with Client(server.url, "k", tries=1) as client:
                client.download("t", tmp_path / "plain")
                client.download("t", link)
                client.download("t", pipe)
                with pytest.raises(FileNotFoundError):
                    client.download("t", tmp_path / "missing" / "file")

        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            await asyncio.to_thread(load)
            assert os.read(reader, 10) == b"hello"
        finally:
            os.close(reader)
    assert (there.read_bytes(), link.is_symlink(), pipe.is_fifo()) == (b"hello", True, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "plain", "there"]


async def loaded(url: str, target: Path) -> None:
    async with AsyncClient(url, "k", tries=3) as client:
        await client.download("t", target)


async def loaded_waiting(url: str, target: Path) -> None:
    def load() -> None:
        with Client(url, "k", tries=3) as client:
            client.download("t", target)

    await asyncio.to_thread(load)


@pytest.mark.parametrize("load", [loaded, loaded_waiting])
async def test_a_download_that_cannot_begin_is_tried_again(load: Callable[[str, Path], Any], tmp_path: Path) -> None:
    async with breaking(NOT_NOW, b"", file(b"hello")) as server:
        await load(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"hello"
    async with breaking(file(b"hello")[:-2]) as server:
        with pytest.raises(NotReachable, match="broke"):
            await load(server.url, tmp_path / "half")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("load", [loaded, loaded_waiting])
async def test_a_download_goes_wherever_it_is_sent_without_the_key(
    load: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    async with breaking(elsewhere("/there"), elsewhere("and/there"), file(b"hello")) as server:
        await load(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"hello"
    assert [asked.split()[1] for asked in server.asked] == ["/v1/tasks/t/result/0", "/there", "/and/there"]
    assert ["authorization" in asked for asked in server.asked] == [True, False, False]


@pytest.mark.parametrize("load", [loaded, loaded_waiting])
async def test_a_file_that_is_gone_where_a_download_is_sent_is_no_wrong_address(
    load: Callable[[str, Path], Any], tmp_path: Path
) -> None:
    """A store's 404 has no code of ours: whoever asked was told that there is no API, with exit code 3."""
    gone = b"HTTP/1.1 404 No\r\nContent-Type: application/xml\r\nContent-Length: 8\r\nConnection: close\r\n\r\n<Error/>"
    async with breaking(elsewhere("/there"), gone) as server:
        with pytest.raises(ApiError) as refused:
            await load(server.url, tmp_path / "there")
    assert (refused.value.status, refused.value.code) == (404, "http_404")


async def test_two_downloads_may_have_one_target(tmp_path: Path) -> None:
    halves = [asyncio.Event(), asyncio.Event()]
    content = [b"a" * 100_000, b"b" * 70_000]

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nth = int((await reader.readuntil(b"\r\n\r\n")).split()[1][-1:])
        told = file(content[nth])
        writer.write(told[:-10])
        await writer.drain()
        await halves[nth].wait()
        writer.write(told[-10:])
        writer.close()

    listener = await asyncio.start_server(slowly, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with AsyncClient(url, "k") as client:
        loads = [asyncio.create_task(client.download("t", tmp_path / "file", index)) for index in (0, 1)]
        async with asyncio.timeout(5):
            while len(list(tmp_path.iterdir())) < 2 and not loads[0].done():
                await asyncio.sleep(0.01)
        for nth in (0, 1):
            halves[nth].set()
            await loads[nth]
            assert (tmp_path / "file").read_bytes() == content[nth]
    listener.close()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("way", ["get", "events", "download"])
async def test_an_answer_that_cannot_be_unpacked_is_told(way: str, tmp_path: Path) -> None:
    async def met(client: AsyncClient) -> None:
        match way:
            case "get":
                await client.get("t")
            case "events":
                [event async for event in client.events("t")]
            case _:
                await client.download("t", tmp_path / "file")

    async with breaking(GARBLED) as server, AsyncClient(server.url, "k", tries=1) as client:
        with pytest.raises(NotReachable):
            await met(client)


async def test_who_waits_holds_up_nobody_however_many_they_are() -> None:
    answer = b'{"id":"t","model":"m","status":"queued","code":2}'
    told = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)
    waiting, released = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting
        if b"prefer" in (await reader.readuntil(b"\r\n\r\n")).lower():
            waiting += 1
            await released.wait()
        writer.write(told)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=500)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with AsyncClient(url, "k", timeout=3, tries=1) as client:
        waits = [asyncio.create_task(client.wait("t", 0)) for _ in range(120)]
        async with asyncio.timeout(5):
            while waiting < 100:
                await asyncio.sleep(0.01)
        assert (await client.get("t")).status == "queued"
        released.set()
        ends = await asyncio.gather(*waits, return_exceptions=True)
    listener.close()
    assert {type(end) for end in ends} == {TimeoutError}


def answer(status: str) -> bytes:
    times = b'{"finished_at":"2026-01-01T00:00:00Z"}' if status == "success" else b"{}"
    body = b'{"id":"t","model":"m","code":0,"status":"%s","times":%s}' % (status.encode(), times)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % len(body) + body


async def waited(url: str) -> str:
    async with AsyncClient(url, "k", tries=1) as client:
        return (await client.wait("t")).status


async def waited_in_a_thread(url: str) -> str:
    def wait() -> str:
        with Client(url, "k", tries=1) as client:
            return client.wait("t").status

    return await asyncio.to_thread(wait)


@pytest.mark.parametrize("wait", [waited, waited_in_a_thread])
async def test_a_wait_outlasts_a_restart_of_the_api(wait: Callable[[str], Any]) -> None:
    async with breaking(answer("processing"), b"", NOT_NOW, b"", answer("success")) as server:
        assert await wait(server.url) == "success"
        assert len(server.asked) == 5
    async with breaking(b"") as server:
        with pytest.raises(NotReachable):  # nothing ever answered: a wrong address is told at once
            await wait(server.url)
    async with breaking(answer("processing"), REVOKED) as server:
        with pytest.raises(ApiError):
            await wait(server.url)


async def handed_in(url: str) -> str:
    async with AsyncClient(url, "k", tries=2) as client:
        return (await client.submit("m")).id


async def handed_in_in_a_thread(url: str) -> str:
    def submit() -> str:
        with Client(url, "k", tries=2) as client:
            return client.submit("m").id

    return await asyncio.to_thread(submit)


@pytest.mark.parametrize("submit", [handed_in, handed_in_in_a_thread])
async def test_what_a_proxy_answers_for_an_api_that_is_restarted_is_tried_again(submit: Callable[[str], Any]) -> None:
    async with breaking(RESTARTED, answer("submitted")) as server:
        assert await submit(server.url) == "t"
        first, second = (
            next(line for line in asked.split("\r\n") if line.startswith("idempotency-key")) for asked in server.asked
        )
        assert first == second


async def waited_a_moment(url: str) -> None:
    async with AsyncClient(url, "k") as client:
        await client.wait("t", 0.1)


async def waited_a_moment_in_a_thread(url: str) -> None:
    def wait() -> None:
        with Client(url, "k") as client:
            client.wait("t", 0.1)

    await asyncio.to_thread(wait)


@pytest.mark.parametrize("wait", [waited_a_moment, waited_a_moment_in_a_thread])
async def test_a_wait_ends_in_its_time_where_an_answer_never_comes(wait: Callable[[str], Any]) -> None:
    over = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="in time"):
        await wait(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    assert time.monotonic() - began < 10
    over.set()
    listener.close()


async def test_a_wait_ends_in_its_time_where_nothing_answers() -> None:
    async with breaking(b"", b"") as server, AsyncClient(server.url, "k", tries=20) as client:
        with pytest.raises(TimeoutError):
            await client.wait("t", 0.1)
        assert len(server.asked) == 1
