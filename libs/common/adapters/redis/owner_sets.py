"""Sets of owners with an expiry, one for each lane: what slots and permits have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.connection import NO_TEXT, Answer, Call, RedisServer
from libs.common.adapters.redis.rebuild import LaneRebuilder, LaneUnknown, restore_calls
from libs.common.adapters.redis.script import STEP, Script
from libs.common.contracts.hints import PERMIT
from libs.common.domain.errors import GateUnavailable, LaneUnavailable
from libs.common.runtime.logging import get_logger

log = get_logger()

CLAIM: Final = Script.load("claim")
COUNT: Final = Script.load("count")
MISSING: Final = Script.load("missing")
RELEASE: Final = Script.load("release")

TAKEN: Final = 1
HELD: Final = 2


class Claim(Protocol):
    """What a request for a place says besides its owner."""

    @property
    def lane(self) -> int: ...
    @property
    def limit(self) -> int: ...
    @property
    def ttl_ms(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LaneCall:
    """A script for one lane."""

    lane: int
    call: Call


class OwnerSets:
    """All sets of one kind. With a `waiting_key`, a refusal makes the next release of that lane publish a wake."""

    def __init__(
        self,
        redis: RedisServer,
        rebuilder: LaneRebuilder,
        set_key: Callable[[int], str],
        waiting_key: Callable[[int], str] | None = None,
    ) -> None:
        self._redis = redis
        self._rebuilder = rebuilder
        self._set_key = set_key
        self._waiting_key = waiting_key

    async def release_many(self, places: Iterable[tuple[int, str]]) -> None:
        """Take owners out of their lanes, twice changes nothing. Raises GateUnavailable after having tried all."""
        by_lane: dict[int, list[str]] = {}
        for lane, owner in places:
            by_lane.setdefault(lane, []).append(owner)
        calls = [
            Call(RELEASE, self._release_keys(lane), (lane, PERMIT, *owners[start : start + STEP]))
            for lane, owners in by_lane.items()
            for start in range(0, len(owners), STEP)
        ]
        if calls:
            _raise_first(await self._redis.run(calls))

    async def restore(self, lane: int, owners: Sequence[tuple[str, int]]) -> None:
        """Add owners (owner, ttl_ms) that PostgreSQL knows, past the limit too. Raises GateUnavailable."""
        calls = restore_calls((self._set_key(lane),), owners)
        if calls:
            _raise_first(await self._redis.run(calls))

    async def missing(self, lane: int, owners: Sequence[str]) -> list[str]:
        """Those that have no place, or one that has lapsed. Raises GateUnavailable."""
        steps = [owners[start : start + STEP] for start in range(0, len(owners), STEP)]
        calls = [LaneCall(lane, Call(MISSING, self._keys_of(lane), step)) for step in steps]
        answers = await self._answers(calls)
        return [step[number - 1] for step, (_, *numbers) in zip(steps, answers, strict=True) for number in numbers]

    async def members(self, lane: int, cursor: int, count: int) -> tuple[int, list[str]]:
        """A page of owners, lapsed ones not dropped yet included; the next cursor is 0 at the end. Raises
        GateUnavailable."""
        ((next_cursor, page),) = await self._redis.command_many(
            [("ZSCAN", self._set_key(lane), cursor, "COUNT", count)]
        )
        return int(next_cursor), [owner.decode(errors=NO_TEXT) for owner in page[::2]]

    async def _claim_many(self, claims: Sequence[Claim], owners: Sequence[str]) -> list[int]:
        """TAKEN, HELD or 0 for each, in order, in one round trip.

        Raises GateUnavailable; LaneUnavailable when nothing but lanes' own trouble was met. What one lane gave is
        returned if another one cannot answer; when no answer comes back at all, places may stay taken until they
        lapse or are reconciled: too few is safe, too many is not.
        """
        calls, places = self._claim_calls(claims, owners)
        answers = await self._run_known(calls)
        verdicts = [0] * len(claims)
        failure: GateUnavailable | None = None
        for answer, indices in zip(answers, places, strict=True):
            if isinstance(answer, GateUnavailable):
                if failure is None or isinstance(failure, LaneUnavailable):
                    failure = answer
                continue
            for index, verdict in zip(indices, answer, strict=True):
                verdicts[index] = verdict
        if failure is not None:
            taken = [index for index, verdict in enumerate(verdicts) if verdict == TAKEN]
            await self._undo([(claims[index].lane, owners[index]) for index in taken])
            raise failure
        return verdicts

    async def _count(self, lanes: Sequence[int]) -> list[int]:
        """Places taken in each lane. Raises GateUnavailable."""
        calls = [LaneCall(lane, Call(COUNT, self._keys_of(lane), ())) for lane in lanes]
        return [int(answer[0]) for answer in await self._answers(calls)]

    def _keys_of(self, lane: int) -> tuple[str, ...]:
        """The set of a lane, and what tells that it is complete."""
        return self._set_key(lane), keys.known(lane)

    async def _answers(self, calls: Sequence[LaneCall]) -> list[Answer]:
        """What scripts answer, unknown lanes rebuilt; raises the first GateUnavailable after having tried all."""
        return _raise_first(await self._run_known(calls))

    async def _run_known(self, calls: Sequence[LaneCall]) -> list[Answer | GateUnavailable]:
        """Run scripts in one round trip; lanes that are unknown are rebuilt, and their calls repeated once."""
        answers = await self._redis.run([lane_call.call for lane_call in calls])
        unknown = [index for index, answer in enumerate(answers) if answer == []]
        if unknown:
            await self._repeat(calls, unknown, answers)
        return answers

    async def _repeat(
        self, calls: Sequence[LaneCall], unknown: Sequence[int], answers: list[Answer | GateUnavailable]
    ) -> None:
        failures = await self._rebuilder.ensure_known(calls[index].lane for index in unknown)
        known: list[int] = []
        for index in unknown:
            failure = failures.get(calls[index].lane)
            if failure is None:
                known.append(index)
            else:
                answers[index] = failure
        if not known:
            return
        try:
            again = await self._redis.run([calls[index].call for index in known])
        except GateUnavailable as error:
            again = [error] * len(known)  # a value, so that what other lanes gave can go back
        for index, answer in zip(known, again, strict=True):
            answers[index] = LaneUnknown(f"lane {calls[index].lane} was lost again") if answer == [] else answer

    async def _undo(self, places: Sequence[tuple[int, str]]) -> None:
        try:
            await self.release_many(places)
        except GateUnavailable as error:
            log.warning("places.leaked", count=len(places), message=str(error))

    def _claim_calls(self, claims: Sequence[Claim], owners: Sequence[str]) -> tuple[list[LaneCall], list[list[int]]]:
        """One script for each lane (more if limits differ, or of more than STEP owners), and whom it is for."""
        calls: list[LaneCall] = []
        places: list[list[int]] = []
        open_calls: dict[int, tuple[Claim, list[str | int], list[int]]] = {}
        for index, (claim, owner) in enumerate(zip(claims, owners, strict=True)):
            lane = claim.lane
            first, arguments, indices = open_calls.get(lane, (None, [], []))
            if first is None or first.limit != claim.limit or first.ttl_ms != claim.ttl_ms or len(indices) >= STEP:
                arguments, indices = [claim.limit, claim.ttl_ms], []
                open_calls[lane] = (claim, arguments, indices)
                calls.append(LaneCall(lane, Call(CLAIM, self._claim_keys(lane), arguments)))
                places.append(indices)
            arguments.append(owner)
            indices.append(index)
        return calls, places

    def _claim_keys(self, lane: int) -> tuple[str, ...]:
        return self._keys_of(lane) if self._waiting_key is None else (*self._keys_of(lane), self._waiting_key(lane))

    def _release_keys(self, lane: int) -> tuple[str, ...]:
        return (self._set_key(lane),) if self._waiting_key is None else (self._set_key(lane), self._waiting_key(lane))


def _raise_first(answers: Sequence[Answer | GateUnavailable]) -> list[Answer]:
    checked: list[Answer] = []
    for answer in answers:
        if isinstance(answer, GateUnavailable):
            raise answer
        checked.append(answer)
    return checked
