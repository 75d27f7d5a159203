"""The permits of each lane: how many of its calls may run at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import Call, RedisServer
from libs.common.adapters.redis.owner_sets import LaneCall, OwnerSets
from libs.common.adapters.redis.rebuild import LaneRebuilder
from libs.common.adapters.redis.script import STEP, Script
from libs.common.ports import PermitRequest

RENAME: Final = Script.load("rename")


class RedisPermits(OwnerSets):
    """Implements ports.Permits; its owners are tokens. When Redis is away nobody gets a permit; running calls go on."""

    def __init__(self, redis: RedisServer, rebuilder: LaneRebuilder) -> None:
        super().__init__(redis, rebuilder, keys.permits, keys.waiting)

    async def acquire_many(self, requests: Sequence[PermitRequest]) -> list[bool]:
        """Grant what there is room for, in order; a token that has a permit already gets it again.

        Raises GateUnavailable; LaneUnavailable when only some lanes of the batch cannot answer. Without any answer
        (Redis gone half-way) a permit may stay taken until it is released, reconciled or lapses.
        """
        verdicts = await self._claim_many(requests, [request.token for request in requests])
        return [verdict != 0 for verdict in verdicts]

    async def rename_many(self, renames: Sequence[tuple[int, str, str, int]]) -> None:
        """Hand permits (lane, old token, new token, ttl_ms) over without a moment in between.

        The new token holds a permit afterwards in any case, since its call runs already.
        """
        by_lane: dict[int, list[tuple[str, str, int]]] = {}
        for lane, old, new, ttl_ms in renames:
            by_lane.setdefault(lane, []).append((old, new, ttl_ms))
        calls = [
            LaneCall(lane, Call(RENAME, self._keys_of(lane), [part for rename in step for part in rename]))
            for lane, all_of_lane in by_lane.items()
            for step in (all_of_lane[start : start + STEP] for start in range(0, len(all_of_lane), STEP))
        ]
        await self._answers(calls)

    async def in_use(self, lanes: Sequence[int]) -> list[int]:
        """How many permits of each lane are taken."""
        return await self._count(lanes)
