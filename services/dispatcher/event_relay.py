"""Completion events on their way to Kafka: one relay at a time, in order, deleted when they are acknowledged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Final

from libs.common.contracts.topics import EVENT_PARTITIONS
from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.operations.event_records import event_record
from libs.common.ports_dispatch import Carrier, EventKey, EventRow, Events, TopicPlan
from libs.common.runtime.backoff import delay_after, pause, reconnect_delays, set_within
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter, gauge
from services.dispatcher.pace import Pace, rest_after
from services.dispatcher.topic_keeper import TopicKeeper
from services.dispatcher.webhook_events import hooked_event

log = get_logger()

BATCH: Final = 500
#: An event that the broker refused this often is dead.
MAX_SENDS: Final = 20
#: Hints wake it; this is how often it looks by itself: soon after events came, more and more seldom when none come.
_FIRST_PAUSE: Final = 0.03
_LONGEST_PAUSE: Final = 0.5
_GROWTH: Final = 1.6
#: How often the right to relay is asked for, or proved to be still ours.
_HOLD_SECONDS: Final = 2.0
_REFUSED_LOOK_SECONDS: Final = 1.0


class Gaps:
    """Numbers below the cursor that were not there yet: their transactions may commit late."""

    LIFE_SECONDS: Final = 10.0
    _MOST: Final = 1_000

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, float] = {}

    def missing(self) -> list[int]:
        """The numbers to ask for, oldest first; those that never came are forgotten."""
        now = self._clock()
        while self._seen:
            number = next(iter(self._seen))
            if now - self._seen[number] <= self.LIFE_SECONDS:
                break
            del self._seen[number]
        return list(self._seen)

    def skipped(self, numbers: Iterable[int]) -> None:
        """They were passed over."""
        now = self._clock()
        for number in numbers:
            if len(self._seen) >= self._MOST:
                return  # the cursor is cleared soon enough
            self._seen.setdefault(number, now)

    def found(self, numbers: Iterable[int]) -> None:
        """They came after all."""
        for number in numbers:
            self._seen.pop(number, None)

    def clear(self) -> None:
        """Everything is read from the beginning."""
        self._seen.clear()


class EventRelay:
    """Sends events while this process holds the right to."""

    def __init__(
        self,
        events: Events,
        carrier: Carrier,
        keeper: TopicKeeper,
        *,
        topic: str,
        source: str,
        rng: Random,
        public_url: str = "",
        delivered: Callable[[], None] = lambda: None,
    ) -> None:
        """`delivered` is told when deliveries were made of events; their links begin with `public_url`."""
        self._public_url = public_url
        self._delivered = delivered
        self._events = events
        self._carrier = carrier
        self._keeper = keeper
        self._topic = topic
        self._source = source
        self._rng = rng
        self._partitions = 0  #: none while the topic is not there
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._gaps = Gaps()
        self._cursor = 0
        self._clear_at = 0.0
        self._held_at = float("-inf")
        self._holding = False
        self._due_at = 0.0
        self._pause_seconds = _FIRST_PAUSE
        self._pace = Pace(BATCH)
        self._acknowledged: list[EventKey] = []

    @property
    def refused(self) -> str:
        """Why the broker refuses the topic of events; empty when it does not."""
        return self._keeper.refused().get(self._topic, "")

    def wake(self) -> None:
        """Events were written."""
        self._wake.set()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until stopped."""
        self._keeper.want(self._topic, TopicPlan(EVENT_PARTITIONS), self._on_topic)
        delays = reconnect_delays(self._rng)
        while not self._stopped.is_set():
            try:
                if await self._may_send():
                    await self._step()
                delays = reconnect_delays(self._rng)
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("events.database_away", cause=str(error))
                await self._start_over(next(delays))
            except Exception as error:
                log.error("events.failed", error=type(error).__name__, message=str(error)[:500])
                await self._start_over(next(delays))
        await self._settle_at_last()

    async def pass_on(self) -> int:
        """Send what is there now; returns how many events were acknowledged. Raises DatabaseUnavailable."""
        began = time.monotonic()
        cleared = await self._clear_when_due(began)
        if self._acknowledged:
            await failpoint("dispatcher/before-event-delete")
        rows = await self._events.after(self._cursor, BATCH, self._gaps.missing(), self._acknowledged)
        self._acknowledged = []
        if cleared:
            self._clear_at = began + rest_after(time.monotonic() - began)
        self._advance([row.id for row in rows])
        if began >= self._due_at:
            self._due_at = began + _REFUSED_LOOK_SECONDS
            rows += await self._events.due(BATCH)
        return await self._send(rows) if rows else 0

    async def settle(self) -> None:
        """Delete what was acknowledged. Raises DatabaseUnavailable."""
        if self._acknowledged:
            await failpoint("dispatcher/before-event-delete")
            await self._events.sent(self._acknowledged)
            self._acknowledged = []

    async def _may_send(self) -> bool:
        """Whether the broker answers, the topic is there and this process is the relay; waits a little if not."""
        now = time.monotonic()
        if now - self._held_at > _HOLD_SECONDS:
            held, self._holding = self._holding, False
            try:
                self._holding = await self._events.hold_relay()
            finally:  # without PostgreSQL nobody says that it still is
                gauge("sluiceway_event_relay_owner").set(self._holding)
            self._held_at = now
            if self._holding and not held:
                self._clear()
                log.info("events.relay_is_ours")
        if not self._holding:
            await pause(_HOLD_SECONDS, self._stopped)
        elif not self._carrier.reachable and not await self._carrier.probe():
            log.warning("events.broker_away", cause=self._carrier.last_error)
            await pause(_LONGEST_PAUSE, self._stopped)
        elif not self._partitions:
            await pause(_FIRST_PAUSE, self._stopped)
        else:
            return True
        return False

    async def _step(self) -> None:
        self._wake.clear()
        self._pace.begin()
        sent = await self.pass_on()
        self._pace.end(sent)
        self._pause_seconds = _FIRST_PAUSE if sent else min(self._pause_seconds * _GROWTH, _LONGEST_PAUSE)
        woken = await set_within(self._wake, 0 if sent == BATCH else self._pause_seconds)
        if woken and (seconds := self._pace.pause()) > 0:
            await asyncio.sleep(seconds)

    async def _send(self, rows: Sequence[EventRow]) -> int:
        await failpoint("dispatcher/before-event-publish")
        records = [
            event_record(row, topic=self._topic, source=self._source, partitions=self._partitions) for row in rows
        ]
        verdicts = await self._carrier.send(records)
        sent = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict.acknowledged]
        refused = [(row, verdict.refused) for row, verdict in zip(rows, verdicts, strict=True) if verdict.refused]
        published = counter("sluiceway_events_published_total")
        if sent:
            self._acknowledged += [row.key for row in sent if not row.hooked]  # the next read deletes them
            await self._hand_over([row for row in sent if row.hooked])
            self._keeper.trust(self._topic)
            published.labels(result="acknowledged").inc(len(sent))
        if refused:
            await self._put_off(refused)
            published.labels(result="refused").inc(len(refused))
        if len(sent) + len(refused) < len(rows):
            # They stay where they are and are read again from the beginning.
            await self.settle()
            self._clear()
            if self._carrier.reachable or await self._carrier.probe():
                self._keeper.doubt(self._topic)
        return len(sent)

    async def _hand_over(self, rows: Sequence[EventRow]) -> None:
        """Those that webhooks may want are deleted by the statement that makes their deliveries."""
        if not rows:
            return
        await failpoint("dispatcher/before-hand-to-webhooks")
        if await self._events.hand_over([hooked_event(row, self._public_url) for row in rows]):
            self._delivered()

    async def _put_off(self, refused: Sequence[tuple[EventRow, str]]) -> None:
        rows = [(row.key, delay_after(row.sends + 1, self._rng).total_seconds(), cause) for row, cause in refused]
        await failpoint("dispatcher/before-event-put-off")
        dead = await self._events.refused(rows, MAX_SENDS)
        log.warning("events.refused", events=len(rows), dead=len(dead), cause=refused[0][1])

    def _advance(self, numbers: Sequence[int]) -> None:
        new = sorted(number for number in numbers if number > self._cursor)
        self._gaps.found(numbers)
        if not new:
            return
        if self._cursor:  # else the beginning is unknown: everything that is there was read
            there = set(new)
            self._gaps.skipped(number for number in range(self._cursor + 1, new[-1]) if number not in there)
        self._cursor = new[-1]

    async def _clear_when_due(self, now: float) -> bool:
        if now < self._clear_at:
            return False
        await self.settle()  # else they would be read again
        self._clear()
        return True

    def _clear(self) -> None:
        self._cursor = 0
        self._gaps.clear()
        self._clear_at = time.monotonic() + rest_after(0.0)

    async def _settle_at_last(self) -> None:
        try:
            await self.settle()
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("events.not_deleted", events=len(self._acknowledged), cause=str(error))

    async def _start_over(self, seconds: float) -> None:
        # What was acknowledged and not deleted is sent again, under the same ids.
        self._acknowledged = []
        self._clear()
        self._held_at = float("-inf")
        await pause(seconds, self._stopped)

    def _on_topic(self, partitions: int | None) -> None:
        # Fixed for ever, whatever its operators made of the topic: a task's events stay in one partition.
        self._partitions = min(partitions or 0, EVENT_PARTITIONS)
