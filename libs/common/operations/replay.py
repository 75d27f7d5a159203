"""Replays and drops as operators order and steer them. The work itself is done in the background (replay_run.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from libs.common.domain.errors import Conflict, Invalid, NotFound
from libs.common.ports_dead import (
    EVERYTHING,
    KEPT_BYTES,
    Action,
    DeadFilter,
    DeadKind,
    DeadRows,
    Job,
    JobItem,
    JobOrder,
    JobState,
    ReplayJobs,
    Selection,
)
from libs.common.runtime.body_redaction import holds_mask
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.redaction import MASK

USUAL_LIMIT: Final = 1_000
LARGEST_LIMIT: Final = 100_000
USUAL_RATE: Final = 100.0
HIGHEST_RATE: Final = 2_000.0
LOWEST_RATE: Final = 0.01
MOST_IDS: Final = 10_000
REASON_LENGTH: Final = 500


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What an operator asks for. Either ids or the filter select; the filter's kind is the request's."""

    action: Action
    kind: DeadKind
    reason: str
    asked_by: str
    wanted: DeadFilter = EVERYTHING
    ids: Sequence[str] | None = None
    limit: int = USUAL_LIMIT
    rate: float = USUAL_RATE
    mended: bytes | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A job that was written; `unknown` are ids that are not dead, or out of reach."""

    job: Job
    unknown: Sequence[str]


@dataclass(frozen=True, slots=True)
class Preview:
    """What a request would take."""

    selection: Selection
    unknown: Sequence[str]


class Replays:
    """Orders within a reach: one tenant's dead, or everybody's for None. Raises Invalid, NotFound, Conflict."""

    def __init__(self, rows: DeadRows, jobs: ReplayJobs) -> None:
        self._rows = rows
        self._jobs = jobs

    async def preview(self, reach: int | None, request: ReplayRequest) -> Preview:
        """The dry run: how many, and of which groups. Changes nothing."""
        order, unknown = await self._order(reach, request)
        return Preview(await self._jobs.select(order), unknown)

    async def start(self, reach: int | None, request: ReplayRequest) -> Started:
        """Write the job; what another job has in hand is left out, so that asking twice runs nothing twice."""
        order, unknown = await self._order(reach, request)
        await failpoint("api/before-replay-job")
        return Started(await self._jobs.create(order), unknown)

    async def page(self, reach: int | None, before: int | None, limit: int) -> tuple[list[Job], int | None]:
        """Jobs, newest first."""
        return await self._jobs.page(reach, before, limit)

    async def show(self, reach: int | None, id: int) -> Job:
        """One job."""
        job = await self._jobs.find(reach, id)
        if job is None:
            raise _unknown_job()
        return job

    async def items(
        self,
        reach: int | None,
        id: int,
        after: int | None,
        limit: int,
    ) -> tuple[list[JobItem], int | None]:
        """What became of each."""
        await self.show(reach, id)
        return await self._jobs.items(id, after, limit)

    async def pause(self, reach: int | None, id: int) -> Job:
        """Nothing of it begins until it goes on."""
        return await self._steer(reach, id, JobState.PAUSED)

    async def resume(self, reach: int | None, id: int) -> Job:
        """Go on."""
        return await self._steer(reach, id, JobState.RUNNING)

    async def stop(self, reach: int | None, id: int) -> Job:
        """End it; what was not done stays dead."""
        return await self._steer(reach, id, JobState.STOPPED)

    async def _steer(self, reach: int | None, id: int, state: JobState) -> Job:
        await failpoint("api/before-steer")
        job = await self._jobs.steer(reach, id, state)
        if job is None:
            raise _unknown_job()
        if job.state is not state:
            raise Conflict("replay_over", f"the job is {job.state}")
        return job

    async def _order(self, reach: int | None, request: ReplayRequest) -> tuple[JobOrder, Sequence[str]]:
        reason = request.reason.strip()
        _check(request, reason)
        if request.mended is not None:
            _check_mended(request, request.mended)
        if reach is not None and request.wanted.tenant not in (None, reach):
            raise Invalid("invalid", "is another tenant's than yours", field="/filter/tenant")
        order = JobOrder(
            action=request.action,
            kind=request.kind,
            wanted=replace(request.wanted, kind=request.kind),
            keys=None,
            limit=request.limit,
            rate=request.rate,
            reason=reason,
            asked_by=request.asked_by,
            reach=reach,
            mended=request.mended,
        )
        if request.ids is None:
            return order, ()
        asked = list(dict.fromkeys(request.ids))
        found = await self._rows.keys(reach, request.kind, asked)
        unknown = [one for one in asked if one not in found]
        if not found:
            raise NotFound("dead_unknown", f"none of these ids is a dead {request.kind}")
        if request.mended is not None:  # now that it is known to be for somebody who may see messages
            await _check_masks(request.mended)
        keys = sorted(set(found.values()))
        return replace(order, keys=keys, limit=len(keys)), unknown


def _check(request: ReplayRequest, reason: str) -> None:
    if not 1 <= len(reason) <= REASON_LENGTH:
        raise Invalid("invalid", f"say why, in 1 to {REASON_LENGTH} characters", field="/reason")
    if any(ord(character) < 32 for character in reason):
        raise Invalid("invalid", "may not hold control characters", field="/reason")
    if not 1 <= request.limit <= LARGEST_LIMIT:
        raise Invalid("invalid", f"may be 1 to {LARGEST_LIMIT}", field="/limit")
    if not LOWEST_RATE <= request.rate <= HIGHEST_RATE:
        raise Invalid("invalid", f"may be {LOWEST_RATE} to {HIGHEST_RATE:.0f} a second", field="/rate")
    if request.ids is not None and not 1 <= len(request.ids) <= MOST_IDS:
        raise Invalid("invalid", f"may be 1 to {MOST_IDS}", field="/ids")
    if request.ids is not None and replace(request.wanted, kind=None) != EVERYTHING:
        raise Invalid("invalid", "give ids or a filter, not both", field="/filter")


def _check_mended(request: ReplayRequest, mended: bytes) -> None:
    one_message = request.kind is DeadKind.MESSAGE and request.ids is not None and len(request.ids) == 1
    if not one_message or request.action is not Action.REPLAY:
        raise Invalid("invalid", "only one message can be mended, by its id", field="/value")
    if len(mended) > KEPT_BYTES:
        raise Invalid("invalid", f"may have at most {KEPT_BYTES} bytes", field="/value")


async def _check_masks(mended: bytes) -> None:
    # Every face shows a message with its secrets masked, so what was copied from there must not go out as it is. A
    # value of a megabyte takes a second or two: not on the loop.
    if await asyncio.to_thread(holds_mask, mended):
        raise Invalid("invalid", f"holds {MASK} in place of a secret: write the secret itself", field="/value")


def _unknown_job() -> NotFound:
    return NotFound("replay_unknown", "there is no such replay job")
