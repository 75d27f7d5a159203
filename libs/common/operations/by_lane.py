"""Questions to Redis about many lanes at once, of which one may not be answered for.

A batch is one round trip with one answer or one error. An error that is one lane's own (it is being rebuilt, a key of
it is of another kind) must not be its neighbours' too: tenants with nothing in common would wait for each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias, TypeVar
from uuid import UUID

from libs.common.domain.errors import LaneUnavailable

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Place: TypeAlias = tuple[int, str]  #: a lane and who has a place in it
Change = TypeVar("Change", bound=tuple[int, *tuple[object, ...]])  #: of a place: its lane comes first


async def by_lane(
    ask: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer]]],
    asked: Sequence[Asked],
    lane_of: Callable[[Asked], int],
) -> list[Answer | None]:
    """The answers, in order; None to those whose lane cannot be answered for.

    Nearly always one round trip; around each such lane the batch is halved. Raises what else `ask` raises.
    """
    if not asked:
        return []
    try:
        return [*await ask(asked)]
    except LaneUnavailable:
        pass
    answers: list[Answer | None] = [None] * len(asked)
    parts = _halves(sorted(range(len(asked)), key=lambda place: lane_of(asked[place])))
    while parts:
        part = parts.pop()
        try:
            found = await ask([asked[place] for place in part])
        except LaneUnavailable:
            if lane_of(asked[part[0]]) != lane_of(asked[part[-1]]):
                parts += _halves(part)
        else:
            for place, answer in zip(part, found, strict=True):
                answers[place] = answer
    return answers


async def counted_by_lane(
    count: Callable[[Sequence[int]], Awaitable[Sequence[int]]], lanes: Sequence[int]
) -> list[int | None]:
    """What is counted of these lanes, in order; None of those that cannot be answered for."""
    return await by_lane(count, lanes, lambda lane: lane)


async def kept_by_lane(
    change: Callable[[Sequence[Change]], Awaitable[None]], places: Sequence[Change]
) -> dict[Change, None]:
    """Give places back, or others new names; returns those whose lane cannot be answered for. Raises what else `change`
    raises.
    """

    async def ask(some: Sequence[Change]) -> list[bool]:
        await change(some)
        return [True] * len(some)

    answers = await by_lane(ask, places, lambda place: place[0])
    return {place: None for place, answer in zip(places, answers, strict=True) if answer is None}


def members_of_lanes(places: Iterable[tuple[int, UUID]]) -> dict[int, list[UUID]]:
    """Who has these places, lane by lane."""
    lanes: dict[int, list[UUID]] = {}
    for lane, member in places:
        lanes.setdefault(lane, []).append(member)
    return lanes


def _halves(places: list[int]) -> list[list[int]]:
    half = len(places) // 2
    return [part for part in (places[half:], places[:half]) if part]
