"""The lines of hints: what is written is what is read, and what is no line of ours says nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import hints
from libs.common.contracts.hints import Room, numbers, read_dispatch, read_sent, ready, room, sent
from libs.common.ports_dispatch import Key, Placed

_LANES = st.integers(1, 2**31 - 1)
_PLACES = st.builds(
    Placed,
    _LANES,
    st.sampled_from([0, 1]),
    st.builds(Key, st.integers(-(2**15), 2**15 - 1), st.integers(-(2**63), 2**63 - 1)),
)


@given(st.lists(_PLACES))
def test_rows_are_read_as_the_lowest_of_each_lane_and_class(rows: list[Placed]) -> None:
    lowest = {
        (lane, klass): Placed(lane, klass, min(row.key for row in rows if (row.lane, row.klass) == (lane, klass)))
        for lane, klass, _ in rows
    }
    assert [read_dispatch(line) for line in ready(rows)] == list(lowest.values())


@given(_LANES, st.integers(0, 1_000))
def test_room_and_partitions_are_read_as_written(lane: int, partition: int) -> None:
    assert read_dispatch(room(lane)) == Room(lane)
    assert read_sent(sent(lane, partition)) == (lane, partition)


@pytest.mark.parametrize(
    "line",
    [f"{2**31} room", "-1 room", f"{2**31} 0 0 1", f"1 0 {2**15} 1", f"1 0 {-(2**15) - 1} 1", f"1 1 0 {2**63}"],
)
def test_a_number_that_no_statement_takes_stops_no_dispatcher(line: str) -> None:
    assert read_dispatch(line) is None


@pytest.mark.parametrize("line", [f"{2**63} 1", f"1 {2**31}", "1 -1", "1", "1 2 3"])
def test_a_number_that_no_statement_takes_stops_no_executor(line: str) -> None:
    assert read_sent(line) is None


def test_ids_are_numbers_of_64_bits() -> None:
    assert numbers(f"{2**63 - 1} {-(2**63)}") == [2**63 - 1, -(2**63)]
    assert numbers(f"1 {2**63}") == numbers(f"{-(2**63) - 1}") == numbers("9" * 5_000) == []


@pytest.mark.parametrize(
    "line",
    ["", " ", "room", "x room", "1 room 2", "1 2 0 5", "1 0 0", "1 0 x 5", "1 0 0 5 6", "\x00", hints.EVENTS_WAIT,
     hints.MODELS_CHANGED],
)  # fmt: skip
def test_what_is_no_line_of_ours_says_nothing(line: str) -> None:
    assert read_dispatch(line) is None


@given(st.text())
def test_no_line_hurts(line: str) -> None:
    read_dispatch(line)
    numbers(line)
