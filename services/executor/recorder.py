"""Writes down how attempts go and end, together with their neighbours, until PostgreSQL has answered.

Every write is fenced by the attempt's token. An end whose answer was lost is read back: the row of the attempt says
whether it was ours, and only then do slot and permit go back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias, TypeVar, assert_never

from libs.common.domain.errors import OutcomeUnknown, RowsLocked, Unavailable
from libs.common.domain.output import StagedFile
from libs.common.domain.settle import CallAgain, Finish, GiveBack, Park, Retry, Settlement
from libs.common.ports_attempts import Attempt, Attempts
from libs.common.ports_dispatch import Placed
from libs.common.runtime.coalescer import Coalescer, CoalescerClosed
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from services.executor.figures import Figures

log = get_logger()

_RETRY_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)
_WARN_SECONDS: Final = 10.0

Item = TypeVar("Item")
Answer = TypeVar("Answer")
#: What the coalescers ask about errors: is it one bad row's fault.
Verdict: TypeAlias = Callable[[BaseException], bool]


async def until_answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask PostgreSQL until it answers, and there is memory to ask. Raises CoalescerClosed, and what is no outage."""
    tries = 0
    while True:
        try:
            return await ask()
        except CoalescerClosed:
            raise
        except (OutcomeUnknown, Unavailable, MemoryError):
            await asyncio.sleep(_RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)])
            tries += 1


