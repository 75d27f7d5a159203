"""How calls to Redis end when something is in their way: always, soon, and never with another caller's answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.exceptions import RedisError

from libs.common.adapters.redis import connection, keys
from libs.common.adapters.redis.connection import RedisServer, open_redis
from libs.common.adapters.redis.hints import next_reply, open_hints
from libs.common.domain.errors import GateUnavailable, LaneUnavailable
from libs.common.embedded.redis import EmbeddedRedis
from libs.common.embedded.server_process import ServerProcess
from libs.common.ports import PermitRequest, SlotRequest, SlotVerdict
from tests.support import servers
from tests.support.redis_doors import LONG_MS, Doors, eventually, open_doors
from tests.support.slow_proxy import slow_proxy

TAKEN, FULL = SlotVerdict.TAKEN, SlotVerdict.FULL


@pytest.fixture(scope="module")
def own_redis(servers_folder: Path) -> Iterator[ServerProcess]:
    """A server whose settings these tests may change and which they may kill."""
    with servers.running(EmbeddedRedis(servers_folder / "redis-of-connection-tests")) as server:
        yield server


@pytest.fixture(scope="module")
def successor(servers_folder: Path) -> Iterator[ServerProcess]:
    """What takes over from the other one."""
    with servers.running(EmbeddedRedis(servers_folder / "redis-that-takes-over")) as server:
        yield server


@pytest.fixture
async def doors(own_redis: ServerProcess) -> AsyncIterator[Doors]:
    async with open_doors(own_redis.address) as opened:
        await opened.forget_everything()
        yield opened


async def take(doors: Doors, lane: int, member: str, limit: int = 1) -> SlotVerdict:
    (verdict,) = await doors.gate.take_many([SlotRequest(lane, member, limit, LONG_MS)])
    return verdict


async def test_health(doors: Doors) -> None:
    await doors.redis.ping()


async def test_forgotten_scripts_are_loaded_again(doors: Doors) -> None:
    assert await take(doors, 1, "a") is TAKEN
    await doors.command("SCRIPT", "FLUSH")
    assert await take(doors, 1, "b") is FULL
    await doors.command("SCRIPT", "FLUSH")
    requests = [SlotRequest(lane, f"m{lane}", 1, LONG_MS) for lane in range(1, 40)]
    assert await doors.gate.take_many(requests) == [FULL] + [TAKEN] * 38


async def test_a_key_of_another_kind_closes_its_lane(doors: Doors) -> None:
    assert await take(doors, 1, "a") is TAKEN
    await doors.gate.release_many([(1, "a")])
    await doors.command("SET", keys.gate(1), "a string")
    requests = [SlotRequest(2, "b", 1, LONG_MS), SlotRequest(1, "a", 1, LONG_MS), SlotRequest(3, "c", 1, LONG_MS)]
    with pytest.raises(LaneUnavailable, match="WRONGTYPE"):
        await doors.gate.take_many(requests)
    assert await doors.gate.depths([2, 3]) == [0, 0]  # what the other lanes gave went back
    with pytest.raises(LaneUnavailable, match="WRONGTYPE"):
        await doors.gate.release_many([(1, "a")])
    await doors.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(GateUnavailable) as caught:  # of two causes the one that meets all lanes
            await doors.gate.take_many(requests)
        assert not isinstance(caught.value, LaneUnavailable)
    finally:
        await doors.command("CONFIG", "SET", "maxmemory", 0)


async def test_a_full_memory_closes_the_gate_and_releasing_goes_on(doors: Doors) -> None:
    """Processes said that they were ready meanwhile."""
    assert await take(doors, 1, "a") is TAKEN
    (granted,) = await doors.permits.acquire_many([PermitRequest(1, "t", 1, LONG_MS)])
    await doors.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(GateUnavailable, match="maxmemory"):
            await take(doors, 1, "b", limit=5)
        with pytest.raises(GateUnavailable, match="maxmemory"):
            await doors.permits.acquire_many([PermitRequest(1, "u", 5, LONG_MS)])
        with pytest.raises(GateUnavailable, match="maxmemory"):
            await doors.redis.ping()
        await doors.gate.release_many([(1, "a")])
        await doors.permits.release_many([(1, "t")])
    finally:
        await doors.command("CONFIG", "SET", "maxmemory", 0)
    assert granted
    assert await doors.gate.depths([1]) == [0]
    keys = await doors.command("DBSIZE")
    await doors.redis.ping()
    assert await doors.command("DBSIZE") == keys
    assert await doors.permits.in_use([1]) == [0]
    assert await take(doors, 1, "b") is TAKEN


async def test_a_busy_server_closes_the_gate(doors: Doors, own_redis: ServerProcess) -> None:
    await take(doors, 1, "a")
    await doors.command("CONFIG", "SET", "busy-reply-threshold", 20)
    async with open_redis(own_redis.address, seconds=0.2) as other:
        with pytest.raises(GateUnavailable, match="did not answer within"):
            await other.command_many([("EVAL", "while true do end", "0")])

    async def refused() -> bool:
        with pytest.raises(GateUnavailable) as caught:
            await take(doors, 1, "b")
        return "BUSY" in str(caught.value) or "busy" in str(caught.value)

    await eventually(refused, what="Redis says that it is busy")
    await doors.command("SCRIPT", "KILL")

    async def answered() -> bool:
        with suppress(GateUnavailable):
            return await take(doors, 1, "b") is FULL
        return False

    await eventually(answered, what="the gate works again")


async def test_a_primary_that_became_a_replica_is_left_for_its_successor(
    own_redis: ServerProcess, successor: ServerProcess
) -> None:
    heard: list[str] = []
    gaps: list[int] = []
    async with (
        slow_proxy(own_redis.address) as proxy,
        open_doors(proxy.url) as doors,
        open_hints(doors.redis) as hints,
        open_redis(own_redis.address) as old,
        open_redis(successor.address) as new,
    ):
        hearing = asyncio.create_task(
            hints.listen(["sw:test"], lambda _, lines: heard.extend(lines), lambda: gaps.append(1))
        )

        async def listens(to: RedisServer, word: str) -> bool:
            await to.command_many([("PUBLISH", "sw:test", word)])
            return heard[-1:] == [word]

        await doors.forget_everything()
        assert await take(doors, 1, "a") is TAKEN
        await eventually(lambda: listens(old, "before"), what="it listens")
        place = urlsplit(successor.address)
        await old.command_many([("CONFIG", "SET", "masterauth", place.password or "")])
        await old.command_many([("REPLICAOF", place.hostname or "", place.port or 0)])
        proxy.lead_to(successor.address)
        try:
            with pytest.raises(GateUnavailable, match="ReadOnlyError"):
                await take(doors, 1, "b")
            assert await take(doors, 1, "b") is TAKEN
            assert await new.command_many([("ZCARD", keys.gate(1))]) == [1]
            await eventually(lambda: listens(new, "after"), what="the successor's messages are heard")
            assert gaps == [1]
        finally:
            await old.command_many([("REPLICAOF", "NO", "ONE")])
            hearing.cancel()


async def test_a_subscription_that_was_hung_up_hears_its_end_and_nothing_else(own_redis: ServerProcess) -> None:
    """Connected anew by whatever is sent next, it would be deaf to what it had subscribed to, and nobody would know."""
    async with open_redis(own_redis.address) as redis, redis.own_connection() as ear:
        await ear.send_command("SUBSCRIBE", "sw:a")
        assert (await next_reply(ear))[1] == b"sw:a"
        await redis._hang_up()

        async def subscribe_too() -> None:
            await ear.send_command("SUBSCRIBE", "sw:b")
            await next_reply(ear)

        # The loop of asyncio in Python 3.13.0 calls None to write to a closed transport; the product's is uvloop.
        with pytest.raises((RedisError, OSError, TypeError)):
            await subscribe_too()


async def test_redis_gone_is_said_at_once_and_forgotten_when_it_is_back(own_redis: ServerProcess) -> None:
    async with open_doors(own_redis.address, seconds=1) as doors:
        await doors.forget_everything()
        assert await take(doors, 1, "a") is TAKEN
        await own_redis.kill()
        try:
            for refused in _every_call(doors):
                began = time.monotonic()
                with pytest.raises(GateUnavailable):
                    await refused()
                assert time.monotonic() - began < 4
        finally:
            await own_redis.start()
        # It has lost its memory, and nobody restarted us.
        assert await take(doors, 1, "b") is TAKEN
        await doors.redis.ping()


def _every_call(doors: Doors) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: take(doors, 1, "b"),
        lambda: doors.gate.release_many([(1, "a")]),
        lambda: doors.gate.renew_many(1, ["a"], LONG_MS),
        lambda: doors.gate.restore(1, [("a", LONG_MS)]),
        lambda: doors.gate.depths([1]),
        lambda: doors.gate.missing(1, ["a"]),
        lambda: doors.gate.members(1, 0, 10),
        lambda: doors.permits.acquire_many([PermitRequest(1, "t", 1, LONG_MS)]),
        lambda: doors.permits.release_many([(1, "t")]),
        lambda: doors.permits.rename_many([(1, "t", "u", LONG_MS)]),
        lambda: doors.permits.restore(1, [("t", LONG_MS)]),
        lambda: doors.permits.in_use([1]),
        lambda: doors.permits.missing(1, ["t"]),
        lambda: doors.permits.members(1, 0, 10),
        doors.redis.ping,
    ]


async def test_a_silent_redis_is_given_up_in_time(redis_url: str) -> None:
    async with slow_proxy(redis_url) as proxy, open_doors(proxy.url, seconds=0.3) as doors:
        assert await take(doors, 1, "a") is TAKEN
        proxy.silent = True
        began = time.monotonic()
        # More callers than connections: who finds no free one waits no longer than the others.
        answers = await asyncio.gather(*(take(doors, 1, f"m{n}") for n in range(50)), return_exceptions=True)
        assert all(isinstance(answer, GateUnavailable) for answer in answers)
        assert time.monotonic() - began < 2
        proxy.silent = False
        assert await take(doors, 1, "b") is FULL


async def test_connections_that_were_reset_while_they_rested_are_not_used(redis_url: str) -> None:
    async with slow_proxy(redis_url) as proxy, open_doors(proxy.url) as doors:
        assert await take(doors, 1, "a") is TAKEN
        await asyncio.gather(*(doors.redis.ping() for _ in range(4)))
        proxy.reset()
        await asyncio.sleep(0.05)
        assert await take(doors, 1, "b") is FULL
        assert len(doors.redis._idle) == 1


async def test_cancelled_callers_leave_no_answer_for_others(redis_url: str) -> None:
    """Even lanes are full, odd ones free: each caller knows what it must be told."""
    async with slow_proxy(redis_url) as proxy, open_doors(proxy.url) as doors:
        for lanes in (range(start, start + 20) for start in range(0, 200, 20)):
            await doors.gate.take_many([SlotRequest(lane, "first", 1, LONG_MS) for lane in lanes if lane % 2 == 0])
            await doors.gate.depths(lanes)
        proxy.delay = 0.02
        for turn in range(5):
            lanes = range(40 * turn, 40 * turn + 40)
            calls = {lane: asyncio.create_task(take(doors, lane, f"m{lane}")) for lane in lanes}
            await asyncio.sleep(0.005 * turn)
            for lane, call in calls.items():
                if lane % 3 == 0:
                    call.cancel()
            answers = dict(zip(calls, await asyncio.gather(*calls.values(), return_exceptions=True), strict=True))
            for lane, answer in answers.items():
                if not isinstance(answer, asyncio.CancelledError):
                    assert answer is (TAKEN if lane % 2 else FULL), lane
        # Whoever was cancelled left, but what it had sent was done and read: no lane is over its limit.
        assert max(await doors.gate.depths(range(200))) == 1
        assert proxy.connections <= 8  # and none cost us its connection


async def test_a_cancelled_call_is_finished_before_closing(redis_url: str) -> None:
    async with slow_proxy(redis_url) as proxy:
        async with open_doors(proxy.url) as doors:
            await doors.gate.depths([1])
            proxy.delay = 0.1
            call = asyncio.create_task(take(doors, 1, "a"))
            await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "redis-flight"]
        with pytest.raises(GateUnavailable, match="closed"):
            await doors.redis.ping()
    async with open_doors(redis_url) as doors:
        assert await doors.gate.depths([1]) == [1]


async def test_an_answer_to_another_call_is_believed_by_nobody() -> None:
    async def misled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(b"*2\r\n:999999\r\n:1\r\n")
        writer.close()

    async with _server(misled) as url, open_doors(url) as doors:
        for _ in range(2):
            with pytest.raises(GateUnavailable, match="another call"):
                await take(doors, 1, "a")


async def test_a_connection_that_holds_unasked_bytes_is_not_used() -> None:
    connections = 0

    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.read(4096):
            writer.write(b"+PONG\r\n+and another thing\r\n")
        writer.close()

    async with _server(talkative) as url, open_redis(url) as redis:
        await redis.ping()
        await asyncio.sleep(0)
        await redis.ping()
        assert connections == 2


async def test_a_connection_that_rested_for_long_is_not_used_again(
    own_redis: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks forget such connections without a word: whoever asks on one hears nothing."""
    monkeypatch.setattr(connection, "_RESTED_SECONDS", 0.3)
    async with slow_proxy(own_redis.address) as proxy, open_doors(proxy.url) as doors:
        await asyncio.gather(*(doors.redis.ping() for _ in range(4)))
        made = proxy.connections
        await doors.redis.ping()
        assert proxy.connections == made > 1
        await asyncio.sleep(0.4)
        await doors.redis.ping()
        assert proxy.connections == made + 1
        assert len(doors.redis._idle) == 1


@asynccontextmanager
async def _server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0"


async def test_connections_are_few_and_go_when_it_closes(doors: Doors, own_redis: ServerProcess) -> None:
    async def connected() -> int:
        facts = (await doors.command("INFO", "clients")).decode()
        return int(facts.partition("connected_clients:")[2].split()[0])

    before = await connected()
    async with open_doors(own_redis.address) as others:
        await asyncio.gather(*(take(others, 1, f"m{n}") for n in range(100)))
        assert await connected() - before <= 8

    async def gone() -> bool:
        return await connected() == before

    await eventually(gone, what="the connections are closed")
