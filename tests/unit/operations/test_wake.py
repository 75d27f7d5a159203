"""The lines that the janitor says to dispatchers."""

from __future__ import annotations

from libs.common.operations.wake import Wake
from libs.common.ports_dispatch import Key, Moved, Placed
from libs.common.ports_sweeps import Ended
from tests.support.fakes_redis import FakeHints


def said(hints: FakeHints) -> list[str]:
    assert {channel for channel, _ in hints.lines} <= {"sw:dispatch"}
    return [line for _, line in hints.lines]


def test_each_lane_and_class_is_told_with_its_lowest_key() -> None:
    hints = FakeHints()
    Wake(hints).placed(
        [
            Placed(1, 0, Key(5, 90)),
            Placed(1, 0, Key(0, 100)),
            Placed(1, 1, Key(0, 7)),
            Placed(2, 0, Key(-1, 3)),
            Placed(1, 0, Key(0, 99)),
        ]
    )
    assert said(hints) == ["1 0 0 99", "1 1 0 7", "2 0 -1 3"]


def test_who_moved_is_told_to_listeners_too() -> None:
    hints = FakeHints()
    Wake(hints).moved(Moved(7, 70 + position, Placed(1, 0, Key(0, position))) for position in (3, 2))
    assert said(hints) == ["1 0 0 2"]
    assert hints.changes == [(7, 73), (7, 72)]


def test_ends_make_room_and_events() -> None:
    hints = FakeHints()
    Wake(hints).ended([Ended(7, 70, 3, "a", True), Ended(8, 80, 1, "b", True), Ended(7, 71, 3, "c", False)])
    assert said(hints) == ["1 room", "3 room", "* events"]
    assert hints.changes == [(7, 70), (8, 80), (7, 71)]
    Wake(nothing := FakeHints()).ended([])
    assert (nothing.lines, nothing.changes) == ([], [])
