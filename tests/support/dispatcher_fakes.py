"""A broker, a gate and hints in memory, with switches for what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from libs.common.domain.errors import BrokerUnavailable, GateUnavailable
from libs.common.ports import SlotRequest, SlotVerdict
from libs.common.ports_dispatch import Record, SendVerdict, TopicPlan


class FakeCarrier:
    """Implements ports_dispatch.Carrier: `away` answers nothing, `refuses` and `ignores` name topics or values."""

    def __init__(self) -> None:
        self.sent: list[Record] = []
        self.away = False
        self.refuses: set[str] = set()
        self.ignores: set[str] = set()
        self.probes = 0
        self.hold: asyncio.Event | None = None
        self.reachable = False
        self.last_error = ""

    async def send(self, records: Sequence[Record]) -> list[SendVerdict]:
        if self.hold is not None:
            await self.hold.wait()
        self.reachable = not self.away
        return [self._judge(record) for record in records]

    def _judge(self, record: Record) -> SendVerdict:
        if self.away or record.topic in self.ignores:
            self.last_error = "away" if self.away else "no leader"
            return SendVerdict(False)
        if record.topic in self.refuses:
            return SendVerdict(False, "MessageSizeTooLargeError")
        self.sent.append(record)
        return SendVerdict(True)

    async def probe(self) -> bool:
        self.probes += 1
        self.reachable = not self.away
        return self.reachable


class FakeTopics:
    """Implements ports_dispatch.Topics: makes what it is asked for, but for the names in `refuses`."""

    def __init__(self) -> None:
        self.there: dict[str, int] = {}
        self.refuses: set[str] = set()
        self.away = False
        self.grows = True
        self.calls: list[list[str]] = []
        self.while_asked: Callable[[], object] = lambda: None
        self.refused: dict[str, str] = {}

    async def ensure(self, plans: Mapping[str, TopicPlan]) -> dict[str, int]:
        self.calls.append(list(plans))
        self.while_asked()
        if self.away:
            raise BrokerUnavailable("away")
        self.refused = {name: "not authorized" for name in plans if name in self.refuses}
        for name, plan in plans.items():
            if name not in self.refuses:
                there = self.there.get(name, 0)
                self.there[name] = max(plan.partitions, there) if self.grows or not there else there
        return {name: self.there[name] for name in plans if name in self.there}

    async def existing(self) -> dict[str, int]:
        if self.away:
            raise BrokerUnavailable("away")
        return dict(self.there)


class FakeGate:
    """Implements ports.QueueGate as far as a dispatcher uses it."""

    def __init__(self) -> None:
        self.released: list[tuple[int, str]] = []
        self.away = False

    async def release_many(self, slots: Sequence[tuple[int, str]]) -> None:
        if self.away:
            raise GateUnavailable("away")
        self.released += slots

    async def take_many(self, requests: Sequence[SlotRequest]) -> list[SlotVerdict]:
        raise NotImplementedError

    async def renew_many(self, lane: int, members: Sequence[str], ttl_ms: int) -> None:
        raise NotImplementedError

    async def restore(self, lane: int, slots: Sequence[tuple[str, int]]) -> None:
        raise NotImplementedError

    async def depths(self, lanes: Sequence[int]) -> list[int]:
        raise NotImplementedError

    async def members(self, lane: int, cursor: int, count: int) -> tuple[int, list[str]]:
        raise NotImplementedError
