"""One lane that cannot be answered for costs its neighbours a few questions, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.errors import GateUnavailable, LaneUnavailable
from libs.common.operations.by_lane import by_lane


class Redis:
    """Answers for a number with its double, but not for the lanes (tens) in `broken`."""

    def __init__(self, *broken: int) -> None:
        self.broken = set(broken)
        self.asked: list[list[int]] = []

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        if self.broken & {number // 10 for number in numbers}:
            raise LaneUnavailable("a key of another kind")
        return [number * 2 for number in numbers]


def lane(number: int) -> int:
    return number // 10


async def test_it_is_one_question_while_every_lane_answers() -> None:
    redis = Redis()
    assert await by_lane(redis, [25, 10, 24], lane) == [50, 20, 48]
    assert await by_lane(redis, [], lane) == []
    assert redis.asked == [[25, 10, 24]]


async def test_a_broken_lane_is_found_by_halving() -> None:
    redis = Redis(50)
    asked = [10 * number + digit for digit in range(5) for number in range(100)]
    answers = await by_lane(redis, asked, lane)
    assert answers == [None if number // 10 == 50 else number * 2 for number in asked]
    assert len(redis.asked) < 25


async def test_redis_away_is_nobodys_lane() -> None:
    async def away(numbers: Sequence[int]) -> list[int]:
        raise GateUnavailable("away")

    with pytest.raises(GateUnavailable):
        await by_lane(away, [1, 2], lane)


@given(st.lists(st.integers(0, 99), max_size=30), st.sets(st.integers(0, 9)))
async def test_whatever_is_broken_the_others_are_answered_in_order(asked: list[int], broken: set[int]) -> None:
    answers = await by_lane(Redis(*broken), asked, lane)
    assert answers == [None if number // 10 in broken else number * 2 for number in asked]
