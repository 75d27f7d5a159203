"""Named places where a test makes the process fail.

`SLUICEWAY_FAILPOINTS=role/name:nth:exit|raise|cancel|delay=ms`, comma separated; `nth` counts from 1, `*` is every
time. Each strike is first written to the file that SLUICEWAY_FAILPOINTS_LOG names, if it names one.
"""

from __future__ import annotations

import asyncio
import difflib
import os
from collections import Counter
from dataclasses import dataclass
from typing import Final

#: Every failpoint there is. Add yours here; `arm` refuses other names.
FAILPOINTS: Final[dict[str, str]] = {
    "api/gate-taken": "The gate slot is taken in Redis, nothing is in PostgreSQL yet.",
    "api/before-commit": "The rows of a create are written but not committed.",
    "api/after-commit": "The create is committed, the caller has no answer yet.",
    "api/before-cancel": "A cancel is about to be written.",
    "api/after-cancel": "A cancel is written, its slot is not given back yet.",
    "api/before-fetched": "The first read of successes is about to be written, the caller has no answer yet.",
    "api/before-callback": "A provider's callback is about to be kept.",
    "api/after-callback": "A provider's callback is kept, its executor does not know.",
    "api/before-operations": "Entries of the operation log are about to be written.",
    "api/before-replay-job": "A job that replays or drops the dead is about to be written.",
    "api/before-steer": "A replay job is about to be paused, resumed or stopped.",
    "cli/import-before-commit": "A slice of an old gateway's rows is written but not committed.",
    "cli/import-after-commit": "A slice of an old gateway's tasks is committed, its gate slots are not taken yet.",
    "cli/before-reseal": "A page of secrets is sealed anew, nothing is written yet.",
    "dispatcher/before-hand-to-webhooks": "Events are acknowledged, deliveries are not made of them yet.",
    "dispatcher/before-webhook": "A delivery is about to be sent to its address.",
    "dispatcher/after-webhook": "A delivery was answered, nothing is written of it yet.",
    "dispatcher/before-webhook-bury": "Deliveries whose time is over are about to be given up.",
    "dispatcher/before-lease": "The tick is about to lease due rows.",
    "dispatcher/after-lease": "Rows are leased, no message is on the road yet.",
    "dispatcher/after-publish": "Messages are acknowledged by the broker, their leases are still open.",
    "dispatcher/before-close-leases": "Leases of acknowledged messages are about to be closed without a turn.",
    "dispatcher/before-give-back": "Unsent rows are about to be given back.",
    "dispatcher/before-postpone": "Rows that the broker refused are about to be put off.",
    "dispatcher/before-bury": "Rows that can never be sent are about to fail their tasks.",
    "dispatcher/before-event-publish": "Event rows are read, none is on the road yet.",
    "dispatcher/before-event-delete": "Events are acknowledged by the broker, their rows still stand.",
    "dispatcher/before-event-put-off": "Events that the broker refused are about to be put off.",
    "dispatcher/before-topic": "A model's topic is about to be created.",
    "dispatcher/before-replay-send": "Dead messages are about to go back to their topics.",
    "dispatcher/after-replay-send": "Replayed messages are acknowledged by the broker, their rows still say dead.",
    "dispatcher/before-dead-letters": "Letters that dead messages lack are about to be sent.",
    "executor/before-permit": "Messages are read, no permit is asked for yet.",
    "executor/before-claim": "Permits are taken, nothing is claimed yet.",
    "executor/after-claim": "Attempts are started in PostgreSQL, no model is called yet.",
    "executor/before-hold": "Messages without a permit are about to be recorded as held.",
    "executor/before-call": "The model is about to be called.",
    "executor/before-intent": "A job's intent is about to be written.",
    "executor/after-intent": "A job's intent is written, nothing is submitted yet.",
    "executor/after-submit": "The provider took a job, its id is written nowhere.",
    "executor/before-job-news": "What a provider says of a job is about to be written.",
    "executor/after-provider-id": "The provider's id of a job is written.",
    "executor/before-late-name": "A submit was answered when its attempt was over; the job's id is written nowhere.",
    "executor/before-drop-callbacks": "Callbacks about a job that goes on were read, and are still kept.",
    "executor/before-resume": "A job is about to be taken over from whoever began it.",
    "executor/before-own-permit": "The permit of a job that was taken over is renamed, its row has the former one.",
    "executor/before-collect": "A job is over at its provider, its output is not staged yet.",
    "executor/after-one-collect": "One of a job's outputs is staged, others are perhaps not yet.",
    "executor/before-unwanted": "Jobs that nobody wants any more are about to be looked for, and marked.",
    "executor/before-provider-cancel": "A provider is about to be told that nobody wants its job.",
    "executor/after-provider-cancel": "A provider was told so, or is to be told later; that is not written yet.",
    "executor/after-call": "The model answered, its output is staged.",
    "executor/before-generated": "The staged reference is about to be recorded.",
    "executor/after-generated": "The staged reference is recorded, nothing is uploaded yet.",
    "executor/after-one-upload": "One of several files is in object storage, others are perhaps not yet.",
    "executor/after-upload": "The result is in object storage, the task is not finished yet.",
    "executor/before-finish": "The final state and its event are about to be written.",
    "executor/after-finish": "The final state is written, permit and slot are still taken.",
    "executor/before-retry": "A failed attempt is about to be recorded for its retry.",
    "executor/before-park": "A staged result is about to be parked until storage works again.",
    "executor/before-call-again": "A lost output is about to be recorded, so that the model is called once more.",
    "executor/before-hand-over": "An upload is about to be handed to the executor that has its staged file.",
    "executor/before-migrating": "The upload lasts; that is about to be shown.",
    "executor/before-join": "The process is about to become a member.",
    "executor/before-leave": "The process has let go of everything and is about to say that it stops.",
    "executor/before-hand-back": "An attempt is about to be handed back without being used up.",
    "executor/before-dead-message": "A record that cannot be read is about to be written to the dead.",
    "executor/before-dead-letter": "A record that cannot be read is kept, the dead-letter topic has it not yet.",
    "executor/after-dead-letter": "The dead-letter topic has it, its row does not say so yet.",
    "executor/before-beat": "A heartbeat is about to be written.",
    "janitor/before-promote": "Tasks whose time has come are about to become due.",
    "janitor/before-requeue": "Due retries have their slots, they are not in the queue yet.",
    "janitor/before-put-off": "Due retries found the gate full and are about to be put off.",
    "janitor/before-rescue": "Work of a silent executor is about to be taken from it.",
    "janitor/before-end-overdue": "Attempts past their deadline are about to be ended.",
    "janitor/before-end-waiting": "Tasks that waited too long are about to be ended.",
    "janitor/before-heal": "Leases of a dispatcher that died are about to be opened.",
    "janitor/before-republish": "Messages that nobody picked up are about to become due again.",
    "janitor/before-reconcile": "Leaked slots and permits are about to be given back.",
    "janitor/before-delete": "Expired tasks are about to be deleted.",
    "janitor/before-prune": "Old rows are about to be deleted in slices.",
    "janitor/before-operations": "Missing entries of the operation log are about to be written.",
    "janitor/before-series": "Ended attempts are about to be folded into minutes for plots.",
    "janitor/before-replay-turn": "Jobs that replay the dead are about to be taken in hand.",
    "janitor/before-replay-finish": "A job that replays the dead is about to be ended if nothing is left of it.",
    "janitor/before-replay": "Dead tasks have their slots, they are not in the queue yet.",
    "janitor/after-replay": "Dead tasks are in the queue again, no dispatcher has heard of it.",
    "janitor/before-replay-hold-up": "Replays found the gate full, and their job is about to be told.",
    "janitor/before-replay-put-off": "Replays without points left, or locked ones, are about to be put off.",
    "janitor/before-replay-refuse": "A replay that PostgreSQL does not take is about to be refused.",
    "janitor/before-replay-events": "Dead events are about to become due again.",
    "janitor/before-drop": "Dead things are about to be dropped.",
    "janitor/before-statistics": "Request counts are about to be folded into the daily table.",
}

