"""Who calls: API keys, looked up by digest and remembered for a second."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from libs.common.ports_tasks import ApiKeys, KeyOwner
from libs.common.runtime.seen import seen
from services.api.problems import Problem

#: A revoked key is refused everywhere after this long.
CACHE_SECONDS: Final = 1.0
_MOST_REMEMBERED: Final = 10_000
#: 256 random bits; such a key needs no slow hash.
_KEY: Final = re.compile(rb"(?i:bearer) +(sw_[A-Za-z0-9_-]{43})")


class Callers:
    """Answers whose key a request carries. Many requests with one key share one look-up."""

    def __init__(self, keys: ApiKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._known: dict[bytes, tuple[float, KeyOwner | None]] = {}
        self._asking: dict[bytes, asyncio.Task[KeyOwner | None]] = {}

    async def identify(self, authorization: bytes | None) -> KeyOwner:
        """The owner of the key in an Authorization header.

        Raises Problem (401) for none or a wrong one, DatabaseUnavailable when nobody can tell.
        """
        matched = _KEY.fullmatch(authorization) if authorization is not None else None
        if matched is None:
            raise unauthenticated("Send Authorization: Bearer sw_...; `sluiceway keys create` makes a key.")
        digest = sha256(matched.group(1)).digest()
        until, owner = self._known.get(digest, (0.0, None))
        if until <= self._clock():
            owner = await self._ask_once(digest)
        if owner is None:
            raise unauthenticated("This API key is unknown or revoked.")
        return owner

    async def _ask_once(self, digest: bytes) -> KeyOwner | None:
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest), name="key-look-up")
            asking.add_done_callback(seen)
        try:
            return await asyncio.shield(asking)
        finally:
            del asking  # named by a frame of its own error's traceback, it would wait for the garbage collector

    async def _ask(self, digest: bytes) -> KeyOwner | None:
        try:
            owner = await self._keys.find(digest)
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()  # a flood of wrong keys must not fill the memory
            self._known[digest] = (self._clock() + CACHE_SECONDS, owner)
            return owner
        finally:
            del self._asking[digest]


def require(owner: KeyOwner, scope: str) -> None:
    """Raises Problem (403) if the key may not do this."""
    if scope not in owner.scopes:
        raise Problem("forbidden", f"The API key has not the scope {scope!r}.")


def unauthenticated(detail: str) -> Problem:
    """The problem of a caller that nobody knows."""
    return Problem("unauthenticated", detail, headers={"WWW-Authenticate": "Bearer"})
