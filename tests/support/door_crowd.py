"""A process that crowds the doors: `python -m tests.support.door_crowd <url> <name>`, one JSON line for each order.

Orders come by standard input, one a line: `claim <lane> <limit> <count>` takes slots and permits all at once,
`churn <lane> <limit> <rounds>` takes and gives back again and again. `end` ends it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Mapping
from contextlib import suppress

from libs.common.adapters.redis.rebuild import LaneUnknown
from libs.common.ports import PermitRequest, SlotRequest, SlotVerdict
from tests.support.fakes_redis import FakeOpenTasks
from tests.support.redis_doors import LONG_MS, Doors, open_doors

_PAUSE = 0.05


async def crowd(url: str, name: str) -> None:
    source = FakeOpenTasks()
    async with open_doors(url, source, seconds=30) as doors:
        await doors.redis.ping()
        _say({"ready": name})
        while True:
            order = (await asyncio.to_thread(sys.stdin.readline)).split()
            match order:
                case ["claim", lane, limit, count]:
                    _say(await _claim(doors, name, int(lane), int(limit), int(count)) | {"reads": source.reads})
                case ["churn", lane, limit, rounds]:
                    _say(await _churn(doors, name, int(lane), int(limit), int(rounds)))
                case _:
                    return


async def _claim(doors: Doors, name: str, lane: int, limit: int, count: int) -> dict[str, int]:
    slots, permits = await asyncio.gather(
        asyncio.gather(*(_take(doors, lane, f"{name}-{number}", limit) for number in range(count))),
        asyncio.gather(*(_acquire(doors, lane, f"{name}-{number}", limit) for number in range(count))),
    )
    return {"slots": sum(slots), "permits": sum(permits)}


async def _churn(doors: Doors, name: str, lane: int, limit: int, rounds: int) -> dict[str, int]:
    """The highest depth that this process ever saw, and how often it got in."""
    rng = random.Random(name)
    mine: set[str] = set()
    highest = taken = 0
    for turn in range(rounds):
        members = [f"{name}-{turn}-{number}" for number in range(rng.randint(1, 10))]
        try:
            verdicts = await doors.gate.take_many([SlotRequest(lane, member, limit, LONG_MS) for member in members])
        except LaneUnknown:
            continue
        won = [m for m, verdict in zip(members, verdicts, strict=True) if verdict is SlotVerdict.TAKEN]
        taken += len(won)
        mine.update(won)
        highest = max(highest, *await doors.gate.depths([lane]))
        gone = rng.sample(sorted(mine), len(mine) // 2)
        mine.difference_update(gone)
        await doors.gate.release_many([(lane, member) for member in gone * 2])
    await doors.gate.release_many([(lane, member) for member in mine])
    return {"highest": highest, "taken": taken}


async def _take(doors: Doors, lane: int, member: str, limit: int) -> bool:
    while True:
        with suppress(LaneUnknown):  # on a busy machine the rebuild takes longer than anybody waits
            (verdict,) = await doors.gate.take_many([SlotRequest(lane, member, limit, LONG_MS)])
            return verdict is SlotVerdict.TAKEN
        await asyncio.sleep(_PAUSE)


async def _acquire(doors: Doors, lane: int, token: str, limit: int) -> bool:
    while True:
        with suppress(LaneUnknown):
            (granted,) = await doors.permits.acquire_many([PermitRequest(lane, token, limit, LONG_MS)])
            return granted
        await asyncio.sleep(_PAUSE)


def _say(facts: Mapping[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(facts)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(crowd(sys.argv[1], sys.argv[2]))
