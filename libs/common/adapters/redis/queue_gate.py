"""The strict gate of each lane: how many of its tasks may be open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import Call, RedisServer
from libs.common.adapters.redis.owner_sets import HELD, TAKEN, LaneCall, OwnerSets
from libs.common.adapters.redis.rebuild import LaneRebuilder
from libs.common.adapters.redis.script import STEP, Script
from libs.common.ports import SlotRequest, SlotVerdict

RENEW: Final = Script.load("renew")

_VERDICTS: Final = {0: SlotVerdict.FULL, TAKEN: SlotVerdict.TAKEN, HELD: SlotVerdict.HELD}


class RedisQueueGate(OwnerSets):
    """Implements ports.QueueGate; its owners are public ids of tasks. When Redis is away the gate is closed: nobody is
    ever let in uncounted."""

    def __init__(self, redis: RedisServer, rebuilder: LaneRebuilder) -> None:
        super().__init__(redis, rebuilder, keys.gate)

    async def take_many(self, requests: Sequence[SlotRequest]) -> list[SlotVerdict]:
        """Take a slot for each, in order, in one round trip. Never one over the limit.

        Raises GateUnavailable; LaneUnavailable when only some lanes of the batch cannot answer. Slots that were taken
        in others went back then. Without any answer (Redis gone half-way) a slot may stay taken until reconcile.
        """
        verdicts = await self._claim_many(requests, [request.member for request in requests])
        return [_VERDICTS[verdict] for verdict in verdicts]

    async def renew_many(self, lane: int, members: Sequence[str], ttl_ms: int) -> None:
        """Prolong the slots that are past half of their life; adds none. An unknown lane is rebuilt, which renews."""
        calls = [
            LaneCall(lane, Call(RENEW, self._keys_of(lane), (ttl_ms, *members[start : start + STEP])))
            for start in range(0, len(members), STEP)
        ]
        await self._answers(calls)

    async def depths(self, lanes: Sequence[int]) -> list[int]:
        """How many slots of each lane are taken."""
        return await self._count(lanes)
