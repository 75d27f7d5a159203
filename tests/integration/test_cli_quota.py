"""`sluiceway quota`, over REST and straight on the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.house import House
from tests.support.shell import Shell
from tests.support.ways import WAYS, open_way


@pytest.fixture(params=WAYS)
async def shell(request: pytest.FixtureRequest, house: House, redis_url: str) -> AsyncIterator[Shell]:
    """One way after the other: the same words have the same answers."""
    async with open_way(request.param, house, redis_url) as shell:
        yield shell


async def test_limits_are_set_shown_and_cleared(house: House, shell: Shell) -> None:
    await shell.run("quota", "set", "100", "--tenant", "-3")
    limited = await shell.json("quota", "set", "5", "--tenant", "-3", "--user", "..")
    assert limited == {"tenant": "-3", "user": "..", "points_per_day": 5}
    shown = await shell.json("quota", "show", "--tenant", "-3")
    assert [(row["user"], row["points_per_day"], row["used"]) for row in shown["items"]] == [("", 100, 0), ("..", 5, 0)]
    account = await shell.json("quota", "show", "--tenant", "-3", "--user", "..")
    assert (account["limit"], account["rest"], account["own_limit"]) == (5, 5, True)
    assert "5 of 5 left" in await shell.run("quota", "show", "--tenant", "-3", "--user", "..")
    table = (await shell.run("quota", "show", "--tenant", "-3")).splitlines()
    assert [line.split() for line in table[1:]] == [["(all", "others)", "-", "100"], ["..", "0", "5"]]
    await shell.run("quota", "clear", "--tenant", "-3", "--user", "..")
    gone = await shell.ran("quota", "clear", "--tenant", "-3", "--user", "..", "--json")
    assert (gone.code, gone.json["cleared"]) == (1, False)
    assert await house.value("SELECT array_agg(user_name) FROM quota_limit WHERE tenant_id = -3") == [""]
    assert (await shell.json("quota", "clear", "--tenant", "-3"))["cleared"] is True
    assert "no limit" in await shell.run("quota", "show", "--tenant", "-3", "--user", "ann")


async def test_what_cannot_be_set_is_said_in_one_line(shell: Shell) -> None:
    assert "points_per_day" in await shell.run("quota", "set", str(2**60), "--tenant", "1", code=1)
