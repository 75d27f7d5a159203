"""How far apart turns begin."""

from __future__ import annotations

import pytest

from services.dispatcher.pace import Pace, rest_after


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def settled(rate: float = 0, *, length: float = 0.0) -> tuple[Pace, Clock]:
    """After many turns 0.2 s apart at that many rows a second, each of that length, the last with a single row."""
    clock = Clock()
    pace = Pace(500, clock)
    for turn in range(60):
        clock.now += 0.2 - length
        pace.begin()
        clock.now += length
        pace.end(int(rate * 0.2) if turn < 59 else 1)
    return pace, clock


@pytest.mark.parametrize(("rate", "spacing"), [(0, 0.002), (200, 0.002), (1_000, 0.01), (1_500, 0.015), (20_000, 0.02)])
def test_the_spacing_grows_with_the_rate(rate: float, spacing: float) -> None:
    pace, _ = settled(rate)
    assert pace.pause() == pytest.approx(spacing, rel=0.05)


@pytest.mark.parametrize(("length", "spacing"), [(0.0005, 0.002), (0.002, 0.006), (0.004, 0.012), (0.01, 0.02)])
def test_the_spacing_grows_with_what_a_turn_takes(length: float, spacing: float) -> None:
    pace, _ = settled(length=length)
    assert pace.pause() + length == pytest.approx(spacing, rel=0.05)


def test_a_turn_that_took_long_is_followed_at_once() -> None:
    pace, _ = settled(length=0.1)
    assert pace.pause() < 0


def test_what_has_passed_already_is_not_waited_for() -> None:
    pace, clock = settled(1_000)
    clock.now += 0.008
    assert 0 < pace.pause() < 0.0025
    clock.now += 1
    assert pace.pause() < 0


def test_full_turns_follow_each_other_at_once() -> None:
    pace, _ = settled(20_000)
    pace.end(250)
    assert pace.pause() == 0


def test_it_comes_to_rest() -> None:
    pace, clock = settled(20_000, length=0.05)
    for _ in range(30):
        clock.now += 0.5
        pace.begin()
        pace.end(1)
    assert pace.pause() == pytest.approx(0.002, rel=0.1)


@pytest.mark.parametrize(("cost", "rest"), [(0.0, 1), (0.001, 1), (0.1, 5), (0.3, 15), (20, 15)])
def test_a_dear_look_is_followed_by_a_long_rest_but_not_for_minutes(cost: float, rest: float) -> None:
    assert rest_after(cost) == pytest.approx(rest)
