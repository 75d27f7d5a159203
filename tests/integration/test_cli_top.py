"""`sluiceway top` on a terminal, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from tests.support.house import House
from tests.support.sights import alive
from tests.support.slow_proxy import slow_proxy


class Terminal:
    """What a command draws."""

    def __init__(self, process: asyncio.subprocess.Process, ours: int) -> None:
        self.process = process
        self.drawn = b""
        self._ours = ours

    async def shows(self, text: bytes, times: int = 1) -> None:
        """Once it was drawn so often from now on."""
        before = self.drawn.count(text)
        async with asyncio.timeout(40):
            while self.drawn.count(text) < before + times:
                await self._look()

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            while self.process.returncode is None:
                await self._look()
        return self.process.returncode

    async def _look(self) -> None:
        await asyncio.sleep(0.05)
        with suppress(OSError):
            self.drawn += os.read(self._ours, 65_536)


@asynccontextmanager
async def terminal(environment: Mapping[str, str], *arguments: str) -> AsyncIterator[Terminal]:
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *arguments, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, **environment, "TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield Terminal(process, ours)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)


async def test_it_lives_on_the_other_screen(house: House, redis_url: str) -> None:
    await house.model()
    await alive(house)
    stores = {"SLUICEWAY_DATABASE_URL": house.database_url, "SLUICEWAY_REDIS_URL": redis_url}
    async with terminal(stores, "top", "--every", "0.5") as top:
        await top.shows(b"executors", 3)
        top.process.send_signal(signal.SIGINT)
        assert await top.ended() == 130
        assert b"\x1b[?1049h" in top.drawn, "the other screen"
        assert b"\x1b[?1049l" in top.drawn, "and back"
        assert b"Traceback" not in top.drawn


async def test_an_outage_is_watched(house: House, redis_url: str) -> None:
    async with slow_proxy(house.database_url) as proxy:
        stores = {"SLUICEWAY_DATABASE_URL": proxy.url, "SLUICEWAY_REDIS_URL": redis_url}
        async with terminal(stores, "top", "--every", "0.5") as top:
            await top.shows(b"executors")
            proxy.gone = True
            await proxy.close()
            await top.shows(b"no answer since then: no connection to PostgreSQL", 2)
            await top.shows(b"executors")
            proxy.gone = False
            while b"no answer" in top.drawn:
                top.drawn = b""
                await top.shows(b"outbox")
            top.process.send_signal(signal.SIGINT)
            assert await top.ended() == 130
        proxy.gone = True
        async with terminal(stores, "top") as top:
            assert await top.ended() == 3, "the first look tells that nothing is there"


async def test_json_goes_on_behind_an_outage(house: House, redis_url: str) -> None:
    async with slow_proxy(house.database_url) as proxy:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", "top", "--json", "--every", "0.5",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "SLUICEWAY_DATABASE_URL": proxy.url, "SLUICEWAY_REDIS_URL": redis_url},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(40):
                await process.stdout.readline()
                proxy.gone = True
                await proxy.close()
                assert b"no answer since then: no connection to PostgreSQL" in await process.stderr.readline()
                proxy.gone = False
                assert json.loads(await process.stdout.readline())["outbox"]
        finally:
            process.kill()
            await process.communicate()
