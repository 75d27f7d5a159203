"""API keys: asked about once a second, by whoever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.ports_tasks import KeyOwner
from services.api.auth import CACHE_SECONDS, Callers, require
from services.api.problems import Problem

KEY = b"sw_" + b"k" * 43
OWNER = KeyOwner(1, 7, "shop", frozenset({"read"}))


class Keys:
    """One known key, and how often somebody asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.owner: KeyOwner | None = OWNER
        self.away = False

    async def find(self, digest: bytes) -> KeyOwner | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise DatabaseUnavailable("away")
        return self.owner if digest == sha256(KEY).digest() else None

    async def create(self, tenant_id: int, name: str, digest: bytes, scopes: Sequence[str]) -> int:
        raise NotImplementedError

    async def list_of(self, tenant_id: int) -> list[dict[str, Any]]:
        raise NotImplementedError

    async def revoke(self, key_id: int) -> bool:
        raise NotImplementedError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_key_is_looked_up_once_a_second_for_everybody() -> None:
    keys, clock = Keys(), Clock()
    callers = Callers(keys, clock)
    owners = await asyncio.gather(*[callers.identify(b"Bearer " + KEY) for _ in range(50)])
    assert owners == [OWNER] * 50
    assert keys.asked == 1
    clock.now += CACHE_SECONDS - 0.01
    assert await callers.identify(b"bearer  " + KEY) is OWNER
    assert keys.asked == 1
    clock.now += 0.02
    keys.owner = None
    with pytest.raises(Problem, match="unknown or revoked"):
        await callers.identify(b"Bearer " + KEY)
    assert keys.asked == 2


@pytest.mark.parametrize("word", [b"Bearer", b"bearer", b"BEARER"])
async def test_the_word_before_a_key_may_be_written_in_any_case(word: bytes) -> None:
    assert await Callers(Keys(), Clock()).identify(word + b" " + KEY) is OWNER


async def test_a_wrong_key_is_remembered_too() -> None:
    keys = Keys()
    callers = Callers(keys, Clock())
    for _ in range(3):
        with pytest.raises(Problem):
            await callers.identify(b"Bearer sw_" + b"x" * 43)
    assert keys.asked == 1


async def test_an_outage_is_told_to_all_and_not_remembered() -> None:
    keys = Keys()
    keys.away = True
    callers = Callers(keys, Clock())
    answers = await asyncio.gather(*[callers.identify(b"Bearer " + KEY) for _ in range(3)], return_exceptions=True)
    assert [type(answer) for answer in answers] == [DatabaseUnavailable] * 3
    keys.away = False
    assert await callers.identify(b"Bearer " + KEY) is OWNER


async def test_who_leaves_does_not_take_the_answer_from_the_others() -> None:
    callers = Callers(Keys(), Clock())
    first = asyncio.create_task(callers.identify(b"Bearer " + KEY))
    second = asyncio.create_task(callers.identify(b"Bearer " + KEY))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is OWNER
    assert first.cancelled()


async def test_a_flood_of_wrong_keys_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.auth._MOST_REMEMBERED", 10)
    callers = Callers(Keys(), Clock())
    for number in range(100):
        with pytest.raises(Problem):
            await callers.identify(b"Bearer sw_" + str(number).encode().rjust(43, b"0"))
    assert len(callers._known) <= 10


@pytest.mark.parametrize(
    "header", [None, b"", b"Bearer", KEY, b"Bearer " + KEY + b"x", b"Basic " + KEY, b"Bearer " + KEY + b"\n"]
)
async def test_what_is_no_key_is_not_even_looked_up(header: bytes | None) -> None:
    keys = Keys()
    with pytest.raises(Problem, match="Authorization"):
        await Callers(keys, Clock()).identify(header)
    assert keys.asked == 0


def test_scopes() -> None:
    require(OWNER, "read")
    with pytest.raises(Problem, match="submit"):
        require(OWNER, "submit")
