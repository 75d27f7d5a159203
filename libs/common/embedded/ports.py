"""TCP ports on the loopback interface: choosing free ones and waiting for them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
import tempfile
import time
from functools import cache
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Below Linux's range for outgoing connections (32768 and up), so that nobody's client socket sits on
# the port of a server that is just being restarted.
_LOWEST, _HIGHEST = 15_000, 32_000
_handed_out: set[int] = set()


def free_port() -> int:
    """Choose a port of 127.0.0.1 that nobody listens on; never the same one twice in a process, nor one that another
    living process of this account chose here.

    Raises OSError when none was found.
    """
    for _ in range(200):
        port = random.randint(_LOWEST, _HIGHEST)  # noqa: S311 -- spreads parallel runs, guards nothing
        if port not in _handed_out and _reserve(port) and is_free(port):
            _handed_out.add(port)
            return port
    raise OSError(f"no free port between {_LOWEST} and {_HIGHEST} on {LOOPBACK}")


def _reserve(port: int) -> bool:
    """Lock the port's byte of a file for as long as this process lives: several test runs side by side each stop and
    start servers again at their addresses."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _reservations() -> int:
    path = Path(tempfile.gettempdir()) / f"sluiceway-ports-{os.getuid()}.lock"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def is_free(port: int) -> bool:
    """Whether a server could bind this port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


async def until_free(port: int, *, seconds: float) -> bool:
    """Wait for a port that its last owner is just giving back; False when the deadline passes first."""
    deadline = time.monotonic() + seconds
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def accepts(port: int, *, seconds: float = 1.0) -> bool:
    """Whether a connection to this port of 127.0.0.1 is accepted within the given time."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:
        return False
    writer.close()
    return True


async def first_line(port: int, question: bytes, *, seconds: float) -> bytes:
    """The first line that is answered at this port of 127.0.0.1; empty when none comes within the given time."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(question)
                return await reader.readline()
            finally:
                writer.close()
    except OSError:
        return b""
