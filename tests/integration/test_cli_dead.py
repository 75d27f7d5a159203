"""`sluiceway dead` and `sluiceway replays` as processes, over a database and without an API."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from tests.support.cli_schemas import assert_as_promised
from tests.support.graves import Operator, janitor_of, save_up
from tests.support.house import House


async def run(house: House, *arguments: str, code: int = 0) -> tuple[Any, str]:
    """A command's JSON, if it prints any, and what it says to the person."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", *arguments,
        env={**environment, "SLUICEWAY_DATABASE_URL": house.database_url}, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == code, (out.decode(), errors.decode())
    assert_as_promised(arguments, out)
    return (json.loads(out) if out.startswith(b"{") else out.decode()), errors.decode()


async def test_an_operator_finds_a_group_replays_it_and_sees_how_far_it_is(house: House) -> None:
    model = await house.model(name="painter")
    attempts = await house.running(model, await house.executor(), 4)
    for attempt, code in zip(attempts, ("http_503", "http_503", "http_503", "http_400"), strict=True):
        await house.bury(attempt, code)
    await house.sql("DELETE FROM event")
    listed, _ = await run(house, "dead", "list", "--code", "http_503", "--since", "1h", "--json")
    assert [one["error"]["code"] for one in listed["items"]] == ["http_503"] * 3
    assert listed["items"][0]["died_at"].endswith("Z")
    groups, _ = await run(house, "dead", "groups", "--json")
    assert [(group["code"], group["count"]) for group in groups["items"]] == [("http_503", 3), ("http_400", 1)]
    table, _ = await run(house, "dead", "groups")
    assert "painter" in table
    shown, _ = await run(house, "dead", "show", str(attempts[3].public_id), "--json")
    assert (shown["error"]["code"], len(shown["attempts"])) == ("http_400", 1)
    narrowed = ["--code", "http_503", "--reason", "it is back"]
    dry, _ = await run(house, "dead", "replay", *narrowed, "--dry-run", "--json")
    assert (dry["selected"], dry["groups"][0]["count"]) == (3, 3)
    _, said = await run(house, "dead", "replay", *narrowed, code=2)
    assert "--yes" in said
    job, _ = await run(house, "dead", "replay", *narrowed, "--limit", "2", "--rate", "50", "--yes", "--json")
    assert (job["total"], job["rate"], job["reason"]) == (2, 50.0, "it is back")
    assert job["asked_by"].endswith("at the command line")
    paused, _ = await run(house, "replays", "pause", job["id"], "--json")
    assert paused["state"] == "paused"
    await run(house, "replays", "resume", job["id"], "--json")
    await save_up(house.database)
    assert await janitor_of(house.database, house.gate, house.wake).round() == 2
    done, _ = await run(house, "replays", "show", job["id"], "--items", "--json")
    assert (done["state"], done["pending"], [item["result"] for item in done["items"]]) == ("done", 0, ["replayed"] * 2)
    _, said = await run(house, "replays", "stop", job["id"], "--yes", code=1)
    assert "done" in said
    jobs, _ = await run(house, "replays", "list", "--json")
    assert [one["id"] for one in jobs["items"]] == [job["id"]]
    dropped, _ = await run(
        house, "dead", "drop", str(attempts[3].public_id), "--reason", "the caller was wrong", "--yes", "--json"
    )
    assert (dropped["action"], dropped["total"]) == ("drop", 1)
    assert (await Operator(house.database).replays.show(None, int(dropped["id"]))).asked == {"ids": 1}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["dead", "list", "--since", "yesterday"], 2),
        (["dead", "list", "--kind", "ghost"], 2),
        (["dead", "replay"], 2),
        (["dead", "replay", "--reason", " ", "--yes"], 1),
        (["dead", "replay", "nobody", "--reason", "r", "--yes"], 1),
        (["dead", "show", "nobody"], 1),
        (["replays", "show", "4711"], 1),
        (["replays", "stop", "x"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
async def test_what_makes_no_sense_is_said_and_changes_nothing(house: House, arguments: list[str], code: int) -> None:
    _, said = await run(house, *arguments, code=code)
    assert said
    assert await house.sql("SELECT 1 FROM replay_job") == []
