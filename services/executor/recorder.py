"""Writes down how attempts go and end, together with their neighbours, until PostgreSQL has answered.

Every write is fenced by the attempt's token. An end whose answer was lost is read back: the row of the attempt says
whether it was ours, and only then do slot and permit go back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias, TypeVar, assert_never

from libs.common.domain.errors import OutcomeUnknown
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import CallAgain, Finish, GiveBack, Park, Retry, Settlement
from libs.common.domain.task import Phase
from libs.common.ports_attempts import Attempt, Attempts
from libs.common.ports_dispatch import Placed
from libs.common.runtime.coalescer import Coalescer
from libs.common.runtime.failpoints import failpoint
from services.executor.figures import Figures
from services.executor.locked_rows import Entry, LockedRows
from services.executor.runs import Run

Item = TypeVar("Item", bound=Entry)
Written = TypeVar("Written")
#: What the coalescers ask about errors: is it one bad row's fault.
Verdict: TypeAlias = Callable[[BaseException], bool]


class Recorder:
    """One coalescer for each kind of end."""

    def __init__(
        self,
        attempts: Attempts,
        figures: Figures,
        placed: Callable[[Sequence[Placed]], None],
        locks: LockedRows,
        *,
        permit_back: Callable[[Run], None],
        changed: Callable[[Iterable[tuple[int, int]]], None],
        is_data_error: Verdict,
    ) -> None:
        self._attempts = attempts
        self._figures = figures
        self._placed = placed
        self._permit_back = permit_back
        self._changed = changed
        self._locks = locks
        self._is_data_error = is_data_error
        self._finishes = self._gather(attempts.finish_many)
        self._retries = self._gather(attempts.retry_many)
        self._parks = self._gather(attempts.park_many)
        self._generated = self._gather(attempts.generated_many)
        self._hand_overs = self._gather(attempts.hand_over)
        self._releases = self._line(self._release)
        self._call_agains = self._line(self._call_again)
        self._migrating = self._line(self._migrate)
        self._recorded = self._line(self._read_back)

    async def end(self, run: Run, settlement: Settlement) -> bool:
        """Write an end; False when the attempt was not ours any more and nothing was written. For a hand-back the
        answer is always True. While somebody keeps rows locked that it needs, it has no slot, here and below, and no
        permit once its output is on record; until then the janitor would put the permit back.

        Raises CoalescerClosed when the process ended before PostgreSQL answered: the rescue finds the attempt then.
        """
        attempt = run.attempt
        match settlement:
            case Finish():
                await failpoint("executor/before-finish")
                mine = await self._write(self._finishes, run, (attempt, settlement), ends=True)
            case Retry():
                await failpoint("executor/before-retry")
                mine = await self._write(self._retries, run, (attempt, settlement), ends=True)
            case Park():
                await failpoint("executor/before-park")
                mine = await self._write(self._parks, run, (attempt, settlement))
            case GiveBack():
                await failpoint("executor/before-hand-back")
                mine = await self._write(self._releases, run, (attempt, settlement, run.called))
            case CallAgain():
                await failpoint("executor/before-call-again")
                mine = await self._write(self._call_agains, run, (attempt, settlement))
            case _:
                assert_never(settlement)
        return self._seen(mine, type(settlement).__name__.lower(), run)

    async def generated(self, run: Run, staged: Sequence[StagedFile]) -> bool:
        """Write where the output is staged, before it is uploaded.

        Raises OutcomeUnknown when the attempt is not ours any more, but a try whose answer was lost may have been
        written: whoever goes on with the attempt needs the output then.
        """
        await failpoint("executor/before-generated")
        mine = await self._write(self._generated, run, (run.attempt, staged), in_doubt=True)
        return self._seen(mine, "generated", run)

    async def migrating(self, run: Run) -> bool:
        """Write that the upload lasts."""
        await failpoint("executor/before-migrating")
        return self._seen(await self._write(self._migrating, run, run.attempt), "migrating", run)

    async def hand_over(self, run: Run, executor: int) -> bool:
        """Hand an upload to the executor that has its staging store."""
        await failpoint("executor/before-hand-over")
        return self._seen(await self._write(self._hand_overs, run, (run.attempt, executor)), "hand_over", run)

    async def close(self, timeout: float) -> None:
        """Write what was submitted; what PostgreSQL does not take in time (seconds) is left to the rescue."""
        everything = (
            self._finishes, self._retries, self._parks, self._generated, self._hand_overs,
            self._releases, self._call_agains, self._migrating, self._recorded,
        )  # fmt: skip
        closing = [coalescer.close(timeout) for coalescer in everything]
        await asyncio.gather(*closing, self._locks.close(timeout))

    async def _write(
        self, line: Coalescer[Item, bool], run: Run, item: Item, *, ends: bool = False, in_doubt: bool = False
    ) -> bool:
        """Ask until it is answered. An end that was perhaps written before is looked up. Raises CoalescerClosed, and
        OutcomeUnknown where it matters (`in_doubt`) that what is not ours any more was perhaps written before.
        """
        unsure = False

        async def write() -> bool:
            nonlocal unsure
            try:
                mine = await line.submit(item)
                if not mine and unsure and ends:
                    mine = await self._recorded.submit(run.attempt)
            except (OutcomeUnknown, MemoryError):
                unsure = True
                raise
            return mine

        mine = await self._locks.until_answered(write, item, stuck=partial(self._let_others, run))
        if not mine and unsure and in_doubt:
            raise OutcomeUnknown("the attempt was lost after a write whose answer was")
        return mine

    def _let_others(self, run: Run) -> None:
        run.slot.give_back()
        if run.phase >= Phase.GENERATED:
            self._permit_back(run)

    def _seen(self, mine: bool, step: str, run: Run) -> bool:
        if mine:
            self._changed([(run.attempt.tenant_id, run.attempt.id)])
        else:
            self._figures.fenced(step)
        return mine

    def _gather(
        self, write: Callable[[Sequence[tuple[Attempt, Written]]], Awaitable[set[int]]]
    ) -> Coalescer[tuple[Attempt, Written], bool]:
        async def flush(rows: list[tuple[Attempt, Written]]) -> list[bool]:
            mine = await write(rows)
            return [attempt.id in mine for attempt, _ in rows]

        return self._line(flush)

    def _line(self, flush: Callable[[list[Item]], Awaitable[list[bool]]]) -> Coalescer[Item, bool]:
        return Coalescer(flush, is_data_error=self._is_data_error, locked=self._locks.among)

    async def _release(self, rows: list[tuple[Attempt, GiveBack, bool]]) -> list[bool]:
        self._placed(await self._attempts.release_many(rows))
        return [True] * len(rows)

    async def _call_again(self, rows: list[tuple[Attempt, CallAgain]]) -> list[bool]:
        self._placed(await self._attempts.call_again_many(rows))
        return await self._read_back([attempt for attempt, _ in rows])

    async def _migrate(self, attempts: list[Attempt]) -> list[bool]:
        mine = await self._attempts.migrating_many(attempts)
        return [attempt.id in mine for attempt in attempts]

    async def _read_back(self, attempts: list[Attempt]) -> list[bool]:
        written = await self._attempts.ends_recorded(attempts)
        return [attempt.id in written for attempt in attempts]
