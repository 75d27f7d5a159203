"""How far apart turns begin."""

from __future__ import annotations

import pytest

from services.dispatcher.pace import Pace


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def settled(rate: float, spacing: float = 0.01, full: int = 500) -> tuple[Pace, Clock]:
    """After half a second at that many rows a second; at the beginning of a turn that brought one row."""
    clock = Clock()
    pace = Pace(full, clock)
    for _ in range(50):
        clock.now += spacing
        pace.begin()
        pace.end(int(rate * spacing))
    clock.now += spacing
    pace.begin()
    pace.end(1)
    return pace, clock


@pytest.mark.parametrize(
    ("rate", "spacing"), [(0, 0.002), (100, 0.002), (1_000, 0.005), (3_000, 0.015), (20_000, 0.015)]
)
def test_the_spacing_grows_with_the_rate(rate: float, spacing: float) -> None:
    pace, _ = settled(rate)
    assert pace.pause() == pytest.approx(spacing, rel=0.1)


def test_what_has_passed_already_is_not_waited_for() -> None:
    pace, clock = settled(1_000)
    clock.now += 0.004
    assert 0 < pace.pause() < 0.0015
    clock.now += 1
    assert pace.pause() < 0


def test_full_turns_follow_each_other_at_once() -> None:
    pace, _ = settled(20_000)
    pace.end(250)
    assert pace.pause() == 0


def test_it_comes_to_rest() -> None:
    pace, clock = settled(20_000)
    for _ in range(10):
        clock.now += 0.5
        pace.begin()
        pace.end(1)
    assert pace.pause() == pytest.approx(0.002, rel=0.5)
