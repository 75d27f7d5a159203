"""Reading positions, and what the healer remembers."""

from __future__ import annotations

from datetime import UTC, datetime

from libs.common.ports_road import Spot
from services.executor.positions import Heal, Place, Places

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def place(partition: int = 0, offset: int | None = 10) -> Place:
    made = Place(Spot("t", partition), model_id=1, lane=1)
    if offset is not None:
        made.start(offset, floor_ms=0)
    return made


def test_a_settled_batch_moves_the_position() -> None:
    here = place()
    epoch = here.took(20)
    assert (here.cursor, here.settled) == (20, 10)
    here.settle(20, epoch)
    assert here.settled == 20


def test_a_seek_during_a_batch_wins_over_its_end() -> None:
    here = place()
    epoch = here.took(20)
    here.start(3, floor_ms=0)
    here.settle(20, epoch)
    assert (here.cursor, here.settled) == (3, 3)


def test_an_unsettled_batch_is_read_again() -> None:
    here = place()
    epoch = here.took(20)
    here.again()
    assert here.cursor == 10
    here.settle(20, epoch)
    assert here.settled == 10


def test_a_partition_without_a_beginning_cannot_be_read_again() -> None:
    here = place(offset=None)
    here.again()
    assert here.cursor is None


def test_a_new_topic_of_the_same_model_takes_the_place_of_the_old_one() -> None:
    places = Places()
    old = place()
    old.assigned = True
    places.put(old)
    new = Place(Spot("renamed", 0), model_id=1, lane=1)
    places.put(new)
    assert not old.assigned
    assert places.find(1, 0) is new
    assert places.at(Spot("t", 0)) is None


def test_only_assigned_partitions_are_read() -> None:
    places = Places()
    here = place()
    places.put(here)
    assert places.at(here.spot) is None
    here.assigned = True
    assert places.at(here.spot) is here
    places.clear()
    assert not here.assigned
    assert not list(places)


def test_the_healer_looks_rarer_and_rarer_at_the_same_row() -> None:
    heal = Heal()
    looks = []
    for second in range(40):
        if heal.due(NOON, float(second)):
            heal.looked(float(second))
            looks.append(second)
    assert looks == [0, 2, 6, 14, 30]


def test_another_row_is_looked_at_at_once() -> None:
    heal = Heal()
    assert heal.due(NOON, 0.0)
    heal.looked(0.0)
    assert not heal.due(NOON, 1.0)
    assert heal.due(NOON.replace(minute=1), 1.0)


def test_two_looks_without_help_suspect_the_connection_once() -> None:
    heal = Heal()
    heal.due(NOON, 0.0)
    heal.looked(0.0)
    assert not heal.hopeless()
    heal.looked(2.0)
    assert heal.hopeless()
    heal.looked(6.0)
    assert not heal.hopeless()
