"""The road out: whenever lanes have due rows and room, take a batch and have it sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import Final

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.ports_dispatch import Carrier, DispatchQueue, LaneAsk, LeasedRow
from libs.common.runtime.backoff import pause, reconnect_delays, set_within
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import histogram
from services.dispatcher.lanes import BATCH, LaneBook
from services.dispatcher.pace import Pace, rest_after
from services.dispatcher.publisher import Publisher
from services.dispatcher.roads import Roads

log = get_logger()

_SMALLEST_BATCH: Final = 16
_LOCKED_PAUSE: Final = 0.005
#: One batch on its way while the next is taken: more would only be given back together when the broker goes.
_SENDS_AT_ONCE: Final = 2
_CLOSE_SECONDS: Final = 0.1
_SETTLE_SECONDS: Final = 10.0


class Relay:
    """Carries due rows of the lanes in the book onto their roads."""

    def __init__(
        self,
        queue: DispatchQueue,
        carrier: Carrier,
        publisher: Publisher,
        book: LaneBook,
        roads: Roads,
        rng: Random,
    ) -> None:
        self._queue = queue
        self._carrier = carrier
        self._publisher = publisher
        self._book = book
        self._roads = roads
        self._rng = rng
        self._number = 0
        self._acknowledged: list[int] = []
        self._sends: set[asyncio.Task[None]] = set()
        self._room_to_send = asyncio.Semaphore(_SENDS_AT_ONCE)
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._pace = Pace(BATCH)
        self._batch = BATCH
        self._sweep_at = 0.0
        self._broker_was_away = False

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def sweep_soon(self) -> None:
        """Hints may have been lost."""
        self._sweep_at = 0.0
        self._wake.set()

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until stopped; what is on its way then is settled first."""
        delays = reconnect_delays(self._rng)
        try:
            while not self._stopped.is_set():
                try:
                    if await self._broker_answers():
                        await self._step()
                    delays = reconnect_delays(self._rng)
                except (Unavailable, OutcomeUnknown) as error:
                    log.warning("relay.database_away", cause=str(error))
                    await pause(next(delays), self._stopped)
                except Exception as error:
                    log.error("relay.turn_failed", error=type(error).__name__, message=str(error)[:500])
                    await pause(next(delays), self._stopped)
        finally:
            await self.settle()

    async def turn(self) -> int:
        """Lease one batch and send it beside the next turn. Returns how many rows it has.

        Raises DatabaseUnavailable, or OutcomeUnknown: then rows may be leased that nobody sends, and the janitor
        gives them back.
        """
        await self._room_to_send.acquire()
        sending = False
        try:
            asks = self._book.take(self._batch)
            rows = await self._lease(asks) if asks else []
            if rows:
                await failpoint("dispatcher/after-lease")
                self._launch(rows)
                sending = True
            return len(rows)
        finally:
            if not sending:
                self._room_to_send.release()

    async def settle(self) -> None:
        """Wait for what is on its way, and close its leases."""
        if self._sends:
            await asyncio.wait(self._sends, timeout=_SETTLE_SECONDS)
        try:
            await self._close_leases()
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("relay.leases_left", cause=str(error))

    async def _step(self) -> None:
        """Wait until there may be something to do, and do it."""
        await self._sweep_when_due()
        if not self._book.has_work:
            await self._rest_idle()
            return
        if (seconds := self._pace.pause()) > 0:
            await asyncio.sleep(seconds)
        self._pace.begin()
        self._pace.end(await self.turn())

    async def _lease(self, asks: Sequence[LaneAsk]) -> Sequence[LeasedRow]:
        done, self._acknowledged = self._acknowledged, []
        began = time.monotonic()
        try:
            if not self._number:
                self._number = await self._queue.new_dispatcher()
            await failpoint("dispatcher/before-lease")
            turn = await self._queue.lease_due(asks, self._book.limit, self._number, done)
        except BaseException:
            self._acknowledged += done
            self._book.abandon()
            raise
        self._book.settle(turn)
        histogram("sluiceway_dispatcher_tick_seconds").observe(time.monotonic() - began)
        histogram("sluiceway_dispatcher_tick_rows").observe(len(turn.rows))
        if turn.busy and not turn.rows:
            await pause(_LOCKED_PAUSE, self._stopped)
        return turn.rows

    def _launch(self, rows: Sequence[LeasedRow]) -> None:
        send = asyncio.get_running_loop().create_task(self._send(rows), name="send")
        self._sends.add(send)
        send.add_done_callback(self._landed)

    async def _send(self, rows: Sequence[LeasedRow]) -> None:
        try:
            back = await self._publisher.publish(rows)
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("relay.lease_left", lease=rows[0].lease, rows=len(rows), cause=str(error))
            return
        self._acknowledged.append(rows[0].lease)
        for place in back:
            self._book.work(*place)
            self._wake.set()
        # A broker that cannot take a batch in time gets smaller ones, lest the same batch go back for ever.
        self._batch = max(self._batch // 2, _SMALLEST_BATCH) if back else min(self._batch * 2, BATCH)

    def _landed(self, send: asyncio.Task[None]) -> None:
        self._sends.discard(send)
        self._room_to_send.release()
        if not send.cancelled() and (error := send.exception()) is not None:
            # A surprise: the lease stays open, and the janitor gives its rows back.
            log.error("relay.send_failed", error=type(error).__name__, message=str(error)[:500])

    async def _rest_idle(self) -> None:
        """Until woken, or the sweep is due; acknowledged leases do not stay open meanwhile."""
        self._wake.clear()
        seconds = self._sweep_at - time.monotonic()
        if not self._acknowledged and not self._sends:
            await set_within(self._wake, seconds)
        elif not await set_within(self._wake, min(seconds, _CLOSE_SECONDS)):
            await self._close_leases()

    async def _sweep_when_due(self) -> None:
        began = time.monotonic()
        if began < self._sweep_at:
            return
        self._book.swept(await self._queue.lanes_with_work())
        ended = time.monotonic()
        self._sweep_at = ended + rest_after(ended - began)

    async def _close_leases(self) -> None:
        done, self._acknowledged = self._acknowledged, []
        if not done:
            return
        try:
            await failpoint("dispatcher/before-close-leases")
            await self._queue.close_leases(done)
        except BaseException:
            self._acknowledged += done
            raise

    async def _broker_answers(self) -> bool:
        """Wait until it does; False when stopped meanwhile. While the broker is away no row is taken, so that nothing
        has to be given back, and no acknowledged lease stays open, lest the janitor take this process for dead."""
        if not self._carrier.reachable:
            delays = reconnect_delays(self._rng, cap=1.0)
            while not await self._carrier.probe():
                self._broker_was_away = True
                log.warning("relay.broker_away", cause=self._carrier.last_error)
                await self._close_leases()
                await pause(next(delays), self._stopped)
                if self._stopped.is_set():
                    return False
        if self._broker_was_away:  # somebody else may have seen it back first
            self._broker_was_away = False
            self._roads.look_at_topics()
        return True
