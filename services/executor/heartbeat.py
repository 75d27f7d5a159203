"""This executor's sign of life, and what it learns with it.

    join --> beat every 2 s --> leave
               |  answered late (over 6 s since the last one): ask which attempts are still ours, abort the others
               |  answered "presumed dead": abort everything, forget everything, join under a new number
               `  not answered: try again sooner; after 6 s nothing new is started, running calls go on

The trust window of 6 s is counted from the moment *before* the last answered beat was sent, on the monotonic clock: it
ends earlier for us than for anybody who watched that beat arrive. Others presume us dead after 10 s in which they saw
the database all the time; so between our 6 and their 10 no call of ours begins. A process that was frozen finds its
window over before it does anything else.

A read loop that does not turn makes the beat say "not reading": its partitions go to others, its running calls stay
its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from libs.common.domain.errors import OutcomeUnknown, Unavailable
from libs.common.ports_attempts import Identity, Membership, Paused, Posture
from libs.common.runtime.backoff import set_within
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger

log = get_logger()

BEAT_SECONDS: Final = 2.0
TRUST_SECONDS: Final = 6.0
_RETRY_SECONDS: Final = 0.5
#: A beat that is not answered by then is tried again on another connection.
_ANSWER_SECONDS: Final = 2.5
_LATE_SECONDS: Final = 1.0


class Owner(Protocol):
    """What a heartbeat speaks for."""

    def load(self) -> tuple[int, int]:
        """How many attempts run, and how many rows are held here."""

    def posture(self) -> Posture:
        """Whether we take work, or why not."""

    def told(self, *, reading: bool) -> None:
        """The table says this of us now."""

    def cancel(self, tasks: Sequence[int]) -> None:
        """Somebody wants these tasks stopped."""

    def ordered(self, *, drain: bool, paused: Paused) -> None:
        """What operators want now: that we finish and leave, and that nothing of this is started."""

    async def sort_out(self) -> None:
        """We were silent for long: abort what is not ours any more. Raises Unavailable or OutcomeUnknown."""

    def buried(self, number: int) -> None:
        """We were presumed dead: abort and forget everything; `number` is who we are from now on."""


class Heartbeat:
    """The only writer of our heartbeat row, on a connection that work cannot use up."""

    def __init__(self, membership: Membership, identity: Identity, clock: Callable[[], float] = time.monotonic) -> None:
        self.number = 0
        self._membership = membership
        self._identity = identity
        self._clock = clock
        self._trusted_from = float("-inf")
        self._asked_at: float | None = None  #: when a beat was sent that is not answered yet
        self._failed = False
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()

    async def join(self) -> int:
        """Become a member; waits for PostgreSQL as long as it takes."""
        await failpoint("executor/before-join")
        while True:
            began = self._clock()
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self.number = await self._membership.join(self._identity)
            except (Unavailable, OutcomeUnknown, TimeoutError) as error:
                log.warning("executor.join_failed", error=type(error).__name__)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._trust(began)
                log.info("executor.joined", executor=self.number, name=self._identity.name)
                return self.number

    @property
    def trusted(self) -> bool:
        """Whether something new may be started."""
        return self._clock() - self._trusted_from < TRUST_SECONDS

    @property
    def answering(self) -> bool:
        """Whether PostgreSQL answers our beats at the moment."""
        late = self._asked_at is not None and self._clock() - self._asked_at > _LATE_SECONDS
        return not self._failed and not late

    async def regain(self) -> None:
        """Wait until something new may be started."""
        while not self.trusted:
            self._answered.clear()
            await self._answered.wait()

    def soon(self) -> None:
        """Beat now: there is something to say, or to learn."""
        self._wake.set()

    async def run(self, owner: Owner) -> None:
        """Beat until cancelled."""
        while True:
            self._wake.clear()
            answered = await self._beat(owner)
            await set_within(self._wake, BEAT_SECONDS if answered else _RETRY_SECONDS)

    async def leave(self) -> None:
        """Stop for good. Raises Unavailable or OutcomeUnknown; then our silence says it."""
        await failpoint("executor/before-leave")
        async with asyncio.timeout(_ANSWER_SECONDS):
            await self._membership.leave()

    async def _beat(self, owner: Owner) -> bool:
        began = self._asked_at = self._clock()
        try:
            await failpoint("executor/before-beat")
            await self._ask(owner, began)
        except Exception as error:  # the loop's end would be the process's, and that of all its calls
            log.warning(
                "executor.beat_failed", executor=self.number, error=type(error).__name__, message=str(error)[:200]
            )
            self._failed = True
        else:
            self._failed = False
        self._asked_at = None
        return not self._failed

    async def _ask(self, owner: Owner, began: float) -> None:
        (running, held), posture = owner.load(), owner.posture()
        async with asyncio.timeout(_ANSWER_SECONDS):
            answered = await self._membership.beat(running, held, posture)
        if answered is None:
            log.warning("executor.presumed_dead", executor=self.number)
            owner.buried(await self.join())
            return
        if not self.trusted:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await owner.sort_out()
        self._trust(began)
        owner.told(reading=posture == "reading")
        owner.ordered(drain=answered.draining, paused=answered.paused)
        if answered.canceled:
            owner.cancel(answered.canceled)

    def _trust(self, since: float) -> None:
        self._trusted_from = max(self._trusted_from, since)
        self._answered.set()
