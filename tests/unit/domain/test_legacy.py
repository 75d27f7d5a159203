"""What becomes of an old gateway's rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.errors import Invalid
from libs.common.domain.legacy import Home, LegacyModel, LegacyTask, model_values, position, public_id, taken_task
from libs.common.domain.settle import RetryPolicy
from libs.common.domain.task import DispatchState, TaskStatus

NOW = datetime(2026, 11, 20, tzinfo=UTC)
DAY = timedelta(days=1)
HOME = Home(5, 3, RetryPolicy(2, 0, 0), 3_600, 3_600_000)
ID = "0190f0e0-0000-7000-8000-000000000001"
TASK = LegacyTask(9, 7, "c", "m", ID, 0, created_at=NOW - DAY, updated_at=NOW - timedelta(hours=1))
MODEL = LegacyModel(1, 7, "m", "http://m", timeout_seconds=60)


@pytest.mark.parametrize(
    ("given_fields", "stored", "changes"),
    [
        ({"queue_limit": 0}, {"queue_limit": 2_147_483_647}, 1),
        ({"queue_limit": -5}, {"queue_limit": 2_147_483_647}, 1),
        ({"max_concurrency": 0, "auto_clean_seconds": -1}, {"max_concurrency": 10, "auto_clean_seconds": 86_400}, 0),
        ({"timeout_seconds": 0}, {"timeout_seconds": 60}, 0),
        ({"timeout_seconds": None, "timeout_ms": 1}, {"timeout_seconds": 1}, 0),
        ({"timeout_seconds": None, "timeout_ms": 60_001}, {"timeout_seconds": 61}, 0),
        ({"timeout_seconds": None, "timeout_ms": None}, {"timeout_seconds": 60}, 0),
        ({"timeout_seconds": 90_000}, {"timeout_seconds": 86_400}, 1),
        ({"http_method": "get"}, {"http_method": "GET"}, 0),
        ({"http_method": "PUT"}, {"http_method": "POST"}, 1),
        ({"retry_times": -1}, {"retry_times": 0}, 1),
        (
            {"retry_queue_max_seconds": None, "expected_seconds": None},
            {"retry_queue_max_seconds": 0, "expected_seconds": 0},
            0,
        ),
    ],
)
def test_a_model_keeps_its_meaning(given_fields: dict[str, object], stored: dict[str, object], changes: int) -> None:
    values, said = model_values(replace(MODEL, **given_fields))  # type: ignore[arg-type]
    assert {name: values[name] for name in stored} == stored
    assert len(said) == changes


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(Invalid, match="name"):
        model_values(replace(MODEL, name=" "))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (ID, ""), (ID.upper(), ""), (ID.replace("-", ""), "respelled"), (f"{{{ID}}}", "respelled"),
        ("order-17", "derived"), ("", "derived"),
    ],
)  # fmt: skip
def test_task_ids_stay_uuids(text: str, what: str) -> None:
    found, said = public_id(7, text)
    assert said == what
    assert (found == UUID(ID)) is (what != "derived")
    assert public_id(7, text)[0] == found
    assert what != "derived" or public_id(8, text)[0] != found


@pytest.mark.parametrize(
    ("state", "phase", "retries", "attempts", "outcome"),
    [
        (0, 0, 0, 0, None),
        (0, 0, 2, 2, None),
        (1, 0, 1, 2, "lost"),
        (1, 1, 0, 1, "staging_lost"),
        (0, 1, 0, 1, "staging_lost"),
    ],
)
def test_what_was_open_waits_again(state: int, phase: int, retries: int, attempts: int, outcome: str | None) -> None:
    taken = taken_task(replace(TASK, state=state, phase=phase, retry_count=retries), HOME, NOW, DAY)
    assert (taken.status, taken.state) == (TaskStatus.SUBMITTED, DispatchState.READY)
    assert (taken.retries, taken.attempts, taken.outcome) == (retries, attempts, outcome)
    assert (taken.finished_at, taken.head) == (None, False)


def test_a_date_a_hundred_years_back_is_a_head_jump() -> None:
    taken = taken_task(replace(TASK, enqueue_at=NOW - 36_500 * DAY), HOME, NOW, DAY)
    assert taken.head
    assert taken.position < taken_task(TASK, HOME, NOW, DAY).position


@pytest.mark.parametrize(
    ("retries", "ago", "state", "left"),
    [
        (1, timedelta(hours=1), DispatchState.RETRY, 2),
        (2, timedelta(hours=1), None, 2),
        (0, timedelta(hours=25), None, 0),
    ],
)
def test_a_failure_is_retried_if_attempts_are_left_and_it_is_fresh(
    retries: int, ago: timedelta, state: DispatchState | None, left: int
) -> None:
    failed = replace(TASK, state=3, retry_count=retries, finished_at=NOW - ago, error_msg="no")
    taken = taken_task(failed, HOME, NOW, DAY)
    assert (taken.state, taken.retries, taken.attempts) == (state, left, retries + 1)
    assert taken.status is (TaskStatus.FAILED if state is None else TaskStatus.SUBMITTED)
    assert (taken.finished_at is None) is (state is not None)


def test_only_what_was_fetched_expires() -> None:
    success = replace(TASK, state=2, finished_at=NOW - DAY, expire_at=NOW, oss_file="http://f/a")
    assert taken_task(success, HOME, NOW, DAY).expire_at is None
    fetched = taken_task(replace(success, state=4), HOME, NOW, DAY)
    assert (fetched.fetched_at, fetched.expire_at) == (TASK.updated_at, NOW)
    assert TASK.updated_at is not None
    without = taken_task(replace(success, state=4, expire_at=None), HOME, NOW, DAY)
    assert without.expire_at == TASK.updated_at + timedelta(hours=1)


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(Invalid, match="state 9"):
        taken_task(replace(TASK, state=9), HOME, NOW, DAY)


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_positions_keep_the_order_before_every_number_of_ours(one: datetime, other: datetime) -> None:
    assert (position(one) < position(other)) is (one < other)
    assert -(2**63) < position(one) < 0
