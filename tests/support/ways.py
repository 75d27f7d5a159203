"""Both ways of operators' commands over the stores of a house: over REST with a key, and straight on the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from tests.support.api import DEAD_POSTGRES, DEAD_REDIS, running_api
from tests.support.house import House
from tests.support.shell import Shell

WAYS = ("rest", "stores")
WayWord = Literal["rest", "stores"]
#: The operator's own tenant has no part in anything.
OPERATOR = 4_000_001


@asynccontextmanager
async def open_way(
    way: WayWord, house: House, redis_url: str, scopes: Sequence[str] = ("operate",)
) -> AsyncIterator[Shell]:
    """A shell of ann's. Over REST it reaches no store, so that nothing but the API can have answered."""
    if way == "stores":
        yield Shell({"SLUICEWAY_DATABASE_URL": house.database_url, "SLUICEWAY_REDIS_URL": redis_url})
        return
    async with running_api(house.database_url, redis_url) as api:
        key = await api.key(OPERATOR, scopes, name="ann")
        yield Shell(
            {
                "SLUICEWAY_URL": api.url,
                "SLUICEWAY_API_KEY": key,
                "SLUICEWAY_DATABASE_URL": DEAD_POSTGRES,
                "SLUICEWAY_REDIS_URL": DEAD_REDIS,
            }
        )
