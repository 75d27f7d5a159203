"""The way to Redis: few connections, every call bounded in time, none ever cut off half-way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, TypeAlias

import hiredis
from redis.asyncio.connection import Connection, parse_url
from redis.exceptions import InvalidResponse, MasterDownError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from libs.common.adapters.redis.script import Script
from libs.common.domain.errors import GateUnavailable, LaneUnavailable
from libs.common.runtime.logging import get_logger
from libs.common.runtime.seen import seen

log = get_logger()

#: Connecting and answering, each call as a whole. Gate and permits stay closed rather than wait longer.
_SECONDS: Final = 1.0
_CONNECTIONS: Final = 8
#: How bytes that are no text, which only others write, are read, so that the same bytes can be sent.
NO_TEXT: Final = "surrogateescape"
#: What rested for longer is not used again: networks forget connections after minutes (Azure 4, AWS 6) in silence.
_RESTED_SECONDS: Final = 60.0
#: It was the primary, and is another's replica since a failover; the address leads elsewhere by now, or soon.
_DEMOTED: Final = (ReadOnlyError, MasterDownError)

Command: TypeAlias = tuple[str | int, ...]

#: Refused wherever a write is, and leaves no key.
_WRITES_NOTHING: Final[Command] = ("SETRANGE", "sw:writes", 0, "")


@dataclass(frozen=True, slots=True)
class Call:
    """One script to run: its keys, all of one lane, and what comes after the ticket in ARGV."""

    script: Script
    keys: tuple[str, ...]
    arguments: Sequence[str | int]


#: What a script said after its ticket; empty when the lane is unknown.
Answer: TypeAlias = list[Any]


class RedisServer:
    """Sends batches, one round trip each. Every method raises GateUnavailable, with a plain cause, within 1 s or so.

    A batch runs in a task of its own: a caller who is cancelled leaves, the batch goes on and reads all its replies.
    Otherwise an unread reply stays on the connection and answers the next caller (redis-py#2624). As a second net,
    every script gives back the ticket of its call, and a connection that fails in any way is never used again.
    """

    def __init__(self, url: str, *, seconds: float) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        self._make_connection: type[Connection] = options.pop("connection_class", Connection)
        # RESP2 needs no greeting; names and versions of libraries help nobody; nothing is tried again below us.
        self._options = options | {
            "protocol": 2,
            "decode_responses": False,
            "driver_info": None,
            "retry": None,
            "socket_timeout": None,
            "socket_connect_timeout": seconds,
        }
        self._seconds = seconds
        self._idle: list[tuple[Connection, float]] = []  #: and the monotonic second of its last answer; newest last
        self._own: set[Connection] = set()  #: lent to callers that listen
        self._room = asyncio.Semaphore(_CONNECTIONS)
        self._flights: set[asyncio.Task[list[Any]]] = set()
        self._tickets = count(1)
        self._closed = False

    async def run(self, calls: Sequence[Call]) -> list[Answer | GateUnavailable]:
        """Run scripts in one round trip, in order; a call that Redis refuses is answered by its error.

        Scripts that Redis has forgotten are loaded, and those calls repeated, once.
        """
        if not calls:
            return []
        tickets = [next(self._tickets) for _ in calls]
        commands = [_command(call, ticket) for call, ticket in zip(calls, tickets, strict=True)]
        replies = await self._exchange(commands, tickets)
        forgotten = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            scripts = {calls[index].script.text for index in forgotten}
            await self.command_many([("SCRIPT", "LOAD", script) for script in scripts])
            again = await self._exchange([commands[n] for n in forgotten], [tickets[n] for n in forgotten])
            for index, reply in zip(forgotten, again, strict=True):
                replies[index] = reply
        return [_refusal(reply) if isinstance(reply, ResponseError) else reply[1:] for reply in replies]

    async def command_many(self, commands: Sequence[Command]) -> list[Any]:
        """Run plain commands in one round trip; the first that Redis refuses raises."""
        replies = await self._exchange(commands, [None] * len(commands))
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise _refusal(reply)
        return replies

    async def ping(self) -> None:
        """Return when Redis takes writes: one whose memory is full, or a replica, answers a PING all the same."""
        await self.command_many([_WRITES_NOTHING])

    @asynccontextmanager
    async def own_connection(self) -> AsyncIterator[Connection]:
        """A connection for the caller alone, closed afterwards. Raises what redis-py raises, or TimeoutError."""
        async with asyncio.timeout(self._seconds):  # redis-py waits for ever for the answer to a password
            connection = await self._connect()
        self._own.add(connection)
        try:
            yield connection
        finally:
            self._own.discard(connection)
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Let what is under way end, which takes a second at most, and hang up."""
        self._closed = True
        if self._flights:
            await asyncio.wait(self._flights)
        while self._idle:
            with suppress(RedisError, OSError):
                await self._idle.pop()[0].disconnect()

    async def _exchange(self, commands: Sequence[Command], tickets: Sequence[int | None]) -> list[Any]:
        """Send all, read all. Refusals are among the replies; raises GateUnavailable when there are none at all."""
        if self._closed:
            raise GateUnavailable("the connection to Redis is closed")
        packed = b"".join(map(_packed, commands))
        flight = asyncio.get_running_loop().create_task(self._fly(packed, tickets), name="redis-flight")
        self._flights.add(flight)
        flight.add_done_callback(self._landed)
        try:
            return await asyncio.shield(flight)
        finally:
            del flight  # named by a frame of its own error's traceback, it would wait for the garbage collector

    def _landed(self, flight: asyncio.Task[list[Any]]) -> None:
        self._flights.discard(flight)
        seen(flight)

    async def _fly(self, packed: bytes, tickets: Sequence[int | None]) -> list[Any]:
        try:
            async with asyncio.timeout(self._seconds), self._room:
                return await self._talk(packed, tickets)
        except TimeoutError as error:
            raise GateUnavailable(f"Redis did not answer within {self._seconds:g} s") from error
        except (RedisError, OSError) as error:
            raise GateUnavailable(f"no answer from Redis: {_plain(error)}") from error

    async def _talk(self, packed: bytes, tickets: Sequence[int | None]) -> list[Any]:
        connection = await self._ready_connection()
        try:
            await connection.send_packed_command(packed, check_health=False)
            replies = [await _read(connection, ticket) for ticket in tickets]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append((connection, time.monotonic()))
        if any(isinstance(reply, _DEMOTED) for reply in replies):
            await self._hang_up()
        return replies

    async def _hang_up(self) -> None:
        """A demoted server goes on answering on the connections that it has, and no successor is heard there."""
        old, self._idle = self._idle, []
        log.warning("redis.demoted", connections=len(old) + len(self._own))
        for connection in self._own:
            _cut(connection)
        for connection, _ in old:
            await connection.disconnect(nowait=True)

    async def _ready_connection(self) -> Connection:
        await self._drop_rested()
        while self._idle:
            connection, _ = self._idle.pop()
            # True means: hung up by the server meanwhile, or holding bytes that nobody asked for.
            if connection.is_connected and not await connection.can_read() and not _was_reset(connection):
                return connection
            await connection.disconnect(nowait=True)
        return await self._connect()

    async def _drop_rested(self) -> None:
        while self._idle and self._idle[0][1] < time.monotonic() - _RESTED_SECONDS:
            await self._idle.pop(0)[0].disconnect(nowait=True)

    async def _connect(self) -> Connection:
        connection = self._make_connection(**self._options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection


@asynccontextmanager
async def open_redis(url: str, *, seconds: float = _SECONDS) -> AsyncIterator[RedisServer]:
    """The way to one Redis. It need not be there yet: connections are made when they are needed."""
    server = RedisServer(url, seconds=seconds)
    try:
        yield server
    finally:
        await server.close()


def _cut(connection: Connection) -> None:
    """Whoever holds it hears its end. Disconnected, it would be connected anew by whatever is sent on it next, and hear
    nothing of what it had subscribed to."""
    if connection._writer is not None:
        connection._writer.close()


def _was_reset(connection: Connection) -> bool:
    """redis-py sees ends alone, and what it writes into a reset raises no error of its own. There is no public call; a
    test guards the name.
    """
    writer = connection._writer
    return writer is None or writer.is_closing()


def _packed(command: Command) -> bytes:
    try:
        packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one alone
    except UnicodeEncodeError:
        parts = (part.encode(errors=NO_TEXT) if isinstance(part, str) else part for part in command)
        packed = hiredis.pack_command(tuple(parts))  # type: ignore[arg-type]
    return packed


def _command(call: Call, ticket: int) -> Command:
    return ("EVALSHA", call.script.sha, len(call.keys), *call.keys, ticket, *call.arguments)


async def _read(connection: Connection, ticket: int | None) -> Any:
    try:
        reply = await connection.read_response()
    except ResponseError as error:
        return error.with_traceback(None)  # redis-py names it there
    if ticket is not None and not (isinstance(reply, list) and reply and reply[0] == ticket):
        raise InvalidResponse("an answer to another call than ours")
    return reply


def _refusal(error: ResponseError) -> GateUnavailable:
    # A key of another kind is its lane's own trouble; every other refusal (no memory, read-only) meets all lanes alike.
    kind = LaneUnavailable if "WRONGTYPE" in str(error) else GateUnavailable
    return kind(f"Redis refuses: {_plain(error)}")


def _plain(error: BaseException) -> str:
    text = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
