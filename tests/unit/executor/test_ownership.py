"""The view of heartbeats, and the hash over it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from libs.common.ports_attempts import WatchedBeat
from services.executor.ownership import BeatView, Ownership, owner_of


def beat(
    number: int, count: int, *, reading: bool = True, age: float = 1.0, stores: tuple[str, ...] = ("a",), free: int = 5
) -> WatchedBeat:
    return WatchedBeat(number, f"executor-{number}", count, reading, age, stores, free)


def test_an_executor_lives_while_its_beat_moves() -> None:
    view = BeatView()
    for second in range(20):
        view.observe([beat(1, second // 2), beat(2, min(second, 3))], at=float(second))
    assert view.readers() == {1}


def test_silence_is_six_seconds_of_own_looks() -> None:
    view = BeatView()
    view.observe([beat(1, 1, age=0.0)], at=0.0)
    for second in range(1, 7):
        view.observe([beat(1, 1)], at=float(second))
    assert view.readers() == {1}
    view.observe([beat(1, 1)], at=7.0)
    assert view.readers() == set()


def test_an_outage_of_the_database_makes_nobody_look_dead() -> None:
    view = BeatView()
    view.observe([beat(1, 5, age=1.0), beat(2, 9, age=1.5)], at=100.0)
    view.observe([beat(1, 5, age=61.0), beat(2, 9, age=61.5)], at=160.0)
    assert view.readers() == {1, 2}


def test_a_newcomer_counts_by_the_age_of_its_beat() -> None:
    view = BeatView()
    view.observe([beat(1, 7, age=5.9), beat(2, 7, age=6.1), beat(3, 0, age=0.0)], at=0.0)
    assert view.readers() == {1, 3}


def test_a_beat_from_before_the_databases_clock_was_set_back_keeps_nobody_alive() -> None:
    view = BeatView()
    for second in range(8):
        view.observe([beat(1, second, age=0.0), beat(2, 7, age=second - 7_200.0)], at=float(second))
    assert view.readers() == {1}


def test_one_that_stopped_is_gone_at_once() -> None:
    view = BeatView()
    view.observe([beat(1, 1), beat(2, 1)], at=0.0)
    view.observe([beat(1, 2)], at=1.0)
    assert view.readers() == {1}


def test_who_redis_does_not_answer_reads_where_it_answers_nobody() -> None:
    view = BeatView()
    deaf = [replace(beat(number, 1, reading=False), last_resort=True) for number in (1, 2)]
    view.observe([*deaf, beat(3, 1), beat(4, 1, reading=False)], at=0.0)
    assert view.readers() == {3}
    assert view.others_start(1)
    assert not view.others_start(3)
    view.observe([*deaf, beat(4, 1, reading=False)], at=1.0)
    assert view.readers() == {1, 2}
    assert not view.others_start(1)


def test_who_does_not_read_lives_but_is_no_reader() -> None:
    view = BeatView()
    view.observe([beat(1, 1), beat(2, 1, reading=False)], at=0.0)
    assert view.with_store("a", but=1) == 2, "it lives"
    assert view.readers() == {1}


def test_the_store_of_a_staged_output_finds_its_executor() -> None:
    view = BeatView()
    view.observe([beat(1, 1, stores=("a",)), beat(2, 1, stores=("b",)), beat(3, 1, age=60.0, stores=("c",))], at=0.0)
    assert view.stores_differ()
    assert view.with_store("b", but=1) == 2
    assert view.with_store("a", but=1) is None
    assert view.with_store("c", but=1) is None


def test_a_full_executor_takes_an_upload_only_if_no_other_can() -> None:
    view = BeatView()
    view.observe([beat(1, 1, reading=False), beat(2, 1)], at=0.0)
    assert view.with_store("a", but=3) == 2
    assert view.with_store("a", but=2) == 1


def test_room_elsewhere_is_that_of_others_who_live_and_read() -> None:
    view = BeatView()
    view.observe([beat(1, 1), beat(2, 1, free=0), beat(3, 1, reading=False), beat(4, 1, age=60.0)], at=0.0)
    assert not view.room_elsewhere(1, 1)
    assert view.room_elsewhere(2, 5)
    assert not view.room_elsewhere(2, 6)


@pytest.mark.parametrize("executors", [1, 2, 5])
def test_every_partition_has_exactly_one_owner_among_equal_views(executors: int) -> None:
    views = []
    for me in range(1, executors + 1):
        ownership = Ownership(lambda _: None, ())
        ownership.view.observe([beat(number, 1) for number in range(1, executors + 1)], at=0.0)
        ownership.update(me, reading=True)
        views.append(ownership)
    for model in range(200):
        assert sum(ownership.mine(model, model % 3) for ownership in views) == 1


def test_shares_are_about_equal() -> None:
    shares = Counter(owner_of(model, 0, {1, 2, 3, 4}) for model in range(4_000))
    assert all(800 < share < 1_200 for share in shares.values())


def test_only_the_partitions_of_who_leaves_move() -> None:
    before = {model: owner_of(model, 0, {1, 2, 3}) for model in range(500)}
    after = {model: owner_of(model, 0, {1, 3}) for model in range(500)}
    assert all(after[model] == owner for model, owner in before.items() if owner != 2)
    assert {after[model] for model, owner in before.items() if owner == 2} == {1, 3}


def test_nobody_owns_anything_without_readers() -> None:
    assert owner_of(1, 0, ()) is None


def test_i_leave_the_hash_before_the_table_says_so() -> None:
    ownership = Ownership(lambda _: None, ())
    ownership.view.observe([beat(1, 1)], at=0.0)
    assert ownership.update(1, reading=True)
    assert ownership.mine(7, 0)
    assert ownership.update(1, reading=False)
    assert not ownership.mine(7, 0)
    assert not ownership.update(1, reading=False)


def test_a_member_without_a_number_owns_nothing() -> None:
    ownership = Ownership(lambda _: None, ())
    ownership.update(0, reading=True)
    assert not ownership.mine(7, 0)


def test_a_model_is_read_by_those_who_have_its_adapter_if_anybody_has_it() -> None:
    adapters = {1: "acme", 2: "acme", 3: "nobody's"}
    beats = [replace(beat(number, 1), adapters=frozenset(known)) for number, known in ((7, ["acme"]), (8, []), (9, []))]
    views = {number: Ownership(adapters.get, ["acme"] if number == 7 else []) for number in (7, 8, 9)}
    for number, ownership in views.items():
        ownership.view.observe(beats, 0.0)
        ownership.update(number, reading=True)
    for partition in range(20):
        owners = {model: [me for me, view in views.items() if view.mine(model, partition)] for model in (1, 2, 3, 4)}
        assert owners[1] == owners[2] == [7]
        assert len(owners[3]) == len(owners[4]) == 1
    adapters[1] = "nobody's"  # the model is called in another way now
    assert {me for partition in range(50) for me, view in views.items() if view.mine(1, partition)} == {7, 8, 9}
    assert views[7].view.adapters_differ()
