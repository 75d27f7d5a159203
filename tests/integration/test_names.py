"""Names of tenants, some of which nobody answers for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web

from libs.common.adapters import http_client
from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.http_client import Broken, open_http_client
from libs.common.runtime.shares import on_behalf_of
from tests.support.serving import serving


class Resolver:
    """Answers for `alive`, and for everything else not before it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go_on = threading.Event()

    def getaddrinfo(self, host: str, port: int, *_: Any) -> list[Any]:
        self.asked.append(host)
        if not host.startswith("alive"):
            self.go_on.wait(20)
            raise socket.gaierror("nobody answers")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(http_client, "_NAMES_AT_ONCE", 16)
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    yield resolver
    resolver.go_on.set()


class Moving:
    """Says of every name where it is now."""

    def __init__(self) -> None:
        self.address = "127.0.0.1"
        self.asked = 0

    def getaddrinfo(self, host: str, port: int, *_: Any) -> list[Any]:
        self.asked += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.address, port))]


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> Moving:
    moving = Moving()
    monkeypatch.setattr(socket, "getaddrinfo", moving.getaddrinfo)
    return moving


@pytest.fixture
async def ports() -> AsyncIterator[int]:
    """A port at which two addresses answer with their own name."""

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        return web.Response(text=request.transport.get_extra_info("sockname")[0])

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    await web.TCPSite(runner, "127.0.0.2", port).start()
    yield port
    await runner.cleanup()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", answer)
    async with serving(app) as url:
        yield int(url.rpartition(":")[2])


async def ask(session: ClientSession, tenant: int, host: str, port: int, seconds: float) -> str:
    on_behalf_of.set(tenant)
    async with asyncio.timeout(seconds), session.get(f"http://{host}:{port}/") as answer:
        return await answer.text()


async def test_dead_names_of_one_tenant_take_nobody_elses_room(resolver: Resolver, port: int) -> None:
    """Calls that were given up leave their threads behind: a few hundred dead names had stopped all new names."""
    async with open_http_client(EgressGuard(["127.0.0.0/8"])) as session:
        calls = [ask(session, 1, f"dead-{nth}.example", port, 0.2) for nth in range(60)]
        assert {type(end) for end in await asyncio.gather(*calls, return_exceptions=True)} == {TimeoutError}
        assert len(resolver.asked) == 8
        waiting = asyncio.create_task(ask(session, 1, "alive.example", port, 10))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        assert await asyncio.create_task(ask(session, 2, "alive.example", port, 5)) == "here"
        assert time.monotonic() - began < 1
        assert not waiting.done()
        resolver.go_on.set()
        assert await waiting == "here"
        assert resolver.asked.count("alive.example") == 1


async def test_a_name_is_asked_for_once_by_those_who_come_together(resolver: Resolver, port: int) -> None:
    async with open_http_client(EgressGuard(["127.0.0.0/8"])) as session:
        calls = [asyncio.create_task(ask(session, nth, "alive.example", port, 5)) for nth in range(10)]
        assert await asyncio.gather(*calls) == ["here"] * 10
        assert await asyncio.create_task(ask(session, 3, "alive.example", port, 5)) == "here"
    assert resolver.asked == ["alive.example"]


async def test_a_dead_name_is_told_to_all_and_asked_for_anew(resolver: Resolver, port: int) -> None:
    async with open_http_client(EgressGuard(["127.0.0.0/8"])) as session:
        resolver.go_on.set()
        for _ in range(2):
            with pytest.raises(Broken):
                await ask(session, 1, "dead.example", port, 5)
    assert resolver.asked == ["dead.example"] * 2


async def test_a_host_that_moves_is_followed_although_its_old_address_still_answers(
    moving: Moving, ports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy model's connections are never idle: its calls went on to the old address for as long as that answered."""
    monkeypatch.setattr(http_client, "_AGE_SECONDS", 1)
    monkeypatch.setattr(http_client, "_DNS_SECONDS", 0.5)
    async with open_http_client(EgressGuard(["127.0.0.0/8"])) as session:
        assert await ask(session, 1, "moving.example", ports, 5) == "127.0.0.1"
        moving.address = "127.0.0.2"
        answered = []
        until = time.monotonic() + 2
        while time.monotonic() < until:
            answered.append(await ask(session, 1, "moving.example", ports, 5))
            await asyncio.sleep(0.05)
    assert answered == sorted(answered)
    assert answered[-1] == "127.0.0.2"
    assert answered.count("127.0.0.1") > 10, "a young connection is used again"
    assert moving.asked <= 3


async def test_a_name_at_which_nobody_is_any_more_is_asked_for_anew(
    moving: Moving, ports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 10 s each call, the retries of a task too, went to the address that was remembered."""
    monkeypatch.setattr(http_client, "_DNS_LEAST_SECONDS", 0.3)
    async with open_http_client(EgressGuard(["127.0.0.0/8"])) as session:
        moving.address = "127.0.0.3"
        for _ in range(5):
            with pytest.raises(Broken):
                await ask(session, 1, "moving.example", ports, 5)
        assert moving.asked == 1
        moving.address = "127.0.0.1"
        await asyncio.sleep(0.4)
        with pytest.raises(Broken):
            await ask(session, 1, "moving.example", ports, 5)
        assert await ask(session, 1, "moving.example", ports, 5) == "127.0.0.1"
    assert moving.asked == 2
