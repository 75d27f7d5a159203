"""`sluiceway top` on a terminal, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

from tests.support.house import House
from tests.support.sights import alive
from tests.support.slow_proxy import slow_proxy
from tests.support.terminal import terminal


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
