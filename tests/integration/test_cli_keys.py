"""`sluiceway keys`, over REST and straight on the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256

import pytest

from tests.support.house import House
from tests.support.shell import Shell
from tests.support.ways import WAYS, open_way


@pytest.fixture(params=WAYS)
async def shell(request: pytest.FixtureRequest, house: House, redis_url: str) -> AsyncIterator[Shell]:
    """One way after the other: the same words have the same answers."""
    async with open_way(request.param, house, redis_url, ("submit", "read", "operate", "admin")) as shell:
        yield shell


async def test_keys_are_made_listed_and_revoked(house: House, shell: Shell) -> None:
    made = await shell.json("keys", "create", "--tenant", "-5", "--name", "shop", "--scopes", "read, submit")
    assert (made["tenant"], made["name"], made["scopes"]) == ("-5", "shop", ["submit", "read"])
    stored = await house.value("SELECT digest FROM api_key WHERE tenant_id = -5")
    assert stored == sha256(made["key"].encode()).digest()
    (listed,) = (await shell.json("keys", "list", "--tenant", "-5"))["items"]
    assert (listed["id"], listed["scopes"], listed["revoked_at"]) == (made["id"], ["submit", "read"], None)
    assert "key" not in listed
    number = str(made["id"])
    assert await shell.json("keys", "revoke", number, "--yes") == {"id": made["id"], "revoked": True}
    again = await shell.ran("keys", "revoke", number, "--yes", "--json")
    assert (again.code, again.json["revoked"]) == (1, False)
    (listed,) = (await shell.json("keys", "list", "--tenant", "-5"))["items"]
    assert (listed["revoked_at"][-1], listed["created_at"][-1]) == ("Z", "Z")
    done = (await shell.json("actions"))["items"]
    assert [(one["by"], one["action"], one["tenant_id"], one["subject"]) for one in done] == [
        ("ann", "revoke_key", "-5", f"key {number} of shop"),
        ("ann", "create_key", "-5", f"key {number} of shop: submit, read"),
    ]
    assert made["key"] not in str(done)


async def test_nobody_gives_what_he_has_not(house: House, redis_url: str) -> None:
    async with open_way("rest", house, redis_url, ("operate",)) as operator:
        refused = await operator.ran("keys", "create", "--tenant", "6", "--scopes", "operate,read")
        assert (refused.code, "'read'" in refused.err) == (4, True)
        assert await house.value("SELECT count(*) FROM api_key WHERE tenant_id = 6") == 0
        await operator.run("keys", "create", "--tenant", "6", "--scopes", "operate")
