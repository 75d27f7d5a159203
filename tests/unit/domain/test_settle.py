"""What an ended attempt means for its task."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from libs.common.domain.outcome import (
    EXPIRED,
    Canceled,
    Failed,
    HandedBack,
    Outcome,
    ResultFile,
    StagingGone,
    Succeeded,
    UploadPending,
)
from libs.common.domain.settle import (
    LOST_BUDGET,
    MESSAGE_LIMIT,
    CallAgain,
    Course,
    Finish,
    GiveBack,
    Park,
    Retry,
    RetryPolicy,
    backoff_seconds,
    settle,
)
from libs.common.domain.task import Phase, TaskStatus

ONCE = RetryPolicy(retry_times=0, retry_queue_max_seconds=0, upload_max_seconds=100)
TWICE = RetryPolicy(retry_times=1, retry_queue_max_seconds=60, upload_max_seconds=100)
FILE = ResultFile("file:///x.png", "png", 3, "ab", "x.png")


def run(phase: Phase = Phase.NONE, *, retries: int = 0, age: float = 1.0, upload_age: float = 0.0) -> Course:
    return Course(phase, retries, 0, age, upload_age)


def test_success_keeps_every_file() -> None:
    assert settle(run(Phase.GENERATED), Succeeded((FILE,)), ONCE) == Finish(TaskStatus.SUCCESS, files=(FILE,))


def test_a_permanent_failure_is_dead_at_once_whatever_attempts_are_left() -> None:
    end = settle(run(), Failed("model_http_400", "no", retryable=False), TWICE)
    assert end == Finish(TaskStatus.FAILED, "model_http_400", "no", dead=True)


def test_the_last_timeout_ends_as_timeout() -> None:
    end = settle(run(), Failed("model_timeout", "slow", retryable=True, timed_out=True), ONCE)
    assert isinstance(end, Finish)
    assert end.status is TaskStatus.TIMEOUT
    assert end.dead


@pytest.mark.parametrize(("age", "limit", "head"), [(1, 0, True), (1, 60, False), (61, 60, True)])
def test_a_retry_goes_to_the_head_or_to_the_tail_by_age(age: float, limit: int, head: bool) -> None:
    policy = RetryPolicy(1, limit, 100)
    end = settle(run(age=age), Failed("model_http_503", "busy", retryable=True), policy)
    assert isinstance(end, Retry)
    assert end.head is head


@given(retries=some.integers(0, 20), times=some.integers(0, 20))
def test_there_are_exactly_retry_times_further_attempts(retries: int, times: int) -> None:
    end = settle(run(retries=retries), Failed("x", "", retryable=True), RetryPolicy(times, 0, 1))
    assert isinstance(end, Retry) is (retries < times)


def test_retry_after_is_a_lower_bound_of_the_delay() -> None:
    end = settle(run(), Failed("model_http_429", "", retryable=True, retry_after=90.0), TWICE)
    assert isinstance(end, Retry)
    assert end.delay == 90.0


def test_an_upload_is_parked_until_its_time_is_over_then_dead_with_its_staged_file() -> None:
    parked = settle(run(Phase.MIGRATING, upload_age=50), UploadPending("upload_failed", "503"), ONCE)
    assert parked == Park("upload_failed", "503", 5.0)
    over = settle(run(Phase.MIGRATING, upload_age=100), UploadPending("upload_failed", "503"), ONCE)
    assert over == Finish(TaskStatus.FAILED, "upload_failed", "503", dead=True)


@pytest.mark.parametrize(("asked", "delay"), [(1.0, 5.0), (20.0, 20.0), (86_400.0, 50.0)])
def test_an_upload_is_tried_again_as_storage_asks_and_once_more_when_its_time_is_over(
    asked: float, delay: float
) -> None:
    said = UploadPending("upload_http_429", "busy", retry_after=asked)
    assert settle(run(Phase.MIGRATING, upload_age=50), said, ONCE) == Park("upload_http_429", "busy", delay)


def test_handing_back_and_lost_staging_use_up_nothing() -> None:
    assert settle(run(), HandedBack("draining"), ONCE) == GiveBack("draining", 0.0)
    assert settle(run(Phase.GENERATED), StagingGone("no file"), ONCE) == CallAgain("no file")


@pytest.mark.parametrize("phase", list(Phase))
def test_cancel_ends_any_attempt_and_is_not_dead(phase: Phase) -> None:
    end = settle(run(phase), Canceled(), ONCE)
    assert isinstance(end, Finish)
    assert (end.status, end.dead) == (TaskStatus.CANCELED, False)


def test_messages_are_cut() -> None:
    end = settle(run(), Failed("x", "y" * 5_000, retryable=False), ONCE)
    assert isinstance(end, Finish)
    assert len(end.message) == MESSAGE_LIMIT


def test_backoff_doubles_up_to_its_cap() -> None:
    assert [backoff_seconds(n) for n in range(1, 9)] == [1, 2, 4, 8, 16, 32, 32, 32]


def test_staging_that_loses_everything_does_not_buy_calls_for_ever() -> None:
    end = settle(Course(Phase.GENERATED, 0, LOST_BUDGET, 1.0), StagingGone("no file"), ONCE)
    assert end == Finish(TaskStatus.FAILED, "staging_lost", "no file", dead=True)


def bound(left: float, phase: Phase = Phase.NONE, *, upload_age: float = 0.0) -> Course:
    return Course(phase, 0, 0, 1.0, upload_age, deadline_in=left)


LATE_FAILURES = [
    (bound(0.5), Failed("model_http_503", "busy", retryable=True)),
    (bound(9.0), Failed("model_http_503", "busy", retryable=True, retry_after=10)),
    (bound(-0.1), Failed("model_timeout", "slow", retryable=True, timed_out=True)),
    (bound(4.0, Phase.GENERATED), UploadPending("upload_failed", "no")),
    (bound(0.0, Phase.GENERATED), StagingGone("gone")),
    (bound(0.0, Phase.GENERATED), EXPIRED),
]


@pytest.mark.parametrize(("late", "outcome"), LATE_FAILURES)
@pytest.mark.parametrize("policy", [ONCE, TWICE])
def test_what_cannot_go_on_before_its_deadline_ends_now(late: Course, outcome: Outcome, policy: RetryPolicy) -> None:
    end = settle(late, outcome, policy)
    assert isinstance(end, Finish)
    if policy is ONCE and late.deadline_in and late.deadline_in > 0 and isinstance(outcome, Failed):
        assert (end.status, end.code) == (TaskStatus.FAILED, outcome.code), "it would not have been retried anyway"
    else:
        assert (end.status, end.code, end.dead) == (TaskStatus.TIMEOUT, "deadline_exceeded", True)


def test_what_can_go_on_before_its_deadline_does() -> None:
    busy = Failed("model_http_503", "busy", retryable=True)
    assert isinstance(settle(bound(1.1), busy, TWICE), Retry)
    assert isinstance(settle(bound(5.1, Phase.GENERATED), UploadPending("x", ""), ONCE), Park)
    assert isinstance(settle(bound(0.1, Phase.GENERATED), StagingGone("gone"), ONCE), CallAgain)


def test_a_failure_of_its_own_keeps_its_name_at_the_deadline() -> None:
    end = settle(bound(-1.0), Failed("model_http_400", "no", retryable=False), TWICE)
    assert end == Finish(TaskStatus.FAILED, "model_http_400", "no", dead=True)