_EXIT_CODE: Final = 137  # what kill -9 looks like to the parent
_LOG_VARIABLE: Final = "SLUICEWAY_FAILPOINTS_LOG"


class FailpointRaised(Exception):
    """What the action `raise` raises."""


@dataclass(frozen=True, slots=True)
class _Fault:
    nth: int | None  #: None is every time
    action: str
    delay_ms: int = 0


_armed: dict[str, list[_Fault]] = {}
_reached: Counter[str] = Counter()


def arm(spec: str) -> None:
    """Set what fails from now on, in place of what was set before; an empty text sets nothing.

    Raises ValueError for an unknown name (and says which are near), count or action.
    """
    faults: dict[str, list[_Fault]] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        name, fault = _parse(part)
        faults.setdefault(name, []).append(fault)
    _armed.clear()
    _reached.clear()
    _armed.update(faults)


def reached() -> dict[str, int]:
    """How often each armed failpoint was reached since it was armed."""
    return dict(_reached)


async def failpoint(name: str) -> None:
    """Fail here if a test wants it; otherwise one look-up."""
    faults = _armed.get(name)
    if faults is None:
        return
    _reached[name] += 1
    for fault in faults:
        if fault.nth is None or fault.nth == _reached[name]:
            await _strike(name, _reached[name], fault)


async def _strike(name: str, count: int, fault: _Fault) -> None:
    _record(f"{name} {count} {fault.action} {os.getpid()}\n")
    match fault.action:
        case "exit":
            os._exit(_EXIT_CODE)
        case "raise":
            raise FailpointRaised(f"{name} ({count})")
        case "cancel":
            running = asyncio.current_task()
            assert running is not None
            running.cancel(f"failpoint {name}")
            await asyncio.sleep(0)
        case _:
            await asyncio.sleep(fault.delay_ms / 1000)


def _record(line: str) -> None:
    """Written and on disk before the act: the process may be gone directly after."""
    path = os.environ.get(_LOG_VARIABLE)
    if not path:
        return
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


def _parse(part: str) -> tuple[str, _Fault]:
    name, _, rest = part.partition(":")
    count, _, action = rest.partition(":")
    if name not in FAILPOINTS:
        near = difflib.get_close_matches(name, FAILPOINTS, n=3, cutoff=0.4)
        raise ValueError(f"unknown failpoint {name!r}; near: {', '.join(near) or 'none'}")
    if count != "*" and not (count.isascii() and count.isdecimal() and int(count) > 0):
        raise ValueError(f"failpoint {part!r}: the count must be 1, 2, ... or *")
    nth = None if count == "*" else int(count)
    if action in ("exit", "raise", "cancel"):
        return name, _Fault(nth, action)
    kind, _, milliseconds = action.partition("=")
    if kind != "delay" or not (milliseconds.isascii() and milliseconds.isdecimal()):
        raise ValueError(f"failpoint {part!r}: the action must be exit, raise, cancel or delay=<ms>")
    return name, _Fault(nth, "delay", int(milliseconds))
