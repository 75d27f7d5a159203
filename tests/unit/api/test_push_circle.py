"""What is remembered of the tasks of a tenant while somebody listens to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from libs.common.ports_push import TaskState
from services.api.push.circle import Circle
from services.api.push.stream import Stream
from tests.unit.api.test_push_telling import NOW, STATE

MOST = 1_000


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def state(task: int, version: int = 1, *, over: bool = False, at: datetime = NOW, read_at: datetime = NOW) -> TaskState:
    return replace(STATE, id=task, version=version, open=not over, at=at, read_at=read_at)


@pytest.fixture
def circle() -> Circle:
    circle = Circle(7)
    circle.since = NOW
    circle.streams.add(Stream(7))
    return circle


def news(circle: Circle, states: Iterable[TaskState]) -> list[int]:
    return [one.id for one in states if circle.learn(one, MOST)]


def test_an_end_is_remembered_until_no_look_would_take_it_for_news(circle: Circle) -> None:
    ended = [state(task, over=True, at=NOW + seconds(task)) for task in range(1, 31)]
    assert news(circle, ended) == list(range(1, 31))
    assert news(circle, ended) == []
    circle.looked(NOW + seconds(25))
    assert [task for task in range(1, 31) if circle.knows(task)] == list(range(15, 31))
    assert circle.since == NOW + seconds(15)
    circle.looked(NOW)
    assert circle.since == NOW + seconds(15), "it never goes back"


def test_a_task_that_was_replayed_is_not_forgotten_with_its_old_end(circle: Circle) -> None:
    assert news(circle, [state(1, 4, over=True), state(1, 5), state(1, 8, over=True, at=NOW + seconds(60))]) == [
        1,
        1,
        1,
    ]
    circle.looked(NOW + seconds(30))
    assert circle.knows(1)
    circle.looked(NOW + seconds(90))
    assert not circle.knows(1)


def test_what_is_open_stays_known_as_far_as_there_is_room(circle: Circle) -> None:
    for task in range(10):
        assert circle.learn(state(task), 4)
    circle.looked(NOW + seconds(3_600))
    assert [task for task in range(10) if circle.knows(task)] == [6, 7, 8, 9]
    assert circle.to_look_at() == [6, 7, 8, 9]


def test_looks_go_over_some_in_turn_and_over_all_after_a_gap(circle: Circle) -> None:
    news(circle, [state(task) for task in range(900)])
    assert circle.to_look_at() == list(range(500))
    assert circle.to_look_at() == [*range(500, 900), *range(100)]
    circle.deaf = True
    assert sorted(circle.to_look_at()) == list(range(900))


def test_what_somebody_caught_up_with_is_watched_over_and_is_no_news_to_others(circle: Circle) -> None:
    read_at = NOW + seconds(60)
    page = [
        state(4, read_at=read_at),
        state(3, at=read_at - seconds(9), read_at=read_at),  # its hint may be on its way to the others
        state(2, over=True, read_at=read_at),
        state(1, 7, read_at=read_at),
    ]
    circle.note(page, 2)
    assert circle.to_look_at() == [4, 1]
    assert news(circle, page) == [3, 2]
    circle.note([state(0, read_at=read_at)], 2)
    assert not circle.knows(0), "no room"
    assert news(circle, [state(1, 8)]) == [1]


def test_without_a_stream_of_all_only_open_tasks_are_remembered() -> None:
    circle = Circle(7)
    assert news(circle, [state(1), state(2, over=True)]) == [1, 2]
    assert circle.knows(1)
    assert not circle.knows(2)
    circle.forget()
    assert not circle.knows(1)


def test_after_an_outage_what_has_come_less_far_is_news_once(circle: Circle) -> None:
    """PostgreSQL may go on from an older state: a task's end may have a smaller version than what was told of it."""
    assert news(circle, [state(1, 9), state(2, 5), state(3, 7, over=True)]) == [1, 2, 3]
    circle.doubt()
    assert circle.to_look_at() == [1, 2]
    assert news(circle, [state(1, 4), state(2, 5), state(3, 3)]) == [1, 3]
    assert news(circle, [state(1, 4), state(2, 4), state(3, 2)]) == [], "there is no doubt any more"
    assert news(circle, [state(1, 6, over=True), state(3, 5, over=True)]) == [1, 3]
