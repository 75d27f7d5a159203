"""`sluiceway dead` and `sluiceway replays` as processes, over REST and without an API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.graves import Operator, dead_delivery, janitor_of, save_up
from tests.support.house import House
from tests.support.shell import Shell
from tests.support.ways import WAYS, open_way


@pytest.fixture(params=WAYS)
async def shell(request: pytest.FixtureRequest, house: House, redis_url: str) -> AsyncIterator[Shell]:
    """One way after the other: the same words have the same answers."""
    async with open_way(request.param, house, redis_url) as shell:
        yield shell


async def test_an_operator_finds_a_group_replays_it_and_sees_how_far_it_is(house: House, shell: Shell) -> None:
    model = await house.model(name="painter")
    attempts = await house.running(model, await house.executor(), 4)
    for attempt, code in zip(attempts, ("http_503", "http_503", "http_503", "http_400"), strict=True):
        await house.bury(attempt, code)
    await house.sql("DELETE FROM event")
    listed = await shell.json("dead", "list", "--code", "http_503", "--since", "1h")
    assert [one["error"]["code"] for one in listed["items"]] == ["http_503"] * 3
    assert listed["items"][0]["died_at"].endswith("Z")
    groups = await shell.json("dead", "groups")
    assert [(group["code"], group["count"]) for group in groups["items"]] == [("http_503", 3), ("http_400", 1)]
    examples = (await shell.run("dead", "groups", "-o", "ids")).split()
    assert examples == [group["example_id"] for group in groups["items"]]
    table = await shell.run("dead", "groups")
    assert "painter" in table
    for printed in (table, await shell.run("dead", "list")):
        heading = printed.splitlines()[0]
        assert heading == heading.upper(), "as in every other list"
    shown = await shell.json("dead", "show", str(attempts[3].public_id))
    assert (shown["error"]["code"], len(shown["attempts"])) == ("http_400", 1)
    narrowed = ["--code", "http_503", "--reason", "it is back"]
    dry = await shell.json("dead", "replay", *narrowed[:2], "--dry-run")  # nothing is recorded, so nothing is asked
    assert (dry["selected"], dry["groups"][0]["count"]) == (3, 3)
    assert (dry["refused"], dry["why_refused"]) == (0, {})
    await house.sql("UPDATE lane SET closed = true")
    dry = await shell.json("dead", "replay", *narrowed[:2], "--dry-run")
    assert (dry["selected"], dry["refused"], dry["why_refused"]) == (3, 3, {"model_deleted": 3})
    said = (await shell.ran("dead", "replay", *narrowed[:2], "--dry-run")).err
    assert "3 would be taken, of them refused: 3 (model_deleted)" in said
    assert "will refuse 3 (model_deleted)" in await shell.run("dead", "replay", *narrowed, code=2)
    await house.sql("UPDATE lane SET closed = false")
    cut = await shell.ran("dead", "replay", *narrowed[:2], "--dry-run", "--limit", "2")
    assert "the oldest 2, there may be more" in cut.err
    assert "--reason" in await shell.run("dead", "replay", *narrowed[:2], "--yes", code=2)
    said = await shell.run("dead", "replay", *narrowed, code=2)
    assert "Replay 3 dead tasks? Nobody is there to ask: say --yes." in said
    assert "may be more" not in said
    said = await shell.run("dead", "replay", "--code", "nobody_has_it", "--reason", "it is back", code=1)
    assert "nothing that is dead fits" in said, "nobody is asked to say yes to nothing"
    job = await shell.json("dead", "replay", *narrowed, "--limit", "2", "--rate", "50", "--yes")
    assert (job["total"], job["rate"], job["reason"]) == (2, 50.0, "it is back")
    assert job["asked_by"].startswith("ann")
    paused = await shell.json("replays", "pause", job["id"])
    assert paused["state"] == "paused"
    await shell.json("replays", "resume", job["id"])
    await save_up(house.database)
    assert await janitor_of(house.database, house.gate, house.wake).round() == 2
    done = await shell.json("replays", "show", job["id"], "--items")
    assert (done["state"], done["pending"], [item["result"] for item in done["items"]]) == ("done", 0, ["replayed"] * 2)
    said = await shell.run("replays", "stop", job["id"], "--yes", code=1)
    assert "done" in said
    other = await shell.json("dead", "replay", "--code", "http_400", "--reason", "no", "--yes")
    assert (await shell.json("replays", "stop", other["id"], "--yes"))["state"] == "stopped"
    jobs = await shell.json("replays", "list")
    assert [one["id"] for one in jobs["items"]] == [other["id"], job["id"]]
    lines = (await shell.run("replays", "list")).splitlines()
    assert "0 of 1  1 stopped" in lines[1], "what was not done is not told as done"
    assert "2 of 2  -" in lines[2]
    dropped = await shell.json(
        "dead", "drop", str(attempts[3].public_id), "nobody", "--reason", "the caller was wrong", "--yes"
    )
    assert (dropped["action"], dropped["total"], dropped["unknown"]) == ("drop", 1, ["nobody"])
    assert (await Operator(house.database).replays.show(None, int(dropped["id"]))).asked == {"ids": 1}


async def test_the_dead_of_one_of_several_models_of_a_name_are_narrowed_to_by_its_id(
    house: House, shell: Shell
) -> None:
    models = [await house.model(name="painter"), await house.model(name="painter")]
    executor = await house.executor()
    for number, model in enumerate(models, 1):
        for attempt in await house.running(model, executor, number):
            await house.bury(attempt, "http_503")
    for model in models:
        only = ["--model-id", str(model.id)]
        (group,) = (await shell.json("dead", "groups", "--kind", "task", *only))["items"]
        assert (group["model_id"], group["tenant"]) == (str(model.id), str(model.tenant_id))
        listed = (await shell.json("dead", "list", *only))["items"]
        assert {one["tenant"] for one in listed if one["kind"] == "task"} == {str(model.tenant_id)}
        dry = await shell.json("dead", "replay", *only, "--reason", "r", "--dry-run")
        assert dry["selected"] == group["count"]
    assert (await shell.json("dead", "list", "--kind", "task", "--model-id", "none"))["items"] == []
    dropped = await shell.json("dead", "drop", "--model-id", str(models[1].id), "--reason", "r", "--yes")
    assert dropped["total"] == 2


async def test_deliveries_are_narrowed_to_by_their_webhook(house: House, shell: Shell) -> None:
    model = await house.model()
    numbers = set()
    for _ in range(2):
        numbers.add(str(await dead_delivery(house, model)))
        await house.sql("DELETE FROM event")
    listed = (await shell.json("dead", "list", "--kind", "delivery"))["items"]
    assert {one["id"] for one in listed} == numbers
    only = ["--webhook", listed[0]["webhook"]]
    assert [one["id"] for one in (await shell.json("dead", "list", *only))["items"]] == [listed[0]["id"]]
    assert [group["count"] for group in (await shell.json("dead", "groups", *only))["items"]] == [1]
    dropped = await shell.json("dead", "drop", "--kind", "delivery", *only, "--reason", "r", "--yes")
    assert dropped["total"] == 1


async def test_what_makes_no_sense_is_said_and_changes_nothing(house: House, shell: Shell) -> None:
    assert "(reason)" in await shell.run("dead", "replay", "--reason", " ", "--yes", code=1)
    assert "none of these ids" in await shell.run("dead", "replay", "nobody", "--reason", "r", "--yes", code=1)
    assert "no dead task" in await shell.run("dead", "show", "nobody", code=1)
    assert "no such replay job" in await shell.run("replays", "show", "4711", code=1)
    assert await house.sql("SELECT 1 FROM replay_job") == []
