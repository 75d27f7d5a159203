"""When a delivery is tried again, and which ends an address wants."""

from __future__ import annotations

import pytest

from libs.common.domain.errors import Invalid
from libs.common.domain.task import TaskStatus
from libs.common.domain.webhook import (
    ALL_ENDS,
    ATTEMPTS,
    END_WORDS,
    bit_of,
    check_webhook_url,
    mask_of,
    pause_after,
    words_of,
)


def test_the_schedule_lasts_a_bit_more_than_a_day() -> None:
    pauses = [pause_after(failures) for failures in range(1, ATTEMPTS + 1)]
    seconds = [None if pause is None else pause.total_seconds() for pause in pauses]
    assert seconds == [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000, None]


def test_ends_are_bits() -> None:
    assert mask_of(END_WORDS) == ALL_ENDS
    assert words_of(mask_of(["canceled", "success", "success"])) == ["success", "canceled"]
    for word in END_WORDS:
        assert mask_of([word]) == bit_of(TaskStatus[word.upper()])


@pytest.mark.parametrize(
    "url", ["", "ftp://host/", "http://user:word@host/", "host", "http://host/#part", "http://h/" + "x" * 2_048]
)
def test_what_cannot_be_posted_to_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_webhook_url(url, "/url")
    assert (refused.value.code, refused.value.field) == ("webhook_url", "/url")
    assert "api_key" not in str(refused.value), "that is a model's"
