"""The supervisor and a process that keeps dying."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from libs.common.embedded.child import Command
from libs.common.embedded.server_process import ServerProcess
from libs.common.embedded.supervisor import State, Supervisor
from tests.support.processes import send


class Sleeper(ServerProcess):
    """Does nothing; ends with code 7 as long as the file `broken` exists."""

    role = "sleeper"

    @property
    def address(self) -> str:
        return "nowhere"

    @property
    def version(self) -> str:
        return "sleeper"

    async def prepare(self) -> None:
        pass

    def command(self) -> Command:
        return Command(["/bin/sh", "-c", "test -e broken && exit 7; exec sleep 60"], self.log_path, folder=self.folder)

    async def probe(self) -> bool:
        return self.pid is not None


@asynccontextmanager
async def watched(process: ServerProcess, said: list[str]) -> AsyncIterator[Supervisor]:
    supervisor, enough = Supervisor([[process]], report=said.append, changed=lambda _: None), asyncio.Event()
    await supervisor.start()
    watching = asyncio.create_task(supervisor.watch(enough))
    try:
        yield supervisor
    finally:
        enough.set()
        await watching
        await supervisor.stop()


async def until(question: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_crash_loop_slows_down_and_ends_when_its_cause_does(tmp_path: Path) -> None:
    said: list[str] = []
    sleeper = Sleeper(tmp_path)
    async with watched(sleeper, said) as supervisor:
        (tmp_path / "broken").touch()
        send(sleeper, signal.SIGKILL)
        began = time.monotonic()
        await until(lambda: len([line for line in said if "ended with code 7" in line]) >= 3, seconds=10)
        assert time.monotonic() - began > 1.5  # 0.5 s, 1 s, 2 s ... and not as fast as it can
        assert f"log: {sleeper.log_path}" in said[-1]
        (tmp_path / "broken").unlink()
        await until(lambda: sleeper.pid is not None, seconds=10)
    assert sleeper.pid is None
    assert [charge.state for charge in supervisor.charges] == [State.STOPPED]
