"""The house rules of the Lua scripts, and that Redis takes each of them."""

from __future__ import annotations

from importlib.resources import files

import pytest

from libs.common.adapters.redis.connection import open_redis
from libs.common.adapters.redis.script import Script

NAMES = sorted(
    file.name.removesuffix(".lua")
    for file in (files("libs.common.adapters.redis") / "scripts").iterdir()
    if file.name.endswith(".lua")
)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_short_and_headed_by_what_it_takes_gives_and_promises(name: str) -> None:
    first, *lines = Script.load(name).text.splitlines()
    assert first.startswith("#!lua")  # its flags say what happens when memory is full
    assert len(lines) < 30
    assert lines[0].startswith(f"-- {name}: ")
    header = "\n".join(line for line in lines if line.startswith("--"))
    for heading in ("KEYS", "ARGV", "Returns"):
        assert f"-- {heading}" in header


async def test_redis_takes_each_and_knows_it_by_our_hash(redis_url: str) -> None:
    scripts = [Script.load(name) for name in NAMES]
    async with open_redis(redis_url) as redis:
        hashes = await redis.command_many([("SCRIPT", "LOAD", script.text) for script in scripts])
    assert [known.decode() for known in hashes] == [script.sha for script in scripts]
