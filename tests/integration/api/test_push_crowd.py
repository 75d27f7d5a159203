"""Thousands of streams that nobody reads: each is dropped, creates go on, and what they held is given back."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.support.api import Api, running_api, until
from tests.support.listeners import hearing

pytestmark = [
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.long,
    pytest.mark.quiet,
    pytest.mark.timeout(600),
]

CROWD = 5_000
BATCHES = 5
#: Streams hold a coroutine or two each, and their buffers are bounded: all together, not gigabytes.
MOST_MEGABYTES = 1_000


@contextmanager
def many_files() -> Iterator[None]:
    """Both ends of each connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD + 1_000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this machine allows {hard} open files, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def deaf_ones(api: Api, key: str, count: int) -> list[socket.socket]:
    """Connections that ask for the stream and never read."""
    loop, parts = asyncio.get_running_loop(), urlsplit(api.url)
    request = f"GET /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    crowd = []
    for _ in range(count):
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.setblocking(False)
        await loop.sock_connect(deaf, (parts.hostname, parts.port))
        await loop.sock_sendall(deaf, request)
        crowd.append(deaf)
    return crowd


def megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


async def test_five_thousand_that_never_read_hold_up_no_create(stores: tuple[str, str]) -> None:
    with many_files():
        async with running_api(*stores, push_connections=2 * CROWD + 100) as api:
            noisy, other = await api.tenant(), await api.tenant()
            await noisy.model("m", queue_limit=1_000_000)
            await other.model("m")
            before = megabytes()
            crowd = await deaf_ones(api, noisy.key, CROWD)
            try:
                await until(lambda: api.service.hub.open == CROWD, 60)
                async with hearing(api.url, other.key, "/v1/events") as heard:
                    for number in range(BATCHES):
                        body = {"tasks": [{"model": "m", "payload": {}}] * 1_000}
                        answer = await noisy.call("POST", "/v1/tasks/batch", json=body, timeout=120)
                        assert answer.status_code == 202, number
                        task = await other.task()
                        await heard.says(task, "submitted", 60)
                    assert megabytes() - before < MOST_MEGABYTES
                    await until(lambda: api.service.hub.open == 1, 120)
            finally:  # or the API would wait for them
                for deaf in crowd:
                    deaf.close()
            async with hearing(api.url, noisy.key, "/v1/events") as again:
                task = await noisy.task()
                await again.says(task, "submitted", 30)
