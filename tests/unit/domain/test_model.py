"""A model's rules and derived numbers."""

from __future__ import annotations

import pytest

from libs.common.domain.errors import Invalid
from libs.common.domain.model import Model, normalised, partitions, window


@pytest.mark.parametrize("value", [0, -1, -(2**31)])
@pytest.mark.parametrize(
    ("field", "default"),
    [("max_concurrency", 10), ("queue_limit", 1_000), ("timeout_seconds", 60), ("auto_clean_seconds", 86_400)],
)
def test_zero_and_negative_mean_the_default(field: str, default: int, value: int) -> None:
    assert normalised({field: value}) == {field: default}


@pytest.mark.parametrize("field", ["retry_times", "retry_queue_max_seconds", "expected_seconds", "price"])
def test_a_negative_number_of_what_may_be_none_is_none(field: str) -> None:
    assert normalised({field: -1}) == {field: 0}


@pytest.mark.parametrize(("concurrency", "expected"), [(1, 3), (2, 4), (10, 20), (64, 128), (500, 564)])
def test_a_window_is_the_calls_plus_a_bounded_prefetch(concurrency: int, expected: int) -> None:
    assert window(concurrency) == expected


@pytest.mark.parametrize(("concurrency", "expected"), [(1, 1), (2_000, 1), (2_001, 4), (6_000, 6), (90_000, 8)])
def test_partitions_follow_what_one_executor_can_carry(concurrency: int, expected: int) -> None:
    assert partitions(concurrency, 2_000) == expected


@pytest.mark.parametrize(("expected_seconds", "hours"), [(0, 1), (300, 1), (720, 2), (8_640, 24), (100_000, 24)])
def test_a_slot_lives_ten_times_the_expected_time_within_an_hour_and_a_day(expected_seconds: int, hours: int) -> None:
    model = Model(id=1, lane=1, tenant_id=1, name="m", base_url="http://m", expected_seconds=expected_seconds)
    assert model.slot_ttl_ms == hours * 3_600_000


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 129},
        {"name": "a\nb"},
        {"name": "a\ud800"},
        {"name": "."},
        {"name": ".."},
        {"http_method": "DELETE"},
        {"timeout_seconds": 86_401},
        {"retry_times": 1_001},
        {"queue_limit": 2**31},
    ],
)
def test_what_breaks_a_rule_is_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(Invalid) as refusal:
        normalised(fields)
    assert refusal.value.field == f"/{next(iter(fields))}"
    assert refusal.value.code.startswith("model_")
