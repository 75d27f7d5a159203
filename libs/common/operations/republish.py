"""Completion events sent again, for a broker that lost its topic: built from the tasks' rows, under the same ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from libs.common.domain.errors import BrokerUnavailable
from libs.common.operations.event_records import event_record
from libs.common.ports_dispatch import Carrier, EndFilter, Ends, EventRow

_PAGE: Final = 500
#: How often a batch is offered to a broker that does not answer, a second apart.
_TRIES: Final = 10


@dataclass(slots=True)
class Republished:
    """How far it is. `after` is where another run would go on."""

    sent: int = 0
    refused: int = 0
    after: int = 0


class Republish:
    """Sends events straight to the topic, at most `rate` a second. Consumers tell repeated ones by their ids."""

    def __init__(self, ends: Ends, carrier: Carrier, *, topic: str, source: str, partitions: int) -> None:
        self._ends = ends
        self._carrier = carrier
        self._topic = topic
        self._source = source
        self._partitions = partitions

    async def run(
        self, wanted: EndFilter, after: int, rate: float, on_page: Callable[[Republished], None], *, dry_run: bool
    ) -> Republished:
        """Walk all tasks in the order of their ids. Raises BrokerUnavailable; what was sent by then is sent."""
        done = Republished(after=after)
        began = time.monotonic()
        while True:
            rows, following = await self._ends.finals(done.after, _PAGE, wanted)
            if rows:
                refused = 0 if dry_run else await self._send(rows)
                done.sent += len(rows) - refused
                done.refused += refused
            done.after = following or done.after
            on_page(done)
            if following is None:
                return done
            if not dry_run:
                await asyncio.sleep(max(0.0, began + done.sent / rate - time.monotonic()))

    async def _send(self, rows: Sequence[EventRow]) -> int:
        """Until each is acknowledged or refused for its own sake; returns how many were refused."""
        records = [
            event_record(row, topic=self._topic, source=self._source, partitions=self._partitions) for row in rows
        ]
        refused = 0
        for _ in range(_TRIES):
            verdicts = await self._carrier.send(records)
            refused += sum(1 for verdict in verdicts if verdict.refused)
            records = [
                record
                for record, verdict in zip(records, verdicts, strict=True)
                if not verdict.acknowledged and not verdict.refused
            ]
            if not records:
                return refused
            await asyncio.sleep(1)
        raise BrokerUnavailable(self._carrier.last_error or "the events topic is not there")
