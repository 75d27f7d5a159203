"""Whether this process lives, is ready, and has started; and how it says so over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from libs.common.runtime import metrics
from libs.common.runtime.logging import get_logger
from libs.common.runtime.seen import seen

log = get_logger()

PROBE_PATHS: Final = ("/livez", "/readyz", "/startupz", "/metrics")

_TICK_SECONDS: Final = 1.0
_STUCK_SECONDS: Final = 10.0
_CACHE_SECONDS: Final = 1.0
_BUDGET_SECONDS: Final = 1.0
#: Where nobody asks whether it is ready, dependencies are looked at this often for the metrics.
_UNASKED_SECONDS: Final = 10.0


class Answer(NamedTuple):
    """What a probe answers."""

    status: int
    content_type: str
    body: bytes


@dataclass(slots=True)
class _Checked:
    at: float = float("-inf")
    verdicts: dict[str, str] = field(default_factory=dict)


class Health:
    """What probes are told. One for each process; wiring adds what the process needs and what must turn."""

    def __init__(self, role: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.role = role
        self.started = False
        self.draining = False
        self._clock = clock
        self._ticked = clock()
        self._needs: dict[str, Callable[[], Awaitable[object]]] = {}
        self._turning: dict[str, Callable[[], bool]] = {}
        self._checked = _Checked()
        self._checking = asyncio.Lock()
        self._looks: set[asyncio.Task[Any]] = set()

    def need(self, name: str, check: Callable[[], Awaitable[object]]) -> None:
        """Not ready while `check` raises or takes longer than a second. It is asked at most once a second."""
        self._needs[name] = check

    def must_turn(self, name: str, turned_lately: Callable[[], bool]) -> None:
        """Not alive while `turned_lately` says no. For loops whose silence only a restart heals."""
        self._turning[name] = turned_lately

    def mark_started(self) -> None:
        """All resources are open."""
        self.started = True

    def mark_draining(self) -> None:
        """No new work, please: not ready from now on."""
        self.draining = True

    async def watch_loop(self) -> None:
        """Prove that the event loop turns, and measure how late; run it beside the service until cancelled.

        Who reads the metrics alone learns of dependencies, too: they are looked at when nobody else has asked lately.
        """
        lag = metrics.gauge("sluiceway_loop_lag_seconds")
        while True:
            before = self._clock()
            await asyncio.sleep(_TICK_SECONDS)
            self._ticked = self._clock()
            lag.set(max(0.0, self._ticked - before - _TICK_SECONDS))
            if self.started and self._ticked - self._checked.at >= _UNASKED_SECONDS and not self._checking.locked():
                self._keep(asyncio.create_task(self.ready(), name="unasked-readiness"))

    def live(self) -> dict[str, str]:
        """What must turn, and whether it does ("ok" or what is wrong)."""
        verdicts = {"loop": "ok" if self._clock() - self._ticked < _STUCK_SECONDS else "stuck"}
        for name, turned_lately in self._turning.items():
            verdicts[name] = "ok" if turned_lately() else "stuck"
        return verdicts

    async def ready(self) -> dict[str, str]:
        """What this process needs, and whether it is there ("ok", "timeout" or the error's class)."""
        verdicts = {"started": "ok" if self.started else "starting"}
        if self.draining:
            verdicts["draining"] = "draining"
        async with self._checking:  # one look for all who ask at once
            if self._clock() - self._checked.at >= _CACHE_SECONDS:
                looked = await self._look()
                # Its age counts from its end: else who waited for a look that took its whole time would look again.
                self._checked = _Checked(self._clock(), looked)
        return verdicts | self._checked.verdicts

    async def probe(self, path: str) -> Answer:
        """The answer to GET `path`; 404 when it is none of PROBE_PATHS."""
        match path:
            case "/livez":
                return _answer(self.live())
            case "/readyz":
                return _answer(await self.ready())
            case "/startupz":
                return _answer({"started": "ok" if self.started else "starting"})
            case "/metrics":
                return Answer(200, metrics.CONTENT_TYPE, metrics.exposition())
            case _:
                return Answer(404, "application/json", b'{"status":"unknown path"}')

    async def _look(self) -> dict[str, str]:
        looks = {name: asyncio.create_task(_ask(check)) for name, check in self._needs.items()}
        for look in looks.values():
            self._keep(look)  # a late one needs a moment to let go, and nobody waits for it
        if looks:
            _, late = await asyncio.wait(looks.values(), timeout=_BUDGET_SECONDS)
            for look in late:
                look.cancel()
        verdicts = {name: _verdict(look) for name, look in looks.items()}
        for name, verdict in verdicts.items():
            metrics.gauge("sluiceway_dependency_up").labels(dependency=name).set(verdict == "ok")
            if verdict != self._checked.verdicts.get(name, "ok"):
                log.warning("health.changed", dependency=name, verdict=verdict)
        return verdicts

    def _keep(self, look: asyncio.Task[Any]) -> None:
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)
        look.add_done_callback(seen)


async def _ask(check: Callable[[], Awaitable[object]]) -> object:
    return await check()


def _verdict(look: asyncio.Task[object]) -> str:
    if not look.done() or look.cancelled():
        return "timeout"
    error = look.exception()
    # The class only: messages of drivers name hosts and users.
    return "ok" if error is None else type(error).__name__


def _answer(verdicts: dict[str, str]) -> Answer:
    fine = all(verdict == "ok" for verdict in verdicts.values())
    body = orjson.dumps({"status": "ok" if fine else "failing", "checks": verdicts})
    return Answer(200 if fine else 503, "application/json", body)
