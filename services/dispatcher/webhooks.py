"""Deliveries on their way to webhooks: one sender at a time, a few at once for each address, none waits for another.

Nothing is written before an attempt: who dies between an answer and its record leaves the delivery due, and it is sent
again under the same id.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Final, TypeVar

from libs.common.contracts import webhook as wire
from libs.common.domain import webhook as rules
from libs.common.domain.errors import OutcomeUnknown, RowsLocked, Unavailable
from libs.common.ports_webhooks import Answer, Deliveries, Delivery, Line, Place, Poster, Reach, Tried
from libs.common.runtime.backoff import pause, reconnect_delays, set_within
from libs.common.runtime.coalescer import Coalescer, CoalescerClosed
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import counter
from libs.common.runtime.shares import on_behalf_of
from services.dispatcher.pace import LONGEST_REST

log = get_logger()

Opener = Callable[[bytes, str], bytes]
Key = TypeVar("Key")

#: At once: to one address, to one that failed last, and in all.
PER_LINE: Final = 4
_PER_FAILING_LINE: Final = 1
_IN_ALL: Final = 1_000
#: What one look reads; where more waits, the next look goes on behind it. What it reads `ahead` for an endpoint is sent
#: as that endpoint's earlier deliveries end: else a quick one would wait for looks more than for answers.
_REACH: Final = Reach(webhooks=200, lines=50, deliveries=PER_LINE, ahead=32)
#: Addresses of which it is known how they answered last.
_MOST_KNOWN: Final = 10_000
_HOLD_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 1.0
_GATHER_SECONDS: Final = 0.02
#: Looks cost at most this share of the time, however many addresses wait for their next attempt.
_LOOK_SHARE: Final = 20
_BURY_SECONDS: Final = 10.0
#: With each look: a webhook that is switched off after days may leave millions, and others' deliveries do not wait.
_BURY: Final = 100
_RECORD_SECONDS: Final = 0.5
_LOCKED_SECONDS: Final = 1.0
#: Never earlier than the schedule says, and spread.
_JITTER: Final = 0.2
_DRAIN_SECONDS: Final = 5.0


class WebhookSender:
    """Sends what is due while this process holds the right to."""

    def __init__(self, deliveries: Deliveries, poster: Poster, open_sealed: Opener, rng: Random) -> None:
        self._deliveries = deliveries
        self._poster = poster
        self._open_sealed = open_sealed
        self._rng = rng
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._holding = False
        self._held_at = float("-inf")
        self._buried_at = float("-inf")
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._ahead: defaultdict[Line, deque[Delivery]] = defaultdict(deque)
        self._over: set[int] = set()  #: ended since the last look was asked: its answer may be older
        self._place = Place()
        self._busy: Counter[Line] = Counter()
        self._busy_of: Counter[int] = Counter()
        self._unsure_of: Counter[int] = Counter()  #: those of them begun at addresses that had not answered well last
        self._accepted: dict[Line, bool] = {}  #: whether it did so last
        self._records: Coalescer[Tried, None] = Coalescer(self._record, locked=deliveries.locked)
        self._looks: Coalescer[Tried, bool] = Coalescer(deliveries.locked)

    def wake(self) -> None:
        """Deliveries were made, or are due."""
        self._wake.set()

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped.set()
        self._wake.set()

    async def run(self) -> None:
        """Work until stopped; what is under way then may end."""
        delays = reconnect_delays(self._rng)
        while not self._stopped.is_set():
            try:
                if await self._may_send():
                    await self._step()
                else:
                    await pause(_HOLD_SECONDS, self._stopped)
                delays = reconnect_delays(self._rng)
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("webhooks.database_away", cause=str(error))
                await pause(next(delays), self._stopped)
            except Exception as error:
                log.error("webhooks.failed", error=type(error).__name__, message=str(error)[:500])
                await pause(next(delays), self._stopped)
        await self._end()

    async def send_due(self) -> int:
        """Begin to send what is due and has room; returns how many. Raises DatabaseUnavailable."""
        begun = 0
        self._over.clear()
        due, more = await self._deliveries.due(self._place, _REACH)
        if more:
            self._wake.set()
        self._ahead.clear()
        for delivery in due:
            line = (delivery.webhook_id, delivery.line)
            if delivery.id in self._sending or delivery.id in self._over:
                continue
            if self._has_room(line, delivery.tenant_id):
                self._begin(line, delivery)
                begun += 1
            elif not delivery.line:
                self._ahead[line].append(delivery)
        return begun

    async def idle(self) -> None:
        """Return when nothing is under way."""
        while self._sending:
            await asyncio.wait(list(self._sending.values()))

    def _has_room(self, line: Line, tenant: int) -> bool:
        """A tenant may have as many sends under way as places are free: alone it gets half of all, and whoever comes
        next finds room, however many addresses of others hang. To addresses that failed last, or were never tried, it
        may have half as many: so its own that answer find room beside its own that hang."""
        accepted, free = self._accepted.get(line), _IN_ALL - len(self._sending)
        at_once = _PER_FAILING_LINE if accepted is False else PER_LINE
        if not accepted and self._unsure_of[tenant] >= free / 2:
            return False
        return self._busy[line] < at_once and self._busy_of[tenant] < free

    async def _may_send(self) -> bool:
        now = time.monotonic()
        if now - self._held_at > _HOLD_SECONDS:
            self._holding = False
            try:
                self._holding = await self._deliveries.hold_sender()
            finally:
                if not self._holding:
                    self._ahead.clear()  # nothing of it is ours to send
            self._held_at = now
        return self._holding

    async def _step(self) -> None:
        self._wake.clear()
        began = time.monotonic()
        if began - self._buried_at > _BURY_SECONDS:
            await failpoint("dispatcher/before-webhook-bury")
            if await self._deliveries.bury(_BURY) < _BURY:
                self._buried_at = began
        await self.send_due()
        await self._rest(min(max(_GATHER_SECONDS, (time.monotonic() - began) * _LOOK_SHARE), LONGEST_REST))
        await set_within(self._wake, _LOOK_SECONDS)

    async def _rest(self, seconds: float) -> None:
        """Until the next look is worth its cost; the right is proved meanwhile, or another sender would have it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopped.is_set() and await self._may_send():
            await pause(min(left, _HOLD_SECONDS), self._stopped)

    def _begin(self, line: Line, delivery: Delivery) -> None:
        self._busy[line] += 1
        self._busy_of[delivery.tenant_id] += 1
        if unsure := not self._accepted.get(line):
            self._unsure_of[delivery.tenant_id] += 1
        self._sending[delivery.id] = sending = asyncio.create_task(self._send(line, delivery), name="webhook")
        sending.add_done_callback(lambda _: self._ended(line, delivery, unsure=unsure))

    def _ended(self, line: Line, delivery: Delivery, *, unsure: bool) -> None:
        del self._sending[delivery.id]
        self._over.add(delivery.id)
        _one_less(self._busy, line)
        _one_less(self._busy_of, delivery.tenant_id)
        if unsure:
            _one_less(self._unsure_of, delivery.tenant_id)
        ahead = self._ahead.get(line)
        if ahead and not self._stopped.is_set() and self._has_room(line, delivery.tenant_id):
            self._begin(line, ahead.popleft())
        self._wake.set()

    async def _send(self, line: Line, delivery: Delivery) -> None:
        on_behalf_of.set(delivery.tenant_id)
        try:
            await failpoint("dispatcher/before-webhook")
            answer = await self._answer(delivery)
            await failpoint("dispatcher/after-webhook")
            self._remember(line, accepted=answer.accepted)
            await self._written(Tried(delivery, answer, self._pause_after(delivery)))
        except CoalescerClosed:
            log.warning("webhooks.not_recorded", delivery=delivery.id)  # it is due again, under the same id
        except Exception as error:
            log.error("webhooks.attempt_failed", error=type(error).__name__, message=str(error)[:200])
            await pause(_LOOK_SECONDS, self._stopped)
        else:
            counter("sluiceway_webhook_attempts_total").labels(result="accepted" if answer.accepted else "failed").inc()

    def _remember(self, line: Line, *, accepted: bool) -> None:
        self._accepted.pop(line, None)
        self._accepted[line] = accepted
        if len(self._accepted) > _MOST_KNOWN:
            del self._accepted[next(iter(self._accepted))]

    async def _answer(self, delivery: Delivery) -> Answer:
        body = delivery.body.encode()
        now = datetime.now(UTC)
        try:
            sealed = self._open_sealed(delivery.secrets, f"webhook:{delivery.tenant_id}")
        except ValueError:
            return Answer(None, "its secret cannot be opened: SLUICEWAY_SECRET_KEYS lacks its key", "", 0)
        secrets, timestamp = wire.decode_secrets(sealed).at(now), int(now.timestamp())
        headers = [
            ("content-type", "application/json"),
            ("user-agent", "Sluiceway"),
            ("webhook-id", delivery.message_id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", wire.sign(secrets, delivery.message_id, timestamp, body)),
        ]
        return await self._poster.post(delivery.url, headers, body)

    def _pause_after(self, delivery: Delivery) -> float | None:
        pause = rules.pause_after(delivery.attempts + 1 - delivery.round)
        return None if pause is None else pause.total_seconds() * (1 + _JITTER * self._rng.random())

    async def _written(self, tried: Tried) -> None:
        """Ask until it is answered: writing it twice changes nothing. One whose rows are locked is not tried until they
        are free: each try would hold up others.
        """
        locked = False
        while True:
            try:
                if not locked or not await self._looks.submit(tried):
                    await self._records.submit(tried)
                    return
            except CoalescerClosed:
                raise
            except (Unavailable, OutcomeUnknown) as error:
                locked = isinstance(error, RowsLocked)
            await asyncio.sleep(_LOCKED_SECONDS if locked else _RECORD_SECONDS)

    async def _record(self, tries: list[Tried]) -> list[None]:
        for webhook in await self._deliveries.tried(tries, rules.GIVE_UP_AFTER.total_seconds()):
            log.warning("webhook.switched_off", webhook=webhook)
        return [None] * len(tries)

    async def _end(self) -> None:
        if self._sending:
            await asyncio.wait(list(self._sending.values()), timeout=_DRAIN_SECONDS)
        await asyncio.gather(self._records.close(_DRAIN_SECONDS), self._looks.close(_DRAIN_SECONDS))
        for sending in list(self._sending.values()):
            sending.cancel()  # it is due again, under the same id
        await self.idle()


def _one_less(busy: Counter[Key], key: Key) -> None:
    busy[key] -= 1
    if not busy[key]:
        del busy[key]
