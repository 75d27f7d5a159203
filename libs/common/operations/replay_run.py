"""Replays and drops as they are worked off, in the background of the processes that can: tasks and events in janitors,
messages in dispatchers. Any number of them may run: a job is in the hands of one of them for some seconds at a time,
and what each write does is settled by PostgreSQL, item by item.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple, TypeAlias
from uuid import UUID, uuid4

from libs.common.domain.errors import GateUnavailable, OutcomeUnknown, RowsLocked, Unavailable
from libs.common.operations.by_lane import by_lane, members_of_lanes
from libs.common.operations.wake import Wake
from libs.common.ports import QueueGate, SlotRequest, SlotVerdict
from libs.common.ports_dead import Action, DeadKind, DueItem, DueMessage, ReplayWork, Turn
from libs.common.ports_dispatch import Carrier, Record
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger

log = get_logger()


class Done(NamedTuple):
    """How many items were replayed or dropped, and the lanes that had no free slot for others."""

    items: int
    full: frozenset[int] = frozenset()
    waited: bool = False  #: for what somebody keeps locked


#: Replays some items of a job.
Replay: TypeAlias = Callable[[Turn, Sequence[DueItem]], Awaitable[Done]]
#: Whether one bad row made a statement fail.
Verdict: TypeAlias = Callable[[BaseException], bool]
#: Gives back what was to be given back to Redis; False while that is away.
Flush: TypeAlias = Callable[[], Awaitable[bool]]

#: How long a job stays in one process's hands after its last look.
LEASE_SECONDS: Final = 10.0
_SLICE: Final = 500
#: So many slices of a job a round: the other jobs wait meanwhile.
_SLICES: Final = 8
_AWAY_SECONDS: Final = 5.0
#: Points come back with the next day, or with a failure.
_POOR_SECONDS: Final = 60.0
_POOR_SPREAD_SECONDS: Final = 240.0
#: A transaction that somebody left open may last for hours; each try holds up the others of its slice for seconds.
_LOCKED_SECONDS: Final = 30.0
#: The share of a gate that replays leave to fresh tasks: one slot of so many, and one at least.
_LEFT_TO_FRESH: Final = 10


class ReplayRunner:
    """Works off the running jobs of some kinds, each at its own pace."""

    def __init__(self, work: ReplayWork, replays: Mapping[DeadKind, Replay], is_data_error: Verdict) -> None:
        self._work = work
        self._replays = replays
        self._is_data_error = is_data_error
        self._me: UUID = uuid4()

    async def round(self) -> int:
        """Once over the running jobs; returns how many items were replayed or dropped.

        Raises what a job failed with, after the others had their turn.
        """
        moved, failure = 0, None
        await failpoint("janitor/before-replay-turn")
        for turn in await self._work.take(self._me, list(self._replays), LEASE_SECONDS):
            try:
                moved += await self._work_off(turn)
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("replay.held_up", job=turn.id, cause=str(error))
            except Exception as error:
                log.error("replay.failed", job=turn.id, error=type(error).__name__, message=str(error)[:500])
                failure = error
        if failure is not None:
            raise failure
        return moved

    async def _work_off(self, turn: Turn) -> int:
        moved, full = 0, set[int]()
        for _ in range(_slices(turn)):
            items = await self._work.due(turn, min(_SLICE, turn.budget - moved), full) if moved < turn.budget else []
            if not items:
                break
            done = await self._settle(turn, items)
            moved += done.items
            full |= done.full
            if done.waited:
                break  # the next slice may wait as long, and with it the other jobs
        if full or moved:
            await failpoint("janitor/before-replay-hold-up")
            await self._work.hold_up(turn, len(full), "no free slot in the model's queue")
        await failpoint("janitor/before-replay-finish")
        if await self._work.finish(turn):
            log.info("replay.done", job=turn.id)
        if moved:
            log.info("replay.moved", job=turn.id, action=turn.action, kind=turn.kind, count=moved)
        return moved

    async def _settle(self, turn: Turn, items: Sequence[DueItem]) -> Done:
        """Replay or drop these; one that the database does not take is refused alone, and a locked one waits alone."""
        try:
            if turn.action is Action.REPLAY:
                return await self._replays[turn.kind](turn, items)
            await failpoint("janitor/before-drop")
            return Done(await self._work.drop(turn, [item.key for item in items]))
        except RowsLocked:
            free = await self._put_off_locked(turn, items)
            if len(free) == len(items):
                raise
            done = await self._settle(turn, free) if free else Done(0)
            return done._replace(waited=True)
        except Exception as error:
            if not self._is_data_error(error):
                raise
            if len(items) > 1:
                half = len(items) // 2
                first, second = await self._settle(turn, items[:half]), await self._settle(turn, items[half:])
                return Done(first.items + second.items, first.full | second.full, first.waited or second.waited)
            log.error("replay.refused", job=turn.id, key=items[0].key, error=type(error).__name__)
            await failpoint("janitor/before-replay-refuse")
            await self._work.refuse(turn, [(items[0].key, "data_error")])
            return Done(0)

    async def _put_off_locked(self, turn: Turn, items: Sequence[DueItem]) -> list[DueItem]:
        """Those of the items that nobody keeps locked; the others are tried again later, and the job says why."""
        locked = await self._work.locked(turn, [item.key for item in items])
        if locked:
            log.warning(
                "replay.locked", job=turn.id, count=len(locked), advice="`sluiceway doctor` finds old transactions"
            )
            await failpoint("janitor/before-replay-put-off")
            await self._work.put_off(
                turn, [(key, _LOCKED_SECONDS) for key in locked], "somebody's transaction keeps rows locked"
            )
        return [item for item in items if item.key not in locked]


def _slices(turn: Turn) -> int:
    # Sending messages may take seconds: one batch a round keeps within the lease, and near a pause.
    return 1 if turn.kind is DeadKind.MESSAGE and turn.action is Action.REPLAY else _SLICES


class TaskReplays:
    """Tasks take their gate slot like any other. Where a lane is full the job looks again in its next round; nothing is
    written about those that wait, so a lane that stays full costs a look a second, however many they are.
    """

    def __init__(self, work: ReplayWork, gate: QueueGate, flush: Flush, wake: Wake, rng: Random) -> None:
        self._work = work
        self._gate = gate
        self._flush = flush
        self._wake = wake
        self._rng = rng

    async def __call__(self, turn: Turn, items: Sequence[DueItem]) -> Done:
        # A slot that still waits to be given back must not be taken for the replay's own.
        if not await self._flush():
            raise GateUnavailable("slots that are to be given back first wait for Redis")
        admitted, taken, full = await self._ask(items)
        # What is not dead any more, or has no open lane, needs no slot: the statement says what becomes of it.
        going = [*admitted, *(item for item in items if item.lane is None)]
        replayed: set[int] = set()
        poor: list[int] = []
        try:
            if going:
                await failpoint("janitor/before-replay")
                moved, poor = await self._work.replay_tasks(turn, going)
                replayed = {task.id for task in moved}
                await failpoint("janitor/after-replay")
                self._wake.moved(moved)
        finally:
            await self._give_back([item for item in taken if item.key not in replayed])
        if poor:
            await failpoint("janitor/before-replay-put-off")
            later = [(key, _POOR_SECONDS + _POOR_SPREAD_SECONDS * self._rng.random()) for key in poor]
            await self._work.put_off(turn, later, "the user's points of today are used up")
        return Done(len(replayed), full)

    async def _ask(self, items: Sequence[DueItem]) -> tuple[list[DueItem], list[DueItem], frozenset[int]]:
        """Those with a slot, those of them that took it just now, and the lanes that are full."""
        asking = [item for item in items if item.lane is not None]
        verdicts = await by_lane(self._gate.take_many, [_request(item) for item in asking], lambda asked: asked.lane)
        answered = list(zip(asking, verdicts, strict=True))
        admitted = (SlotVerdict.TAKEN, SlotVerdict.HELD)
        return (
            [item for item, verdict in answered if verdict in admitted],
            [item for item, verdict in answered if verdict is SlotVerdict.TAKEN],
            # A lane that cannot be answered for waits as a full one does.
            frozenset(item.lane for item, verdict in answered if verdict not in admitted and item.lane is not None),
        )

    async def _give_back(self, losers: Sequence[DueItem]) -> None:
        """Slots of tasks that were not replayed after all; not one with which somebody else has replayed its task."""
        places = [
            (item.lane, item.public_id) for item in losers if item.lane is not None and item.public_id is not None
        ]
        for lane, members in members_of_lanes(places).items():
            try:
                absent = await self._work.absent_slots(lane, members)
                await self._gate.release_many([(lane, str(member)) for member in absent])
            except (Unavailable, OutcomeUnknown, GateUnavailable) as error:
                log.warning("slots.leaked", lane=lane, slots=len(members), cause=str(error))  # reconcile finds them


class OutboxReplays:
    """Events and deliveries become due again under their ids; dispatchers send them as they send all others."""

    def __init__(self, work: ReplayWork, wake: Wake) -> None:
        self._work = work
        self._wake = wake

    async def __call__(self, turn: Turn, items: Sequence[DueItem]) -> Done:
        await failpoint("janitor/before-replay-events")
        replayed = await self._work.replay_outbox(turn, [item.key for item in items])
        if replayed and turn.kind is DeadKind.EVENT:
            self._wake.events()
        elif replayed:
            self._wake.deliveries()
        return Done(replayed)


class MessageReplays:
    """Messages go back to their topics; sent twice, when a process dies in between, they are claimed once.

    Whether the job runs is read with the messages, right before they are sent: what a pause or a stop meets on the way
    still goes out, and the record says so.
    """

    def __init__(self, work: ReplayWork, carrier: Carrier, rng: Random) -> None:
        self._work = work
        self._carrier = carrier
        self._rng = rng

    async def __call__(self, turn: Turn, items: Sequence[DueItem]) -> Done:
        await failpoint("dispatcher/before-replay-send")
        if await self._work.locked(turn, [item.key for item in items]):
            raise RowsLocked("what cannot be settled once it is sent would be sent again and again")
        messages = await self._work.messages(turn, [item.key for item in items])
        going = [message for message in messages if message.topic is not None and not message.problem]
        verdicts = await self._carrier.send([_record(message) for message in going]) if going else []
        answered = list(zip(going, verdicts, strict=True))
        settled = [message.key for message in messages if message.topic is None]
        settled += [message.key for message, verdict in answered if verdict.acknowledged]
        refused = [(message.key, message.problem) for message in messages if message.problem]
        refused += [
            (message.key, f"publish_refused: {verdict.refused}") for message, verdict in answered if verdict.refused
        ]
        replayed = 0
        if settled:
            await failpoint("dispatcher/after-replay-send")
            replayed = await self._work.sent_messages(turn, settled)
        if refused:
            await failpoint("dispatcher/after-replay-send")
            await self._work.refuse(turn, refused)
        away = [message for message, verdict in answered if not verdict.acknowledged and not verdict.refused]
        if away:
            await failpoint("dispatcher/after-replay-send")
            later = [(message.key, _AWAY_SECONDS * (1 + self._rng.random())) for message in away]
            await self._work.put_off(turn, later, self._carrier.last_error or "the topic is not there")
        return Done(replayed)


def _request(item: DueItem) -> SlotRequest:
    # Fresh tasks keep some slots, so that a large replay does not make the API refuse them.
    limit = max(1, item.queue_limit - max(1, item.queue_limit // _LEFT_TO_FRESH))
    return SlotRequest(item.lane or 0, str(item.public_id), limit, item.slot_ttl_ms)


def _record(message: DueMessage) -> Record:
    assert message.topic is not None, "those that are gone are not sent"
    return Record(message.topic, message.partition, message.record_key or b"", message.value or b"", message.headers)
