"""The SDK's streams on a server that breaks them in every way, and downloads to what is no file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from libs.client import ApiError, AsyncClient, Client

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNKED = STREAM.replace(b"close\r\n", b"close\r\nTransfer-Encoding: chunked\r\n")
NOT_NOW = b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
REVOKED = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


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
