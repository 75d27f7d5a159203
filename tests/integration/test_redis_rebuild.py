"""What gate and permits do after Redis lost its memory: closed first, then right again, never wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from libs.common.adapters.redis import keys
from libs.common.adapters.redis.rebuild import LaneUnknown
from libs.common.contracts.hints import PERMIT
from libs.common.domain.errors import DatabaseUnavailable, GateUnavailable
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.server_process import ServerProcess
from libs.common.ports import PermitRequest, SlotRequest, SlotVerdict
from tests.support import servers
from tests.support.fakes_redis import FakeOpenTasks
from tests.support.redis_doors import LONG_MS, Doors, eventually, open_doors, open_ear

TAKEN, HELD, FULL = SlotVerdict.TAKEN, SlotVerdict.HELD, SlotVerdict.FULL


@pytest.fixture(scope="module")
def own_redis(servers_folder: Path) -> Iterator[ServerProcess]:
    """A server that these tests may empty altogether and kill."""
    with servers.running(EmbeddedRedis(servers_folder / "redis-of-rebuild-tests")) as server:
        yield server


@pytest.fixture
def source() -> FakeOpenTasks:
    return FakeOpenTasks()


@pytest.fixture
async def doors(own_redis: ServerProcess, source: FakeOpenTasks) -> AsyncIterator[Doors]:
    async with open_doors(own_redis.address, source) as opened:
        await opened.command("FLUSHALL")
        yield opened


async def take(doors: Doors, lane: int, *members: str, limit: int = 3) -> list[SlotVerdict]:
    return await doors.gate.take_many([SlotRequest(lane, member, limit, LONG_MS) for member in members])


async def acquire(doors: Doors, lane: int, *tokens: str, limit: int = 1) -> list[bool]:
    return await doors.permits.acquire_many([PermitRequest(lane, token, limit, LONG_MS) for token in tokens])


def slots(*members: str) -> list[tuple[str, int]]:
    return [(member, LONG_MS) for member in members]


async def test_an_emptied_redis_is_filled_before_anybody_is_let_in(doors: Doors, source: FakeOpenTasks) -> None:
    assert await take(doors, 1, "a", "b") == [TAKEN, TAKEN]
    assert await acquire(doors, 1, "t") == [True]
    source.slots[1] = slots("a", "b")
    source.permits[1] = slots("t")
    await doors.command("FLUSHALL")
    assert await take(doors, 1, "c", "d", "a") == [TAKEN, FULL, HELD]
    assert await acquire(doors, 1, "u", "t") == [False, True]


@pytest.mark.parametrize("question", ["depths", "missing", "in_use", "renew", "rename"])
async def test_every_question_brings_a_lost_lane_back(doors: Doors, source: FakeOpenTasks, question: str) -> None:
    source.slots[1] = slots("a", "b")
    source.permits[1] = slots("t")
    match question:
        case "depths":
            assert await doors.gate.depths([1]) == [2]
        case "missing":
            assert await doors.gate.missing(1, ["a", "c"]) == ["c"]
        case "in_use":
            assert await doors.permits.in_use([1]) == [1]
        case "renew":
            await doors.gate.renew_many(1, ["a", "b"], LONG_MS)
        case "rename":
            await doors.permits.rename_many([(1, "t", "u", LONG_MS)])
    assert await doors.command("EXISTS", keys.known(1)) == 1
    assert await doors.command("ZCARD", keys.gate(1)) == 2
    assert await doors.command("ZCARD", keys.permits(1)) == 1


async def test_large_lanes_come_back_in_steps(doors: Doors, source: FakeOpenTasks) -> None:
    source.slots[1] = slots(*(f"m{number}" for number in range(2_500)))
    source.permits[1] = slots(*(f"t{number}" for number in range(1_500)))
    assert await doors.gate.depths([1]) == [2_500]
    assert await doors.permits.in_use([1]) == [1_500]


async def test_postgresql_wins_over_the_limit(doors: Doors, source: FakeOpenTasks) -> None:
    source.slots[1] = slots("a", "b", "c", "d", "e")
    assert await take(doors, 1, "f") == [FULL]
    assert await doors.gate.depths([1]) == [5]


async def test_the_gate_stays_closed_while_it_is_filled(doors: Doors, source: FakeOpenTasks) -> None:
    source.slots[1] = slots("a", "b")
    go_on = asyncio.Event()

    async def hold(_page: int) -> None:
        await go_on.wait()

    source.before_page = hold
    began = time.monotonic()
    with pytest.raises(LaneUnknown, match="being rebuilt"):
        await take(doors, 1, "c")
    first = time.monotonic() - began
    assert first < 10  # the rebuild itself may take a minute
    with pytest.raises(LaneUnknown):
        await acquire(doors, 1, "t")
    assert time.monotonic() - began < 1.5 * first  # who comes later does not wait again
    assert await take(doors, 2, "other lanes do not wait") == [TAKEN]
    go_on.set()

    async def open_again() -> bool:
        with suppress(LaneUnknown):
            return await take(doors, 1, "c", "d") == [TAKEN, FULL]
        return False

    await eventually(open_again, what="the lane is known")


async def test_what_other_lanes_gave_goes_back_when_one_stays_closed(doors: Doors, source: FakeOpenTasks) -> None:
    await take(doors, 2, "held before")
    source.error = DatabaseUnavailable("away")
    requests = [SlotRequest(lane, member, 3, LONG_MS) for lane, member in [(2, "held before"), (2, "new"), (1, "x")]]
    with pytest.raises(LaneUnknown, match="away"):
        await doors.gate.take_many(requests)
    assert await doors.gate.members(2, 0, 10) == (0, ["held before"])


async def test_without_postgresql_it_stays_closed_and_opens_soon_after(doors: Doors, source: FakeOpenTasks) -> None:
    source.slots[1] = slots("a")
    source.error = DatabaseUnavailable("away")
    for _ in range(3):
        with pytest.raises(LaneUnknown, match="could not be rebuilt"):
            await take(doors, 1, "b")
    assert source.tries == 1  # PostgreSQL is left alone for a while
    assert await doors.command("EXISTS", keys.lock(1)) == 0  # others may try
    source.error = None

    async def open_again() -> bool:
        with suppress(GateUnavailable):
            return await take(doors, 1, "b", limit=2) == [TAKEN]
        return False

    await eventually(open_again, seconds=3, what="the lane is known")
    assert await doors.gate.depths([1]) == [2]


async def test_many_callers_in_many_processes_cause_one_rebuild(own_redis: ServerProcess, doors: Doors) -> None:
    sources = [FakeOpenTasks() for _ in range(3)]
    for source in sources:
        source.slots[1] = slots("a")
    async with (
        open_doors(own_redis.address, sources[0]) as one,
        open_doors(own_redis.address, sources[1]) as two,
        open_doors(own_redis.address, sources[2]) as three,
    ):
        processes = [one, two, three]
        calls = [take(processes[n % 3], 1, f"m{n}", limit=11) for n in range(60)]
        verdicts = [verdict for (verdict,) in await asyncio.gather(*calls)]
    assert verdicts.count(TAKEN) == 10
    assert sum(source.reads for source in sources) == 1


async def test_memory_lost_again_half_way_is_noticed(doors: Doors, source: FakeOpenTasks) -> None:
    source.slots[1] = slots(*(f"m{number}" for number in range(1_500)))

    async def lose_once(page: int) -> None:
        if page == 1 and source.reads == 1:
            await doors.command("FLUSHALL")

    source.before_page = lose_once
    assert await doors.gate.depths([1]) == [1_500]
    assert source.reads == 2


async def test_who_leaves_while_the_lane_is_filled_stays_out(doors: Doors, source: FakeOpenTasks) -> None:
    source.slots[1] = slots(*(f"m{number}" for number in range(1_500)))

    async def leave(page: int) -> None:
        if page == 1:
            await doors.gate.release_many([(1, "m7")])

    source.before_page = leave
    assert await doors.gate.depths([1]) == [1_499]
    assert await doors.gate.missing(1, ["m7", "m8"]) == ["m7"]


async def test_creates_in_flight_are_added_by_a_second_pass(own_redis: ServerProcess, source: FakeOpenTasks) -> None:
    async with open_doors(own_redis.address, source, second_pass_seconds=0.2) as doors:
        await doors.command("FLUSHALL")
        assert await doors.gate.depths([1]) == [0]
        source.slots[1] = slots("committed later")
        source.permits[1] = slots("started later")

        async def added() -> bool:
            return await doors.gate.depths([1]) == [1] and await doors.permits.in_use([1]) == [1]

        await eventually(added, what="the second pass has added both")
        assert source.reads == 2


async def test_a_second_pass_that_fails_harms_nobody(own_redis: ServerProcess, source: FakeOpenTasks) -> None:
    async with open_doors(own_redis.address, source, second_pass_seconds=0) as doors:
        await doors.command("FLUSHALL")
        assert await doors.gate.depths([1]) == [0]
        source.error = RuntimeError("a surprise")
        await asyncio.sleep(0)
        assert await take(doors, 1, "a") == [TAKEN]


async def test_the_lock_of_a_dead_process_lapses(doors: Doors, source: FakeOpenTasks) -> None:
    source.slots[1] = slots("a")
    await doors.command("SET", keys.lock(1), "a dead process", "PX", 300)
    assert await doors.gate.depths([1]) == [1]


async def test_a_live_lock_of_another_process_keeps_the_lane_closed(doors: Doors, source: FakeOpenTasks) -> None:
    await doors.command("SET", keys.lock(1), "another process")
    with pytest.raises(LaneUnknown):
        await take(doors, 1, "a")
    assert source.reads == 0
    await doors.command("SET", keys.known(1), "by the other process")
    assert await take(doors, 1, "a") == [TAKEN]


async def test_stopping_half_way_lets_others_go_on(own_redis: ServerProcess, source: FakeOpenTasks) -> None:
    source.slots[1] = slots("a")
    reading = asyncio.Event()

    async def stall(_page: int) -> None:
        reading.set()
        await asyncio.Event().wait()

    source.before_page = stall
    async with open_doors(own_redis.address, source) as stopping:
        await stopping.command("FLUSHALL")
        call = asyncio.create_task(take(stopping, 1, "b"))
        await reading.wait()
    with pytest.raises(GateUnavailable):
        await call
    source.before_page = None
    async with open_doors(own_redis.address, source) as other:
        assert await take(other, 1, "b", "c", limit=2) == [TAKEN, FULL]  # nobody else rebuilds it


async def test_the_first_release_after_a_rebuild_wakes_those_who_were_forgotten(
    doors: Doors, source: FakeOpenTasks
) -> None:
    source.permits[1] = slots("t")
    async with open_ear(doors.redis, PERMIT) as ear:
        assert await acquire(doors, 1, "t") == [True]
        await doors.permits.release_many([(1, "t")])
        assert await ear.heard() == ["1"]


async def test_a_restarted_redis_is_filled_again(own_redis: ServerProcess, source: FakeOpenTasks) -> None:
    async with open_doors(own_redis.address, source) as doors:
        await doors.command("FLUSHALL")
        assert await take(doors, 1, "a", "b") == [TAKEN, TAKEN]
        source.slots[1] = slots("a", "b")
        await own_redis.restart()
        assert await take(doors, 1, "c", "d") == [TAKEN, FULL]
