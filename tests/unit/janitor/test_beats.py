"""Who is presumed dead, and when nobody is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from libs.common.ports_attempts import WatchedBeat
from services.janitor.beats import SILENCE_SECONDS, BeatWatch


def beat(number: int, *, of: int = 1, age: float = 0.0, reading: bool = True) -> WatchedBeat:
    return WatchedBeat(of, f"e{of}", number, reading, age)


def dead_at(watch: BeatWatch, beats: list[WatchedBeat], at: float) -> list[int]:
    return [silent.id for silent in watch.observe(beats, asked=at, answered=at)]


def test_ten_seconds_of_watched_silence_are_death() -> None:
    watch = BeatWatch()
    assert [at for at in range(15) if dead_at(watch, [beat(1, age=float(at))], float(at))] == [10, 11, 12, 13, 14]


def test_the_age_of_a_beat_tells_when_between_two_looks_it_was_written() -> None:
    watch = BeatWatch()
    dead_at(watch, [beat(1)], 0.0)
    dead_at(watch, [beat(2, age=0.9)], 1.0)  # beaten at 0.1
    assert not any(dead_at(watch, [beat(2)], float(at)) for at in range(2, 10))
    assert dead_at(watch, [beat(2)], 10.1) == [1]


def test_a_clock_that_jumps_kills_nobody() -> None:
    watch = BeatWatch()
    for at in range(30):
        assert not dead_at(watch, [beat(at // 2, age=7_200.0)], float(at))


def test_a_start_grants_grace() -> None:
    watch = BeatWatch()
    assert not dead_at(watch, [beat(1, age=3_600.0)], 0.0)
    assert not any(dead_at(watch, [beat(1, age=3_600.0)], float(at)) for at in range(1, 10))


def test_an_outage_grants_grace_to_all() -> None:
    watch = BeatWatch()
    for at in range(10):
        assert not dead_at(watch, [beat(1), beat(1, of=2)], float(at))
    # no answer for half a minute; then one of them beats again, the other one does not
    assert not dead_at(watch, [beat(1), beat(1, of=2)], 40.0)
    assert not any(dead_at(watch, [beat(at, of=1), beat(1, of=2)], 40.0 + at) for at in range(1, 10))
    assert dead_at(watch, [beat(10, of=1), beat(1, of=2)], 50.0) == [2]


def test_a_slow_answer_counts_for_the_executor() -> None:
    watch = BeatWatch()
    watch.observe([beat(1)], asked=0.0, answered=0.9)
    for at in range(1, 10):
        watch.observe([beat(1)], asked=float(at), answered=at + 0.9)
    assert watch.observe([beat(1)], asked=10.0, answered=10.9) == []
    assert watch.observe([beat(1)], asked=11.0, answered=11.1)


def test_a_newcomer_is_watched_from_when_it_is_seen() -> None:
    watch = BeatWatch()
    for at in range(5):
        dead_at(watch, [], float(at))
    assert not any(dead_at(watch, [beat(1, of=9)], float(at)) for at in range(5, 14))
    assert dead_at(watch, [beat(1, of=9)], 15.0) == [9]


def test_reading_is_counted_while_somebody_reads_all_the_time() -> None:
    watch = BeatWatch()
    for at in range(20):
        dead_at(watch, [beat(at)], float(at))
    assert watch.read_for(19.0) == 19.0
    dead_at(watch, [beat(20, reading=False)], 20.0)
    assert watch.read_for(20.0) == 0.0
    dead_at(watch, [beat(21)], 21.0)
    dead_at(watch, [beat(22)], 22.0)
    assert watch.read_for(22.0) == 1.0
    dead_at(watch, [beat(30)], 30.0)  # an outage: nobody knows who read
    assert watch.read_for(30.0) == 0.0


def test_who_fell_silent_reads_nothing() -> None:
    watch = BeatWatch()
    for at in range(9):
        dead_at(watch, [beat(1)], float(at))
    assert watch.read_for(8.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.01, 5.0), st.booleans(), st.floats(-10, 10_000)), min_size=1, max_size=60))
def test_nobody_dies_without_ten_seconds_of_looks_that_saw_no_beat(looks: list[tuple[float, bool, float]]) -> None:
    """Whatever the pauses, beats and clocks: the last 10 s were watched without a gap and without a beat."""
    watch, now, number = BeatWatch(), 0.0, 0
    quiet_from: float | None = None  # since when every look came soon after the one before and saw nothing new
    previous: float | None = None
    for pause, beats, age in looks:
        now += pause
        number += beats
        if beats or previous is None or now - previous > 2.5:
            quiet_from = now if previous is None or now - previous > 2.5 else previous
        previous = now
        if dead_at(watch, [beat(number, age=age)], now):
            assert quiet_from is not None
            assert now - quiet_from >= SILENCE_SECONDS - 1e-6