class Recorder:
    """One coalescer for each kind of end."""

    def __init__(
        self,
        attempts: Attempts,
        figures: Figures,
        placed: Callable[[Sequence[Placed]], None],
        *,
        changed: Callable[[Iterable[tuple[int, int]]], None],
        is_data_error: Verdict,
    ) -> None:
        self._attempts = attempts
        self._figures = figures
        self._placed = placed
        self._changed = changed
        self._verdicts: dict[str, Any] = {"is_data_error": is_data_error, "locked": self._locked}
        self._finishes = self._gather(attempts.finish_many)
        self._retries = self._gather(attempts.retry_many)
        self._parks = self._gather(attempts.park_many)
        self._generated = self._gather(attempts.generated_many)
        self._hand_overs = self._gather(attempts.hand_over)
        self._releases = Coalescer[tuple[Attempt, GiveBack, bool], bool](self._release, **self._verdicts)
        self._call_agains = Coalescer[tuple[Attempt, CallAgain], bool](self._call_again, **self._verdicts)
        self._migrating = Coalescer[Attempt, bool](self._migrate, **self._verdicts)
        self._recorded = Coalescer[Attempt, bool](self._read_back, **self._verdicts)
        self._locks = Coalescer[Attempt, bool](self._locked)
        self._warn_at = 0.0  #: the monotonic second from which on a locked task is told of: a locked table locks all

    async def end(self, attempt: Attempt, settlement: Settlement, *, called: bool) -> bool:
        """Write an end; False when the attempt was not ours any more and nothing was written. For a hand-back the
        answer is always True.

        Raises CoalescerClosed when the process ended before PostgreSQL answered: the rescue finds the attempt then.
        """
        match settlement:
            case Finish():
                await failpoint("executor/before-finish")
                mine = await self._write(self._finishes, (attempt, settlement), attempt)
            case Retry():
                await failpoint("executor/before-retry")
                mine = await self._write(self._retries, (attempt, settlement), attempt)
            case Park():
                await failpoint("executor/before-park")
                mine = await self._write(self._parks, (attempt, settlement))
            case GiveBack():
                await failpoint("executor/before-hand-back")
                mine = await self._write(self._releases, (attempt, settlement, called))
            case CallAgain():
                await failpoint("executor/before-call-again")
                mine = await self._write(self._call_agains, (attempt, settlement))
            case _:
                assert_never(settlement)
        return self._seen(mine, type(settlement).__name__.lower(), attempt)

    async def generated(self, attempt: Attempt, staged: Sequence[StagedFile]) -> bool:
        """Write where the output is staged, before it is uploaded.

        Raises OutcomeUnknown when the attempt is not ours any more, but a try whose answer was lost may have been
        written: whoever goes on with the attempt needs the output then.
        """
        await failpoint("executor/before-generated")
        mine = await self._write(self._generated, (attempt, staged), in_doubt=True)
        return self._seen(mine, "generated", attempt)

    async def migrating(self, attempt: Attempt) -> bool:
        """Write that the upload lasts."""
        await failpoint("executor/before-migrating")
        return self._seen(await self._write(self._migrating, attempt), "migrating", attempt)

    async def hand_over(self, attempt: Attempt, executor: int) -> bool:
        """Hand an upload to the executor that has its staging store."""
        await failpoint("executor/before-hand-over")
        return self._seen(await self._write(self._hand_overs, (attempt, executor)), "hand_over", attempt)

    async def close(self, timeout: float) -> None:
        """Write what was submitted; what PostgreSQL does not take in time (seconds) is left to the rescue."""
        everything = (
            self._finishes, self._retries, self._parks, self._generated, self._hand_overs,
            self._releases, self._call_agains, self._migrating, self._recorded, self._locks,
        )  # fmt: skip
        await asyncio.gather(*(coalescer.close(timeout) for coalescer in everything))

    async def _write(
        self, line: Coalescer[Item, bool], item: Item, ends: Attempt | None = None, *, in_doubt: bool = False
    ) -> bool:
        """Ask until it is answered. An end that was perhaps written before is looked up. Raises CoalescerClosed, and
        OutcomeUnknown where it matters (`in_doubt`) that what is not ours any more was perhaps written before.
        """
        unsure = False

        async def write() -> bool:
            nonlocal unsure
            try:
                mine = await line.submit(item)
                if not mine and unsure and ends is not None:
                    mine = await self._recorded.submit(ends)
            except RowsLocked:
                await self._until_free(_attempt_of(item))
                raise
            except (OutcomeUnknown, MemoryError):
                unsure = True
                raise
            return mine

        mine = await until_answered(write)
        if not mine and unsure and in_doubt:
            raise OutcomeUnknown("the attempt was lost after a write whose answer was")
        return mine

    async def _until_free(self, attempt: Attempt) -> None:
        """Somebody keeps rows of this task locked. Whoever tried again meanwhile would hold up a batch of others."""
        now = time.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            log.warning("task.locked", task_id=str(attempt.public_id), advice="`sluiceway doctor` finds old transactions")
        while True:
            await asyncio.sleep(_RETRY_SECONDS[-1])
            if not await self._locks.submit(attempt):
                return

    def _seen(self, mine: bool, step: str, attempt: Attempt) -> bool:
        if mine:
            self._changed([(attempt.tenant_id, attempt.id)])
        else:
            self._figures.fenced(step)
        return mine

    def _gather(
        self, write: Callable[[Sequence[tuple[Attempt, Item]]], Awaitable[set[int]]]
    ) -> Coalescer[tuple[Attempt, Item], bool]:
        async def flush(rows: list[tuple[Attempt, Item]]) -> list[bool]:
            mine = await write(rows)
            return [attempt.id in mine for attempt, _ in rows]

        return Coalescer(flush, **self._verdicts)

    async def _release(self, rows: list[tuple[Attempt, GiveBack, bool]]) -> list[bool]:
        self._placed(await self._attempts.release_many(rows))
        return [True] * len(rows)

    async def _call_again(self, rows: list[tuple[Attempt, CallAgain]]) -> list[bool]:
        self._placed(await self._attempts.call_again_many(rows))
        return await self._read_back([attempt for attempt, _ in rows])

    async def _migrate(self, attempts: list[Attempt]) -> list[bool]:
        mine = await self._attempts.migrating_many(attempts)
        return [attempt.id in mine for attempt in attempts]

    async def _locked(self, items: Sequence[Any]) -> list[bool]:
        attempts = [_attempt_of(item) for item in items]
        locked = await self._attempts.locked([attempt.id for attempt in attempts])
        return [attempt.id in locked for attempt in attempts]

    async def _read_back(self, attempts: list[Attempt]) -> list[bool]:
        written = await self._attempts.ends_recorded(attempts)
        return [attempt.id in written for attempt in attempts]


def _attempt_of(item: Any) -> Attempt:
    """Every line takes attempts, or tuples of one and what is written of it."""
    attempt: Attempt = item if isinstance(item, Attempt) else item[0]
    return attempt
