"""The life of a process: open, run, drain, close."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Final, NamedTuple, Protocol, TypeAlias

import uvloop

from libs.common.domain.errors import WrongSetting
from libs.common.runtime import collector, metrics
from libs.common.runtime.health import Health
from libs.common.runtime.loading import loading
from libs.common.runtime.logging import get_logger
from libs.common.runtime.open_files import raise_limit
from libs.common.runtime.probe_server import open_probe_server
from libs.common.runtime.start import begin, report
from libs.common.settings import Settings

log = get_logger()

PARENT_VARIABLE: Final = "SLUICEWAY_PARENT_PID"
_PR_SET_PDEATHSIG: Final = 1
_CANCEL_SECONDS: Final = 5.0  #: what a cancelled service gets to let go of its work


class Service(Protocol):
    """What a process does once its resources are open."""

    async def run(self) -> None:
        """Work until stopped, and return when the work under way has ended."""

    def stop(self) -> None:
        """Take no more."""


class Address(NamedTuple):
    """Where to listen; port 0 is any free one."""

    host: str
    port: int


def serve(
    service_context: AbstractAsyncContextManager[Service],
    *,
    drain: timedelta,
    health: Health,
    probes: Address | None,
) -> int:
    """Run a service to its end; returns the exit code of the process: 0 when it ended or was stopped, 1 when it failed,
    2 when a setting cannot be used.

    The only handler of SIGTERM and SIGINT: the first one calls `stop()`, gives `run()` the time of `drain` to return
    and then cancels it; a second one, or one before the resources are open, cancels at once. Resources are closed in
    every case. Probes and metrics are answered from before the resources open until they are closed, unless the service
    answers them itself.
    """
    die_with_parent()
    raise_limit()
    metrics.announce_build(health.role)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Life(drain, health, probes).lead(service_context))


#: Opens what a service needs; the service is what it yields.
OpenService: TypeAlias = Callable[[Settings, Health], AbstractAsyncContextManager[Service]]


def run_role(role: str, load: Callable[[], OpenService], *, probes: bool = True) -> int:
    """A service that is told by the environment; see `serve`. Only with settings that can be used are its modules
    loaded. Probes are answered at the address of its settings, unless it answers them itself.
    """
    settings = begin(role)
    with loading():
        open_service = load()
    health = Health(role)
    return serve(
        open_service(settings, health),
        drain=timedelta(seconds=settings.drain_seconds),
        health=health,
        probes=Address(settings.health_host, settings.health_port) if probes else None,
    )


class _Life:
    def __init__(self, drain: timedelta, health: Health, probes: Address | None) -> None:
        self._drain_seconds = drain.total_seconds()
        self._health = health
        self._probes = probes
        self._asked = asyncio.Event()

    async def lead(self, context: AbstractAsyncContextManager[Service]) -> int:
        loop = asyncio.get_running_loop()
        life = asyncio.create_task(self._live(context), name="life")
        for wish in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(wish, self._on_signal, wish, life)
        try:
            await life
        except asyncio.CancelledError:
            log.warning("process.cut_off")
            return 0 if self._asked.is_set() else 1
        except WrongSetting as wrong:
            return report(wrong)
        except Exception as error:
            log.error("process.failed", error=type(error).__name__, exc_info=True)
            return 1
        finally:
            # From here on a signal ends the process at once, should a library's thread hang on.
            for wish in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(wish)
        log.info("process.stopped")
        return 0

    def _on_signal(self, wish: signal.Signals, life: asyncio.Task[None]) -> None:
        at_once = self._asked.is_set() or not self._health.started
        log.info("process.asked_to_stop", signal=wish.name, at_once=at_once)
        self._asked.set()
        if at_once:
            life.cancel()

    async def _live(self, context: AbstractAsyncContextManager[Service]) -> None:
        began = time.monotonic()
        watching = [
            asyncio.create_task(self._health.watch_loop(), name="watch-loop"),
            asyncio.create_task(collector.watch(), name="watch-memory"),
        ]
        try:
            answering = open_probe_server(self._health, *self._probes) if self._probes else nullcontext()
            async with answering, context as service:
                collector.relieve()
                self._health.mark_started()
                log.info("process.started", seconds=round(time.monotonic() - began, 3))
                await self._run_until_asked(service)
        finally:
            for watch in watching:
                watch.cancel()

    async def _run_until_asked(self, service: Service) -> None:
        running = asyncio.create_task(service.run(), name="service")
        asking = asyncio.create_task(self._asked.wait(), name="asked-to-stop")
        try:
            await asyncio.wait((running, asking), return_when=asyncio.FIRST_COMPLETED)
            self._health.mark_draining()
            if not running.done():
                service.stop()
                await asyncio.wait((running,), timeout=self._drain_seconds)
        finally:
            asking.cancel()
            cut_off = running.cancel()
            if cut_off:
                log.warning("process.work_cut_off")
                await asyncio.wait((running,), timeout=_CANCEL_SECONDS)
        if not running.done():
            log.error("process.work_hangs")
        elif not (cut_off and running.cancelled()):
            _raise_failure(running)


def _raise_failure(running: asyncio.Task[None]) -> None:
    if running.cancelled():
        raise RuntimeError("the service was cancelled from within")
    running.result()


def die_with_parent() -> None:
    """Get SIGTERM when the parent that SLUICEWAY_PARENT_PID names is gone; without that variable do nothing.

    Call it in the main thread. Raises SystemExit when the parent is gone already.
    """
    named = os.environ.get(PARENT_VARIABLE)
    if not named:
        return
    parent = int(named)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    else:
        threading.Thread(target=_watch_parent, args=(parent,), name="watch-parent", daemon=True).start()
    if os.getppid() != parent:  # it died before the kernel knew our wish
        sys.exit(f"the parent process {parent} is gone")


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    with suppress(OSError):
        os.kill(os.getpid(), signal.SIGTERM)
