"""`sluiceway tenants`, over REST and straight on the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import yaml

from tests.support.house import House
from tests.support.shell import Shell
from tests.support.ways import WAYS, open_way


@pytest.fixture(params=WAYS)
async def shell(request: pytest.FixtureRequest, house: House, redis_url: str) -> AsyncIterator[Shell]:
    """One way after the other: the same words have the same answers."""
    async with open_way(request.param, house, redis_url) as shell:
        yield shell


async def test_tenants_are_weighed_shown_and_listed(shell: Shell) -> None:
    assert "heard" in await shell.run("tenants", "show", "--", "-41", code=1)
    made = (await shell.ran("tenants", "set-weight", "--json", "--", "-41", "3")).json
    assert (made["id"], made["weight"], made["paused"]) == ("-41", 3, False)
    assert set(made) == {"id", "weight", "paused", "created_at"}
    assert made["created_at"].endswith("Z")
    assert (await shell.ran("tenants", "show", "--json", "--", "-41")).json == made
    assert yaml.safe_load(await shell.run("tenants", "show", "-o", "yaml", "--", "-41"))["weight"] == 3
    (listed,) = [one for one in (await shell.json("tenants", "list"))["items"] if one["id"] == "-41"]
    assert listed == {**made, "models": {"value": 0, "exact": True}, "calls_today": 0}
    assert await shell.run("tenants", "list", "--limit", "1", "-o", "ids") == "-41\n"
    assert (await shell.run("tenants", "list")).splitlines()[0].split()[:2] == ["ID", "WEIGHT"]


async def test_every_page_is_read(house: House, shell: Shell) -> None:
    await house.sql("INSERT INTO tenant (id) SELECT generate_series(-600, 600)")
    listed = (await shell.run("tenants", "list", "--limit", "1100", "-o", "ids")).split()
    assert (listed[0], listed[-1], len(listed)) == ("-600", "499", 1_100)
