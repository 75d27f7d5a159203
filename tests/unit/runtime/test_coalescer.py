"""The coalescer answers every item once, in order, and isolates bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.domain.errors import Deadlocked, OutcomeUnknown, RowsLocked, Unavailable
from libs.common.runtime.coalescer import Coalescer, CoalescerClosed
from tests.support.waiting import until


class BadItem(Exception):
    pass


class Table:
    """A flush that doubles its items, holds still while `open_` is not set, and refuses some items."""

    def __init__(self, bad: frozenset[int] = frozenset()) -> None:
        self.batches: list[list[int]] = []
        self.written: list[int] = []
        self.open_ = asyncio.Event()
        self.open_.set()
        self.bad = bad
        self.deadlocks = 0
        self.flying = 0
        self.most_flying = 0

    async def flush(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            await self.open_.wait()
            await asyncio.sleep(0)
        finally:
            self.flying -= 1
        if self.deadlocks:
            self.deadlocks -= 1
            raise Deadlocked
        if self.bad.intersection(items):
            raise BadItem
        self.written.extend(items)
        return [item * 2 for item in items]


def is_bad(error: BaseException) -> bool:
    return isinstance(error, BadItem)


@settings(deadline=None, max_examples=150)
@given(
    count=st.integers(0, 60),
    bad=st.frozensets(st.integers(0, 59), max_size=5),
    cancelled=st.frozensets(st.integers(0, 59), max_size=10),
    max_items=st.integers(1, 20),
    max_bytes=st.integers(1, 50),
    concurrency=st.integers(1, 3),
    turns=st.lists(st.integers(0, 3), min_size=1, max_size=10),
)
def test_every_item_is_answered_once_and_bad_ones_stand_alone(
    count: int,
    bad: frozenset[int],
    cancelled: frozenset[int],
    max_items: int,
    max_bytes: int,
    concurrency: int,
    turns: list[int],
) -> None:
    async def story() -> None:
        table = Table(bad)
        coalescer = Coalescer(
            table.flush,
            max_items=max_items,
            max_bytes=max_bytes,
            size_of=lambda item: item,
            concurrency=concurrency,
            is_data_error=is_bad,
        )
        callers = []
        for item in range(count):
            callers.append(asyncio.create_task(coalescer.submit(item)))
            for _ in range(turns[item % len(turns)]):
                await asyncio.sleep(0)
            if item in cancelled:
                await asyncio.sleep(0)  # a task that never ran would never have submitted
                callers[item].cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        await coalescer.close(5)

        for item, answer in enumerate(answers):
            if item in cancelled and isinstance(answer, asyncio.CancelledError):
                continue
            if item in bad:
                assert isinstance(answer, BadItem)
            else:
                assert answer == item * 2
        assert sorted(table.written) == [item for item in range(count) if item not in bad]
        assert table.most_flying <= concurrency
        for batch in table.batches:
            assert len(batch) <= max_items
            assert len(batch) == 1 or sum(batch) <= max_bytes

    asyncio.run(story())


async def test_callers_of_one_turn_and_callers_during_a_flush_share_a_batch() -> None:
    table = Table()
    table.open_.clear()
    coalescer = Coalescer(table.flush)
    first = [asyncio.create_task(coalescer.submit(item)) for item in (1, 2, 3)]
    await until(lambda: table.batches)
    later = [asyncio.create_task(coalescer.submit(item)) for item in (4, 5)]
    await asyncio.sleep(0)
    table.open_.set()
    assert await asyncio.gather(*first, *later) == [2, 4, 6, 8, 10]
    assert table.batches == [[1, 2, 3], [4, 5]]


async def test_an_idle_coalescer_flushes_within_two_turns_of_the_loop_and_then_holds_nothing() -> None:
    table = Table()
    coalescer = Coalescer(table.flush)
    caller = asyncio.create_task(coalescer.submit(1))
    for _ in range(3):  # the caller's own first turn, the call_soon, the flight
        await asyncio.sleep(0)
    assert table.batches == [[1]]
    assert await caller == 2
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_submit_at_the_very_end_of_a_flight_is_not_forgotten() -> None:
    table = Table()
    coalescer = Coalescer(table.flush)

    async def one_after_the_other() -> None:
        for item in range(100):
            assert await coalescer.submit(item) == item * 2

    async with asyncio.timeout(5):
        await asyncio.gather(one_after_the_other(), one_after_the_other())


async def test_submit_many_keeps_order_and_raises_after_all_are_settled() -> None:
    table = Table(frozenset({3}))
    coalescer = Coalescer(table.flush, max_items=4, is_data_error=is_bad)
    assert await coalescer.submit_many([7, 5, 6]) == [14, 10, 12]
    assert await coalescer.submit_many([]) == []
    with pytest.raises(BadItem):
        await coalescer.submit_many(list(range(10)))
    assert sorted(table.written) == [0, 1, 2, 4, 5, 5, 6, 6, 7, 7, 8, 9]


async def test_a_cancelled_caller_does_not_stop_its_flush() -> None:
    table = Table()
    table.open_.clear()
    coalescer = Coalescer(table.flush)
    gone = asyncio.create_task(coalescer.submit(1))
    stays = asyncio.create_task(coalescer.submit(2))
    await until(lambda: table.batches)
    queued = asyncio.create_task(coalescer.submit(3))
    await asyncio.sleep(0)
    gone.cancel()
    queued.cancel()
    table.open_.set()
    assert await stays == 4
    await coalescer.close(5)
    assert gone.cancelled()
    assert queued.cancelled()
    assert table.written == [1, 2, 3]


async def test_a_flight_that_is_cancelled_before_its_first_step_keeps_nobody_waiting() -> None:
    table = Table()
    coalescer = Coalescer(table.flush)
    caller = asyncio.create_task(coalescer.submit(1))
    await asyncio.sleep(0)
    (flight,) = coalescer._flights
    flight.cancel()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(caller, 5)
    assert await asyncio.wait_for(coalescer.submit(2), 5) == 4
    assert table.written == [2]


async def test_a_deadlock_is_tried_once_more_and_is_nobodys_fault() -> None:
    table = Table()
    coalescer = Coalescer(table.flush)
    table.deadlocks = 1
    assert await coalescer.submit(1) == 2
    table.deadlocks = 2
    with pytest.raises(Unavailable):
        await coalescer.submit(1)
    assert table.written == [1]


async def test_any_other_error_goes_to_every_caller() -> None:
    table = Table(frozenset({1}))
    coalescer = Coalescer(table.flush)
    answers = await asyncio.gather(*[coalescer.submit(item) for item in (1, 2)], return_exceptions=True)
    assert [type(answer) for answer in answers] == [BadItem, BadItem]
    assert len(table.batches) == 1
    assert await coalescer.submit(2) == 4


async def test_a_flush_that_answers_too_little_is_an_error() -> None:
    async def forgetful(items: list[int]) -> list[int]:
        return items[1:]

    with pytest.raises(RuntimeError, match="0 of 1"):
        await Coalescer(forgetful).submit(1)


async def test_close_waits_for_what_was_submitted_and_refuses_more() -> None:
    table = Table()
    coalescer = Coalescer(table.flush, max_items=2)
    callers = [asyncio.create_task(coalescer.submit(item)) for item in range(5)]
    await asyncio.sleep(0)
    await coalescer.close(5)
    assert [caller.result() for caller in callers] == [0, 2, 4, 6, 8]
    with pytest.raises(CoalescerClosed):
        await coalescer.submit(1)


async def test_what_is_cut_off_is_of_unknown_outcome_and_what_waited_was_not_begun() -> None:
    table = Table()
    table.open_.clear()
    coalescer = Coalescer(table.flush)
    begun = asyncio.create_task(coalescer.submit(1))
    await until(lambda: table.batches)
    waiting = asyncio.create_task(coalescer.submit(2))
    await asyncio.sleep(0)
    await coalescer.close(0.01)
    with pytest.raises(OutcomeUnknown):
        await begun
    with pytest.raises(Unavailable):
        await waiting
    assert table.written == []


async def test_a_flush_cancelled_from_within_does_not_end_the_coalescer() -> None:
    async def cancels_itself_once(items: list[int]) -> list[int]:
        if 1 in items:
            raise asyncio.CancelledError
        return items

    coalescer = Coalescer(cancels_itself_once)
    with pytest.raises(OutcomeUnknown):
        await coalescer.submit(1)
    assert await coalescer.submit(2) == 2


class LockedTable(Table):
    """The same; whoever writes one of `locked` waits in vain. What asks for them finds those that are `seen`."""

    def __init__(self, locked: frozenset[int], seen: frozenset[int]) -> None:
        super().__init__()
        self.locked = locked
        self.seen = seen

    async def flush(self, items: list[int]) -> Sequence[int]:
        doubled = await super().flush(items)
        if self.locked.intersection(items):
            self.written = self.written[: -len(items)]
            raise RowsLocked
        return doubled

    async def ask(self, items: list[int]) -> list[bool]:
        return [item in self.seen for item in items]


@pytest.mark.parametrize(
    ("locked", "seen", "batches"),
    [
        ({3, 5}, {3, 5}, [[*range(8)], [0, 1, 2, 4, 6, 7]]),
        ({3}, set(), [[*range(8)], [0, 1, 2, 3], [0, 1], [2, 3], [2], [3], [4, 5, 6, 7]]),
        (set(range(8)), set(range(8)), [[*range(8)]]),
    ],
    ids=["seen", "not of the kind that is looked for", "all"],
)
async def test_whose_rows_somebody_keeps_locked_is_told_and_the_others_go_on(
    locked: set[int], seen: set[int], batches: list[list[int]]
) -> None:
    table = LockedTable(frozenset(locked), frozenset(seen))
    coalescer = Coalescer(table.flush, locked=table.ask)
    answers = await asyncio.gather(*[coalescer.submit(item) for item in range(8)], return_exceptions=True)
    assert table.batches == batches
    assert [item for item, answer in enumerate(answers) if isinstance(answer, RowsLocked)] == sorted(locked)
    assert sorted(table.written) == [item for item in range(8) if item not in locked]


async def test_who_comes_for_rows_that_were_locked_a_moment_ago_holds_up_nobody() -> None:
    table = LockedTable(frozenset({3}), frozenset({3}))
    coalescer = Coalescer(table.flush, locked=table.ask)
    wary = set()
    for _ in range(2):
        answers = await asyncio.gather(*[coalescer.submit(item) for item in range(4)], return_exceptions=True)
        assert [item for item, answer in enumerate(answers) if isinstance(answer, RowsLocked)] == [3]
        wary |= {*coalescer._wary_of.values()}
    assert table.batches == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2]]
    assert len(wary) == 1, "or a busy neighbour would have it look for ever"
    table.locked = table.seen = frozenset()
    assert await coalescer.submit(3) == 6


async def test_who_comes_alone_for_them_holds_up_the_next_ones_once() -> None:
    table = LockedTable(frozenset({3}), frozenset({3}))
    coalescer = Coalescer(table.flush, locked=table.ask)
    for _ in range(3):
        with pytest.raises(RowsLocked):
            await coalescer.submit(3)
    assert table.batches == [[3]]


async def test_where_it_is_known_which_rows_nobody_is_looked_at_but_who_comes_for_them_until_they_are_free() -> None:
    table = LockedTable(frozenset({13}), frozenset({13}))
    asked: list[list[int]] = []

    async def ask(items: list[int]) -> list[bool]:
        asked.append(items)
        return await table.ask(items)

    coalescer = Coalescer(table.flush, locked=ask, rows_of=lambda item: item % 10)
    await asyncio.gather(*[coalescer.submit(item) for item in (11, 12, 13)], return_exceptions=True)
    table.seen = frozenset(range(100))  # as busy neighbours have theirs
    assert await asyncio.gather(*[coalescer.submit(item) for item in (21, 22)]) == [42, 44]
    with pytest.raises(RowsLocked):
        await coalescer.submit(23)
    table.seen = frozenset()
    assert await asyncio.gather(*[coalescer.submit(item) for item in (31, 33)]) == [62, 66]
    assert await coalescer.submit(43) == 86
    assert asked == [[11, 12, 13], [23], [33]]


async def test_while_nobody_can_look_all_are_flushed() -> None:
    table = LockedTable(frozenset({3}), frozenset({3}))
    coalescer = Coalescer(table.flush, locked=lambda items: table.ask(items))
    await asyncio.gather(*[coalescer.submit(item) for item in range(4)], return_exceptions=True)

    async def away(_: list[int]) -> list[bool]:
        raise Unavailable

    table.ask = away  # type: ignore[method-assign]
    assert await asyncio.gather(*[coalescer.submit(item) for item in range(3)]) == [0, 2, 4]


async def test_where_nobody_can_say_whose_rows_are_locked_all_are_told() -> None:
    async def away(_: list[int]) -> list[bool]:
        raise Unavailable

    table = LockedTable(frozenset({1}), frozenset())
    coalescer = Coalescer(table.flush, locked=away)
    answers = await asyncio.gather(*[coalescer.submit(item) for item in range(3)], return_exceptions=True)
    assert [type(answer) for answer in answers] == [RowsLocked] * 3
    assert table.batches == [[0, 1, 2]]


async def test_where_a_table_is_locked_all_are_told_before_each_of_them_was_waited_for() -> None:
    """A flush of 500 creates would have gone on for half an hour, 2 s for each part of it."""
    table = LockedTable(frozenset(range(500)), frozenset())
    coalescer = Coalescer(table.flush, locked=table.ask)
    answers = await asyncio.gather(*[coalescer.submit(item) for item in range(500)], return_exceptions=True)
    assert {type(answer) for answer in answers} == {RowsLocked}
    assert len(table.batches) == 16


@pytest.mark.parametrize("locked", [{0}, {0, 1, 2}, {0, 137, 138, 499}, set(range(0, 500, 7))], ids=len)
async def test_however_many_are_locked_the_others_are_written(locked: set[int]) -> None:
    table = LockedTable(frozenset(locked), frozenset())
    coalescer = Coalescer(table.flush, locked=table.ask)
    answers = await asyncio.gather(*[coalescer.submit(item) for item in range(500)], return_exceptions=True)
    assert [item for item, answer in enumerate(answers) if isinstance(answer, RowsLocked)] == sorted(locked)
