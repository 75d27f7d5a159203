"""Keeps a stack of processes running.

Started tier by tier (servers, then services); what dies is started again, and both are reported. A process
that keeps dying is retried ever more slowly, but at least every few seconds: ten seconds after its cause
is gone it must be back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from libs.common.embedded.child import ChildFailed
from libs.common.embedded.server_process import ServerProcess
from libs.common.runtime.backoff import set_within

_LOOK_SECONDS = 0.2
_SETTLED_SECONDS = 10.0
_LONGEST_BACKOFF_SECONDS = 4.0


class State(StrEnum):
    """What became of a process."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(slots=True)
class Charge:
    """A process in our care."""

    process: ServerProcess
    state: State = State.STOPPED
    launched_at: float = 0.0
    deaths_in_a_row: int = 0
    nursing: asyncio.Task[None] | None = field(default=None, repr=False)


Tier = Sequence[ServerProcess]
AfterTier = Callable[[int], Awaitable[None]]


class Supervisor:
    """Starts, watches and stops the processes it was given."""

    def __init__(
        self, tiers: Sequence[Tier], *, report: Callable[[str], None], changed: Callable[[Sequence[Charge]], None]
    ) -> None:
        self._tiers = [[Charge(process) for process in tier] for tier in tiers]
        self._report = report
        self._changed = changed

    @property
    def charges(self) -> list[Charge]:
        """Every process with its state, in starting order."""
        return [charge for tier in self._tiers for charge in tier]

    async def start(self, after_tier: AfterTier | None = None) -> None:
        """Start everything, each tier at once; `after_tier` runs when all of a tier serve.

        Raises ChildFailed for the first that cannot be started; stop() then ends the others.
        """
        for number, tier in enumerate(self._tiers):
            async with asyncio.TaskGroup() as together:
                for charge in tier:
                    together.create_task(self._first_start(charge))
            if after_tier is not None:
                await after_tier(number)

    async def watch(self, until: asyncio.Event) -> None:
        """Start again what dies, until told to end."""
        while not until.is_set():
            for charge in self.charges:
                if charge.state is State.RUNNING and charge.process.pid is None:
                    self._died(charge)
            await set_within(until, _LOOK_SECONDS)

    async def stop(self) -> None:
        """End everything in good order: services in the order they are listed, then the servers, last first."""
        for charge in self.charges:
            if charge.nursing is not None:
                charge.nursing.cancel()
        for together in self._farewells():
            await asyncio.gather(*(self._stop(charge) for charge in together))

    @property
    def stop_seconds(self) -> float:
        """How long that takes at most, where each uses up what it may."""
        return sum(max(charge.process.longest_stop for charge in together) for together in self._farewells())

    def _farewells(self) -> list[list[Charge]]:
        servers, services = self._tiers[0], [charge for tier in self._tiers[1:] for charge in tier]
        roles = dict.fromkeys(charge.process.role for charge in services)
        by_role = [[charge for charge in services if charge.process.role == role] for role in roles]
        return [*by_role, *([charge] for charge in reversed(servers))]

    async def _first_start(self, charge: Charge) -> None:
        charge.launched_at = time.monotonic()
        await charge.process.launch()
        self._become(charge, State.STARTING)
        await charge.process.until_ready()
        self._become(charge, State.RUNNING)

    def _died(self, charge: Charge) -> None:
        process, lived = charge.process, time.monotonic() - charge.launched_at
        charge.deaths_in_a_row = 0 if lived > _SETTLED_SECONDS else charge.deaths_in_a_row + 1
        self._become(charge, State.RESTARTING)
        self._report(f"{process.name} ended with code {process.exit_code} after {lived:.0f} s; log: {process.log_path}")
        charge.nursing = asyncio.create_task(self._bring_back(charge), name=f"restart {process.name}")

    async def _bring_back(self, charge: Charge) -> None:
        process = charge.process
        while True:
            if charge.deaths_in_a_row:
                await asyncio.sleep(min(0.25 * 2**charge.deaths_in_a_row, _LONGEST_BACKOFF_SECONDS))
            charge.launched_at = time.monotonic()
            try:
                await process.launch()
                break
            except (ChildFailed, OSError) as error:
                charge.deaths_in_a_row += 1
                self._report(f"{process.name} cannot be started: {error}")
        # Not ready is no reason to kill it: it may be waiting for a server that is coming back as well.
        if await _serves(process):
            took = time.monotonic() - charge.launched_at
            self._report(f"{process.name} runs again as process {process.pid}, ready after {took:.1f} s")
        self._become(charge, State.RUNNING)  # or it died again, which the next look finds

    async def _stop(self, charge: Charge) -> None:
        await charge.process.stop()
        self._become(charge, State.STOPPED)

    def _become(self, charge: Charge, state: State) -> None:
        charge.state = state
        self._changed(self.charges)


async def _serves(process: ServerProcess) -> bool:
    while process.pid is not None:
        if await process.probe():
            return True
        await asyncio.sleep(0.1)
    return False
