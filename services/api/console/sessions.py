"""Who is signed in to the console: sessions in PostgreSQL, known to the browser by a cookie of 256 random bits."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections import OrderedDict
from hashlib import sha256
from typing import Final

from libs.common.ports_tasks import ConsoleSessions, KeyOwner
from services.api.problems import Problem

#: A working day; then the key has to be shown again.
SESSION_SECONDS: Final = 12 * 3_600
#: Who may see anything at all.
SEEING: Final = ("read", "operate")
_KEY: Final = re.compile(r"sw_[A-Za-z0-9_-]{43}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_TRIES: Final = 10
_TRIES_SECONDS: Final = 60.0
_MOST_ADDRESSES: Final = 10_000


class WrongKey(Exception):
    """The key opens no session; the text says why."""


class Sessions:
    """Opens, finds and closes sessions. A revoked key ends its sessions with the next request."""

    def __init__(self, stored: ConsoleSessions) -> None:
        self._stored = stored

    async def open(self, key: str) -> str:
        """The cookie of a new session; raises WrongKey."""
        if not _KEY.fullmatch(key):
            raise WrongKey("That is no API key: a key begins with sw_ and has 46 characters.")
        cookie = new_token()
        owner = await self._stored.open(_digest(key), _digest(cookie), SESSION_SECONDS, SEEING)
        if owner is None:
            raise WrongKey("This API key is unknown or revoked.")
        if not owner.scopes.intersection(SEEING):
            raise WrongKey(f"This API key has none of the scopes {', '.join(SEEING)}.")
        return cookie

    async def find(self, cookie: str | None) -> KeyOwner | None:
        """Who is signed in with a cookie."""
        if cookie is None or not _TOKEN.fullmatch(cookie):
            return None
        return await self._stored.find(_digest(cookie))

    async def close(self, cookie: str | None) -> None:
        """Sign out."""
        if cookie is not None and _TOKEN.fullmatch(cookie):
            await self._stored.close(_digest(cookie))


class Tries:
    """Counts attempts to sign in that failed, by address: who guesses is told to wait after ten in a minute.

    A right key is never kept out by them: behind a proxy all senders have one address.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, address: str) -> None:
        """One more; raises Problem (429) beyond the limit."""
        now = time.monotonic()
        began, tries = self._seen.pop(address, (now, 0))
        if now - began >= _TRIES_SECONDS:
            began, tries = now, 0
        self._seen[address] = (began, tries + 1)
        if len(self._seen) > _MOST_ADDRESSES:
            self._seen.popitem(last=False)
        if tries >= _TRIES:
            wait = max(1, round(_TRIES_SECONDS - (now - began)))
            said = f"Too many wrong keys came from here: wait {wait} s. Whoever has a right one is let in."
            raise Problem("too_many_tries", said, status=429, headers={"Retry-After": str(wait)})

    def forget(self, address: str) -> None:
        """Somebody got in from there."""
        self._seen.pop(address, None)


def new_token() -> str:
    """256 random bits, as a cookie holds them."""
    return secrets.token_urlsafe(32)


def form_token(cookie: str) -> str:
    """What every form of the cookie's owner carries; another site can neither read nor guess it."""
    return hmac.new(cookie.encode(), b"sluiceway console form", sha256).hexdigest()


def is_form_token(cookie: str | None, given: str) -> bool:
    """Whether a form came from a page of ours."""
    return cookie is not None and hmac.compare_digest(form_token(cookie).encode(), given.encode())


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()
