"""The command line on a terminal, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress


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

    def types(self, text: bytes) -> None:
        """Somebody types."""
        os.write(self._ours, text)

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
