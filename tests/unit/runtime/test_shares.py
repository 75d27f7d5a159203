"""Shares of what there is only so much of."""

from __future__ import annotations

import asyncio
import time
from itertools import chain

from libs.common.runtime.shares import Shares


async def turns(shares: Shares, tenant: int, number: int) -> list[asyncio.Task[None]]:
    """So many of a tenant who want one; those who may have one have it."""
    taking = [asyncio.create_task(shares.take(tenant)) for _ in range(number)]
    await asyncio.sleep(0.01)
    return taking


def had(taking: list[asyncio.Task[None]]) -> int:
    return sum(one.done() and not one.cancelled() for one in taking)


async def leave(*taking: list[asyncio.Task[None]]) -> None:
    for one in chain(*taking):
        one.cancel()
    await asyncio.sleep(0.01)


async def test_a_tenant_has_half_and_the_next_one_half_of_what_is_left() -> None:
    shares = Shares(8)
    first, second = await turns(shares, 1, 10), await turns(shares, 2, 10)
    assert (had(first), had(second)) == (4, 2)
    shares.give_back(1)
    await asyncio.sleep(0.01)
    assert (had(first), had(second)) == (4, 3), "whose share is smaller"
    await leave(first, second)


async def test_tenants_take_turns_however_long_one_has_waited() -> None:
    shares = Shares(2)
    (first,) = await turns(shares, 1, 1)
    waiting, late = await turns(shares, 1, 100), await turns(shares, 2, 2)
    assert first.done()
    assert (had(waiting), had(late)) == (0, 1)
    shares.give_back(1)
    shares.give_back(2)
    await asyncio.sleep(0.01)
    assert (had(waiting), had(late)) == (1, 2)
    await leave(waiting, late)


async def test_who_leaves_takes_nothing_along() -> None:
    shares = Shares(2)
    first = await turns(shares, 1, 3)
    assert had(first) == 1
    await leave(first[1:])
    (second,) = await turns(shares, 2, 1)
    assert second.done()
    (third,) = await turns(shares, 3, 1)
    shares.give_back(1)
    third.cancel()  # it was let in, and does not know yet
    await asyncio.wait([third])
    assert third.cancelled()
    shares.give_back(2)
    assert had(await turns(shares, 4, 1)) == 1
    assert (shares._free, dict(shares._had), shares._waiting) == (1, {4: 1}, {})


async def test_very_many_that_wait_hold_up_nobody() -> None:
    shares = Shares(512)
    began = time.monotonic()
    taking = await turns(shares, 1, 20_000)
    for _ in range(256):
        shares.give_back(1)
    await leave(taking)
    assert time.monotonic() - began < 4
    assert shares._waiting == {}
