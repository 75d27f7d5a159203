"""One flush for many callers: what arrives while a flush is under way shares the next one."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeAlias, TypeVar, cast

from libs.common.domain.errors import Deadlocked, OutcomeUnknown, RowsLocked, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
_Waiting: TypeAlias = "tuple[Item, asyncio.Future[Result], int]"

_MAX_ITEMS: Final = 500
_MAX_BYTES: Final = 8 * 1024 * 1024
#: Flushes of a batch that may meet RowsLocked one after the other, each after a wait of seconds. Halving the largest
#: batch takes ten until a locked item stands alone; by then others succeed, unless it is a whole table.
_MOST_IN_VAIN: Final = 15
#: For so long after a flush met locked rows, who comes for the same is looked at before it is flushed: it would hold up
#: all the others of its batch. What such looks find makes it no longer: it may be a neighbour's.
_WARY_SECONDS: Final = 10.0


class CoalescerClosed(Unavailable):
    """The process is stopping; nothing was begun."""


def _never(_error: BaseException) -> bool:
    return False


class Coalescer(Generic[Item, Result]):
    """Gathers single items into batches for `flush`, which answers them in order.

    The first item of an idle coalescer is flushed in the next turn of the loop; whatever comes while `concurrency`
    flushes are under way goes together into the next one, at most `max_items` and `max_bytes` of it (a single larger
    item goes alone). What was submitted is flushed even if its caller is cancelled meanwhile.

    A data error halves the batch until the bad item stands alone: only its caller sees the error. What met a deadlock
    is flushed once more. RowsLocked goes to the callers of the items that `locked` names, perhaps for what a neighbour
    writes just then, and the others are flushed without them, as those are that come soon after; where it names none,
    the batch is halved, but to no end where it is a whole table that is locked: then it goes to all. Any other error
    goes to every caller of the batch.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        max_items: int = _MAX_ITEMS,
        max_bytes: int = _MAX_BYTES,
        size_of: Callable[[Item], int] | None = None,
        concurrency: int = 1,
        is_data_error: Callable[[BaseException], bool] = _never,
        locked: Callable[[list[Item]], Awaitable[Sequence[bool]]] | None = None,
        rows_of: Callable[[Item], Hashable] | None = None,
    ) -> None:
        """`rows_of` names the rows of an item that may be locked: then nobody is looked at but who comes for rows that
        were locked a moment ago, and none of those once they were seen free. Without it everybody is.
        """
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._concurrency = concurrency
        self._is_data_error = is_data_error
        self._locked = locked
        self._rows_of = rows_of
        self._wary_of: dict[Hashable, float] = {}  #: rows that were locked a moment ago, until when by time.monotonic
        self._waiting: list[_Waiting[Item, Result]] = []
        self._waiting_bytes = 0
        self._flights: set[asyncio.Task[None]] = set()
        self._flying = 0
        self._boarding: asyncio.Task[None] | None = None  #: it has yet to take its first batch
        self._closed = False
        # Flushes belong to nobody: the first caller's log fields and trace must not stick to its neighbours.
        self._context = contextvars.copy_context()

    async def submit(self, item: Item) -> Result:
        """The answer to one item. Raises what `flush` raised for it, CoalescerClosed when closed.

        OutcomeUnknown when the flush was cut off half-way.
        """
        return await self._join(item)

    async def submit_many(self, items: Sequence[Item]) -> list[Result]:
        """The answers to several items, in order; raises the first error once every one of them is settled."""
        results = await asyncio.gather(*[self._join(item) for item in items], return_exceptions=True)
        try:
            if any(isinstance(result, BaseException) for result in results):
                raise next(result for result in results if isinstance(result, BaseException))
            return cast("list[Result]", results)
        finally:
            del results  # as in _carry

    async def close(self, timeout: float) -> None:
        """Take no more, and wait for what was submitted; what is not done in time (seconds) is cut off."""
        self._closed = True
        if self._flights:
            _, late = await asyncio.wait(self._flights, timeout=timeout)
            for flight in late:
                flight.cancel()
            if late:
                await asyncio.wait(late, timeout=1)

    def _join(self, item: Item) -> asyncio.Future[Result]:
        if self._closed:
            raise CoalescerClosed("stopping")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        size = self._size_of(item) if self._size_of is not None else 0
        self._waiting.append((item, future, size))
        self._waiting_bytes += size
        if self._flying < self._concurrency and self._boarding is None:
            self._take_off()
        return future

    def _take_off(self) -> None:
        """Its first step is in the next turn of the loop: whoever is ready in this very turn comes along for free."""
        self._flying += 1
        flight = self._boarding = asyncio.get_running_loop().create_task(
            self._fly(), name="coalescer-flight", context=self._context.copy()
        )
        self._flights.add(flight)
        flight.add_done_callback(self._landed)

    def _landed(self, flight: asyncio.Task[None]) -> None:
        self._flights.discard(flight)
        if flight is self._boarding:  # cancelled before its first step: nobody else would let the next one off
            self._boarding = None
            self._flying -= 1
            self._turn_away()

    async def _fly(self) -> None:
        """Flush batch after batch until nobody waits."""
        self._boarding = None
        batch: list[_Waiting[Item, Result]] = []
        try:
            while self._waiting:
                batch = self._next_batch()
                await self._carry(batch)
        except BaseException:
            _fail(batch, OutcomeUnknown("the flush was cut off"))
            self._turn_away()
            raise
        finally:
            # Counted here and not by the task's end: between the two a submit would wait for a flight that is over.
            self._flying -= 1
            del batch  # as in _carry, whose frame knows this one

    def _turn_away(self) -> None:
        _fail(self._waiting, Unavailable("the flush before this one was cut off"))
        self._waiting, self._waiting_bytes = [], 0

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        waiting = self._waiting
        if len(waiting) <= self._max_items and self._waiting_bytes <= self._max_bytes:
            self._waiting, self._waiting_bytes = [], 0
            return waiting
        count = size = 0
        for _, _, item_size in waiting[: self._max_items]:
            if count and size + item_size > self._max_bytes:
                break
            count += 1
            size += item_size
        self._waiting = waiting[count:]
        self._waiting_bytes -= size
        return waiting[:count]

    async def _carry(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Answer every caller of the batch, halving it around bad items."""
        parts, in_vain = await self._looked_at(batch), 0
        del batch  # named by a frame of its own error's traceback, all of it would wait for the garbage collector
        while parts:
            part = parts.pop(0)
            try:
                _answer(part, await self._flush_once_more_on_deadlock([item for item, _, _ in part]))
                in_vain = 0
            except Exception as error:
                in_vain = in_vain + 1 if isinstance(error, RowsLocked) else 0
                if in_vain > _MOST_IN_VAIN:
                    _fail([waiting for left in (part, *parts) for waiting in left], error)
                    parts = []
                else:
                    parts[:0] = await self._left_over(part, error)
            finally:
                del part  # as above

    async def _looked_at(self, batch: list[_Waiting[Item, Result]]) -> list[list[_Waiting[Item, Result]]]:
        """What is flushed of a batch, in batches: all but those whose rows were locked a moment ago and still are."""
        now = time.monotonic()
        self._wary_of = {rows: until for rows, until in self._wary_of.items() if now < until}
        doubtful = [waiting for waiting in batch if self._rows(waiting) in self._wary_of] if self._wary_of else []
        if not doubtful:
            return [batch]
        try:
            kept = await self._kept_locked(doubtful)
        except Exception:  # the flush finds out
            return [batch]
        if self._rows_of is not None:
            for rows in {self._rows(waiting) for waiting in doubtful} - {self._rows(waiting) for waiting in kept}:
                self._wary_of.pop(rows, None)
        return _without(batch, kept, RowsLocked("its rows are locked, as they were a moment ago"))

    async def _kept_locked(self, batch: list[_Waiting[Item, Result]]) -> list[_Waiting[Item, Result]]:
        """Those of a batch whose rows somebody keeps locked."""
        if self._locked is None:
            return []
        locked = await self._locked([item for item, _, _ in batch])
        return [waiting for waiting, is_locked in zip(batch, locked, strict=True) if is_locked]

    def _rows(self, waiting: _Waiting[Item, Result]) -> Hashable:
        return None if self._rows_of is None else self._rows_of(waiting[0])

    async def _left_over(
        self, batch: list[_Waiting[Item, Result]], error: Exception
    ) -> list[list[_Waiting[Item, Result]]]:
        """What is flushed anew of a batch that failed, in batches; the other callers are told."""
        if isinstance(error, RowsLocked):
            try:
                kept = await self._kept_locked(batch)
            except Exception:  # what PostgreSQL does not say now it says to their next try
                _fail(batch, error)
                return []
            if kept:
                self._wary_of |= {self._rows(waiting): time.monotonic() + _WARY_SECONDS for waiting in kept}
                return _without(batch, kept, error)
        if len(batch) > 1 and (isinstance(error, RowsLocked) or self._is_data_error(error)):
            half = len(batch) // 2
            return [batch[:half], batch[half:]]
        _fail(batch, error)
        return []

    async def _flush_once_more_on_deadlock(self, items: list[Item]) -> Sequence[Result]:
        with suppress(Deadlocked):
            return await self._flush(items)
        return await self._flush(items)


def _answer(batch: Sequence[_Waiting[Item, Result]], results: Sequence[Result]) -> None:
    if len(results) != len(batch):
        _fail(batch, RuntimeError(f"a flush answered {len(results)} of {len(batch)} items"))
        return
    for (_, future, _), result in zip(batch, results, strict=True):
        if not future.done():
            future.set_result(result)


def _without(
    batch: Sequence[_Waiting[Item, Result]], kept: Sequence[_Waiting[Item, Result]], error: Exception
) -> list[list[_Waiting[Item, Result]]]:
    """The others of a batch, in batches; the callers of those that are kept locked are told."""
    _fail(kept, error)
    told = {future for _, future, _ in kept}
    free = [waiting for waiting in batch if waiting[1] not in told]
    return [free] if free else []


def _fail(batch: Sequence[_Waiting[Item, Result]], error: Exception) -> None:
    for _, future, _ in batch:
        if not future.done():
            future.set_exception(error)
