"""`python -m services.api` as a process of its own."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx

from libs.common.embedded.ports import free_port
from tests.support.api import until_true
from tests.support.nursery import NurseryService


def environment(stores: tuple[str, str], **more: str) -> dict[str, str]:
    """What a process is told about its stores, and nothing that this machine has set."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
    return {
        **own,
        "SLUICEWAY_DATABASE_URL": stores[0],
        "SLUICEWAY_REDIS_URL": stores[1],
        "SLUICEWAY_SECRET_KEYS": "test:" + base64.b64encode(b"k" * 32).decode(),
        "SLUICEWAY_EGRESS_ALLOW": "127.0.0.0/8",
        **more,
    }


@asynccontextmanager
async def forked_api(stores: tuple[str, str], logs: Path, **more: str) -> AsyncIterator[str]:
    """The URL of an API in a process of its own that was quick to start; it ends with kill -9."""
    port = free_port()
    process = NurseryService(
        "api",
        port,
        (sys.executable, "-m", "services.api"),
        environment=environment(stores, SLUICEWAY_API_PORT=str(port), **more),
        port=port,
        logs=logs,
        drain_seconds=0,
    )
    try:
        await process.start()
        yield process.address
    finally:
        await process.kill()


@asynccontextmanager
async def api_process(stores: tuple[str, str], **more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A process of its own and its URL, ready."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.api",
        env=environment(stores, SLUICEWAY_API_PORT=str(port), SLUICEWAY_PARENT_PID=str(os.getpid()), **more),
        stderr=subprocess.PIPE,
    )
    url = f"http://127.0.0.1:{port}"
    try:

        async def ready() -> bool:
            assert process.returncode is None
            with suppress(httpx.TransportError):
                async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as client:
                    return (await client.get("/readyz")).status_code == 200
            return False

        await until_true(ready, seconds=60)
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
