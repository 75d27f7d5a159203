"""The lines that the janitor says to dispatchers."""

from __future__ import annotations

from libs.common.operations.wake import Wake
from libs.common.ports_dispatch import Key, Placed
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


def test_ends_make_room_and_events() -> None:
    hints = FakeHints()
    Wake(hints).ended([3, 1, 3])
    assert said(hints) == ["1 room", "3 room", "* events"]
    Wake(FakeHints()).ended([])
