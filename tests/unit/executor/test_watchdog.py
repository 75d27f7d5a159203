"""When a read loop counts as hanging."""

from __future__ import annotations

from services.executor.watchdog import Watchdog


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def looks(turns_every: float, seconds: float, *, answering: bool = True) -> list[bool]:
    time = Time()
    watchdog = Watchdog(time)
    verdicts = []
    while time.now < seconds:
        time.now += 0.25
        turned_at = time.now // turns_every * turns_every if turns_every else -1.0
        verdicts.append(watchdog.hangs(turned_at, answering=answering))
    return verdicts


def test_a_loop_that_turns_every_second_is_fine() -> None:
    assert not any(looks(1.0, 30))


def test_a_loop_that_stands_still_hangs_after_three_seconds() -> None:
    verdicts = looks(0, 10)
    assert not any(verdicts[:12])
    assert all(verdicts[13:])


def test_waiting_for_a_database_that_is_away_is_no_hanging() -> None:
    assert not any(looks(0, 60, answering=False))


def test_the_sleep_of_a_frozen_process_is_not_the_loops() -> None:
    time = Time()
    watchdog = Watchdog(time)
    watchdog.hangs(0.5, answering=True)
    time.now += 60
    assert not watchdog.hangs(0.5, answering=True)


def test_one_turn_is_enough_to_be_fine_again() -> None:
    time = Time()
    watchdog = Watchdog(time)
    for _ in range(20):
        time.now += 0.25
        watchdog.hangs(1.0, answering=True)
    assert watchdog.hangs(1.0, answering=True)
    assert not watchdog.hangs(2.0, answering=True)
