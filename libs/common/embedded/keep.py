"""`sluiceway up`: bring a stack up, keep it up, take it down."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

import psutil

from libs.common.embedded.child import ChildFailed
from libs.common.embedded.postgres_home import elsewhere_said
from libs.common.embedded.running import Report, write_report
from libs.common.embedded.stack import Stack
from libs.common.embedded.supervisor import Charge, Supervisor

Say = Callable[[str], None]
_SERVERS = 0  # the first tier
_MIGRATE = "libs.common.adapters.postgres.migrate"
_AGAIN_SECONDS = 1.0


async def keep_running(stack: Stack, *, say: Say, ready: Callable[[Report], None]) -> int:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; `ready` hears of it once everything serves.

    Call it with the folder's lock held, in the main thread. Returns the exit code: 0 after a wanted end,
    1 when something could not be started (said, with its log). Leaves no process behind.
    """
    keeper = _Keeper(stack, say, ready)
    return await keeper.run()


class _Keeper:
    def __init__(self, stack: Stack, say: Say, ready: Callable[[Report], None]) -> None:
        self._stack, self._say, self._ready = stack, say, ready
        self._stopping = asyncio.Event()
        self._is_ready = False
        self._failure: str | None = None
        self._again: asyncio.TimerHandle | None = None
        self._supervisor = Supervisor([stack.servers, stack.services], report=say, changed=self._publish)

    async def run(self) -> int:
        self._obey_signals()
        self._publish(self._supervisor.charges)
        try:
            if await self._start():
                await self._supervisor.watch(self._stopping)
        except* (ChildFailed, OSError) as errors:
            self._failure = "; ".join(str(error) for error in _leaves(errors))
            self._say(self._failure)
        finally:
            self._is_ready = False
            await self._supervisor.stop()
        return 1 if self._failure else 0

    async def _start(self) -> bool:
        # Two seconds of imports, better spent while initdb works than after it.
        asyncio.get_running_loop().call_later(0.1, import_module, _MIGRATE)
        starting = asyncio.ensure_future(self._supervisor.start(self._after_tier))
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if self._stopping.is_set():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            return False
        await starting
        self._is_ready = True
        self._publish(self._supervisor.charges)
        self._ready(self._report(self._supervisor.charges))
        return True

    async def _after_tier(self, tier: int) -> None:
        if tier != _SERVERS:
            return
        try:
            await import_module(_MIGRATE).upgrade(self._stack.database_url)
        except Exception as error:
            ours = any(server.role == "postgres" for server in self._stack.servers)
            where = "" if ours else " (see SLUICEWAY_DATABASE_URL, or unset it: then a server is started)"
            raise ChildFailed(f"the database cannot be brought to this version's tables: {error}{where}") from error
        if elsewhere := elsewhere_said(self._stack.folder.path):
            self._say(elsewhere)

    def _obey_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for wish in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(wish, self._on_signal)

    def _on_signal(self) -> None:
        if self._stopping.is_set():  # asked twice: now
            for charge in self._supervisor.charges:
                if charge.process.pid is not None:
                    os.kill(charge.process.pid, signal.SIGKILL)
            return
        self._stopping.set()

    def _publish(self, charges: Sequence[Charge]) -> None:
        told_already = self._again is not None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        try:
            write_report(self._stack.folder.path, self._report(charges))
        except OSError as error:  # a full disk is no reason to stop what runs
            if not self._stack.folder.path.is_dir():
                raise  # deleted under us: nobody could find us to stop us
            if not told_already:
                self._say(f"`sluiceway status` shows what was: state.json cannot be written ({error.strerror})")
            self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._publish, charges)

    def _report(self, charges: Sequence[Charge]) -> Report:
        return {
            **self._stack.report,
            "pid": os.getpid(),
            "ready": self._is_ready,
            "failure": self._failure,
            "stop_seconds": self._supervisor.stop_seconds,
            "processes": [_entry(charge) for charge in charges],
        }


def _entry(charge: Charge) -> Report:
    pid, born = charge.process.pid, None
    if pid is not None:
        with suppress(psutil.Error):
            born = psutil.Process(pid).create_time()
    return {
        "role": charge.process.role,
        "name": charge.process.name,
        "pid": pid,
        "state": str(charge.state),
        "log": str(charge.process.log_path),
        "born": born,
    }


def _leaves(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
