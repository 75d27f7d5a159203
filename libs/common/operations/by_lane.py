"""Questions to Redis about many lanes at once, of which one may not be answered for.

A batch is one round trip, and one answer or one error. Where the error is a lane's own (it is being rebuilt, a key of
it is of another kind) its neighbours must not share it: whose lanes have nothing in common would wait for each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from libs.common.domain.errors import LaneUnavailable

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


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


def _halves(places: list[int]) -> list[list[int]]:
    half = len(places) // 2
    return [part for part in (places[half:], places[:half]) if part]
