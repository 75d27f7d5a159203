"""What the console makes of times, sizes and a task's life."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any
from uuid import uuid4

import pytest

from libs.common.domain.task import TaskStatus
from libs.common.ports_insight import Percentiles, Point
from libs.common.ports_tasks import TaskView
from services.api.console.formats import NOTHING, clock, duration, exact, many, number, percent, plain, rate, size
from services.api.console.plots import PLOTS, Plots
from services.api.console.sessions import form_token, is_form_token
from services.api.console.timeline import timeline

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def task(**values: Any) -> TaskView:
    nothing = {field.name: None for field in fields(TaskView)}
    usual = {"public_id": uuid4(), "status": TaskStatus.PROCESSING, "attempt": 0, "created_at": BEGAN, "open": True}
    return TaskView(**{**nothing, **usual, **values})


def ended(attempt: int, **values: Any) -> dict[str, Any]:
    names = ("entered_at", "leased_at", "started_at", "generated_at", "migrating_at", "ended_at")
    return {"attempt": attempt, **dict.fromkeys(names), **values}


def told(line: Any) -> list[tuple[str, int, float]]:
    return [(span.kind, span.attempt, span.lasted.total_seconds()) for span in line.spans]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, NOTHING), (0, "0 ms"), (0.0421, "42 ms"), (1, "1.0 s"), (9.96, "10.0 s"), (59.4, "59 s"),
        (61, "1 min 1 s"),
        (3_600, "1 h"), (90_000, "25 h"), (400_000, "4 d 15 h"), (-5, "-5.0 s"), (timedelta(minutes=2), "2 min"),
    ],
)  # fmt: skip
def test_durations_have_two_units(seconds: Any, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_sizes_and_rates() -> None:
    assert [number(value) for value in (0, 999, 1_234_567, None)] == ["0", "999", "1\u202f234\u202f567", NOTHING]
    assert [size(value) for value in (0, 1_023, 1_536, 200 * 2**20, None)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "200 MiB",
        NOTHING,
    ]
    assert [rate(value) for value in (None, 0.0, 0.02, 12.345)] == [NOTHING, "0.0/s", "1.2/min", "12.3/s"]
    assert [percent(value) for value in (None, 0.0, 0.125)] == [NOTHING, "0 %", "12.5 %"]
    assert [plain(value) for value in (None, 0, 1.5, 2.0004)] == ["", "0", "1.5", "2"]
    assert [many("task", 1), many("task"), many("delivery")] == ["task", "tasks", "deliveries"]
    assert (clock(BEGAN), exact(at(0.25))) == ("03:04:05", "03:04:05.250")


def test_a_waiting_task_has_waited_until_now() -> None:
    assert told(timeline(task(entered_at=BEGAN), [], [], at(7))) == [("waiting", 1, 7)]


def test_a_running_attempt_goes_through_its_steps() -> None:
    running = task(attempt=1, entered_at=BEGAN, leased_at=at(1), started_at=at(3), generated_at=at(8))
    line = timeline(running, [], [], at(10))
    assert told(line) == [("waiting", 1, 1), ("held", 1, 2), ("calling", 1, 5), ("storing", 1, 2)]
    assert [span.open for span in line.spans] == [False, False, False, True]
    assert [(span.left, span.width) for span in line.spans] == [(0, 10), (10, 20), (30, 50), (80, 20)]


def test_a_retry_is_an_attempt_of_its_own() -> None:
    first = ended(1, entered_at=BEGAN, leased_at=at(1), started_at=at(2), ended_at=at(4))
    line = timeline(
        task(attempt=1, entered_at=at(4), status=TaskStatus.FAILED), [first], [{"kind": "retry", "at": at(4)}], at(6)
    )
    assert told(line) == [("waiting", 1, 1), ("held", 1, 1), ("calling", 1, 2), ("retry", 2, 2)]
    assert [(mark.what, round(mark.left)) for mark in line.marks] == [("retry", 67)]
    assert [len(row) for row in line.rows] == [3, 1]


def test_a_task_that_waits_for_its_time_is_scheduled() -> None:
    line = timeline(task(not_before=at(5), entered_at=at(5), status=TaskStatus.SUBMITTED), [], [], at(6))
    assert told(line) == [("scheduled", 1, 5), ("waiting", 1, 1)]


def test_a_draft_waits_for_its_time_and_not_in_the_queue() -> None:
    line = timeline(task(not_before=at(60), entered_at=BEGAN, status=TaskStatus.DRAFT), [], [], at(6))
    assert told(line) == [("scheduled", 1, 6)]
    assert line.spans[0].open


def test_a_draft_that_was_canceled_has_no_life_beyond_its_end() -> None:
    over = task(open=False, not_before=at(3_600), finished_at=at(3), status=TaskStatus.CANCELED)
    line = timeline(over, [], [], at(99))
    assert told(line) == [("scheduled", 1, 3)]
    assert line.lasted == timedelta(seconds=3)


def test_an_output_whose_upload_is_replayed_belongs_to_the_attempt_that_it_becomes() -> None:
    dead = ended(1, entered_at=BEGAN, started_at=at(1), generated_at=at(2), ended_at=at(4))
    replayed = task(attempt=2, status=TaskStatus.GENERATED, entered_at=at(9), generated_at=at(9))
    assert told(timeline(replayed, [dead], [], at(11)))[-2:] == [("waiting", 2, 0), ("storing", 2, 2)]


def test_a_task_that_was_canceled_waiting_has_no_attempts() -> None:
    over = task(open=False, finished_at=at(3), status=TaskStatus.CANCELED)
    line = timeline(over, [], [], at(99))
    assert told(line) == [("waiting", 1, 3)]
    assert [(mark.what, mark.left) for mark in line.marks] == [("completion event", 100)]


def test_an_attempt_that_went_on_elsewhere_is_one_line_of_steps() -> None:
    parked = task(
        attempt=1, status=TaskStatus.MIGRATING, entered_at=BEGAN, started_at=at(1), generated_at=at(31),
        migrating_at=at(32), leased_at=at(3_000),
    )  # fmt: skip
    assert told(timeline(parked, [], [], at(3_600))) == [
        ("waiting", 1, 1), ("calling", 1, 30), ("storing", 1, 1), ("uploading", 1, 3_568),
    ]  # fmt: skip


def test_what_lasted_a_moment_is_seen_and_stays_on_the_line() -> None:
    running = task(attempt=1, entered_at=BEGAN, leased_at=at(0), started_at=at(9_999.999))
    for span in timeline(running, [], [], at(10_000)).spans:
        assert span.width >= 0.4
        assert 0 <= span.left <= 100


def test_a_plot_is_told_in_words_and_says_its_unit() -> None:
    nothing = Percentiles(None, None, None)
    points = [
        Point(at(0), 30, 0, 0, 0, 0, Percentiles(0.5, 1.0, 2.25), nothing, 4, 1.0),
        Point(at(900), 10, 5, 0, 0, 0, nothing, nothing, 7, None),
    ]
    told = Plots("day", None, "", at(0), at(1800), points, 900, PLOTS)
    throughput, wait, run, errors, *_ = PLOTS
    assert told.told(throughput) == (
        "Ended, attempts in 15 min, by the time of day in UTC, last day: success 10 to 30, at last 10,"
        " other 0 to 5, at last 5"
    )
    assert "p99 2.25 to 2.25, at last 2.25" in told.told(wait)
    assert told.told(run).endswith("p50 nothing, p90 nothing, p99 nothing")
    assert (told.unit(wait), told.unit(errors)) == ("s", "%")
    assert Plots("hour", None, "", at(0), at(60), points, 60, PLOTS).unit(throughput) == "attempts a minute"


def test_every_table_can_be_sorted() -> None:
    folder = resources.files("services.api.console").joinpath("templates")
    tables = [tag for file in folder.iterdir() for tag in re.findall(r"<table[^>]*>", file.read_text())]
    assert len(tables) > 20
    assert [tag for tag in tables if "data-sort" not in tag] == []


def test_a_form_is_known_by_its_cookie() -> None:
    assert is_form_token("a", form_token("a"))
    for cookie, given in (("a", form_token("b")), (None, form_token("a")), ("a", ""), ("a", "ä")):
        assert not is_form_token(cookie, given)
