"""When Redis counts as away for an executor."""

from __future__ import annotations

from libs.common.domain.errors import GateUnavailable
from services.executor.doorman import Doorman


class Door:
    def __init__(self) -> None:
        self.now = 0.0
        self.silent = False
        self.doorman = Doorman(self.ping, lambda: self.now)

    async def ping(self) -> None:
        if self.silent:
            raise GateUnavailable("Redis did not answer within 1 s")

    async def looks(self, seconds: float) -> bool:
        """A look each second; whether it is away after the last."""
        until = self.now + seconds
        while self.now < until:
            await self.doorman.look()
            self.now += 1.0
        return self.doorman.away


async def test_it_is_away_after_three_seconds_without_an_answer_and_there_with_the_first() -> None:
    door = Door()
    assert not await door.looks(5)
    door.silent = True
    assert not await door.looks(3)
    assert await door.looks(1)
    door.silent = False
    assert not await door.looks(1)


async def test_one_lost_answer_says_nothing_nor_does_a_sleep_of_ours() -> None:
    door = Door()
    await door.looks(2)
    door.now += 60  # frozen
    door.silent = True
    assert not await door.looks(1)
    door.silent = False
    await door.looks(1)
    door.silent = True
    assert not await door.looks(3)
