"""The state machine: every arrow there is, and no other."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from libs.common.domain.errors import IllegalTransition
from libs.common.domain.task import NEXT, Compact, TaskStatus, become, compact

ROOT = Path(__file__).parents[3]
FINAL = (TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.CANCELED)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(TaskStatus, TaskStatus)))
def test_every_arrow_is_in_the_table_or_refused(before: TaskStatus, after: TaskStatus) -> None:
    if after in NEXT[before]:
        assert become(before, after) is after
    else:
        with pytest.raises(IllegalTransition):
            become(before, after)


def test_success_and_canceled_are_never_left() -> None:
    assert NEXT[TaskStatus.SUCCESS] == frozenset()
    assert NEXT[TaskStatus.CANCELED] == frozenset()


def test_failed_and_timeout_only_go_back_to_the_queue_or_to_another_end() -> None:
    assert NEXT[TaskStatus.TIMEOUT] == {TaskStatus.SUBMITTED}
    assert {status for status in NEXT[TaskStatus.FAILED] if not status.final} == {TaskStatus.SUBMITTED}


def test_progress_grows_from_draft_to_success_and_is_nothing_at_other_ends() -> None:
    road = [status.progress for status in TaskStatus if status <= TaskStatus.SUCCESS]
    assert road == sorted(road) == [0.0, 16.67, 33.33, 50.0, 66.67, 83.33, 100.0]
    assert {status.progress for status in FINAL[1:]} == {0.0}


def test_forward_arrows_never_lose_progress_within_an_attempt() -> None:
    for before, after in ((b, a) for b in TaskStatus for a in NEXT[b]):
        if after not in (TaskStatus.SUBMITTED, TaskStatus.QUEUED, *FINAL[1:]):
            assert after.progress > before.progress


def test_compact_states_are_those_of_the_old_gateway() -> None:
    assert [compact(status, fetched=False) for status in TaskStatus] == [0, 0, 0, 1, 1, 1, 2, 3, 3, 5]
    assert compact(TaskStatus.SUCCESS, fetched=True) is Compact.FETCHED


def test_the_drawing_has_the_same_arrows() -> None:
    drawing = re.search(
        r"```mermaid\nstateDiagram-v2\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.DOTALL
    )
    assert drawing is not None
    drawn = set(re.findall(r"^\s*(\w+) --> (\w+)", drawing.group(1), re.MULTILINE))
    assert drawn == {(before.word, after.word) for before in TaskStatus for after in NEXT[before]}
