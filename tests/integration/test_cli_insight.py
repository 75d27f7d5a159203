"""Why, sight and orders by command line, over REST and straight on the stores, as a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.api import running_api
from tests.support.house import House
from tests.support.locks import kept_by
from tests.support.shell import Shell
from tests.support.sights import alive
from tests.support.ways import WAYS, open_way


@pytest.fixture(params=WAYS)
async def shell(request: pytest.FixtureRequest, house: House, redis_url: str) -> AsyncIterator[Shell]:
    """One way after the other: the same words have the same answers."""
    async with open_way(request.param, house, redis_url) as shell:
        yield shell


@pytest.fixture
async def local(house: House, redis_url: str) -> AsyncIterator[Shell]:
    """Straight on the stores."""
    async with open_way("stores", house, redis_url) as shell:
        yield shell


@pytest.fixture
async def remote(house: House, redis_url: str) -> AsyncIterator[Shell]:
    """Over REST, from a machine that reaches no store."""
    async with open_way("rest", house, redis_url) as shell:
        yield shell


async def test_a_night_at_the_command_line(house: House, shell: Shell) -> None:
    model, executor = await house.model(max_concurrency=1), await house.executor()
    await alive(house)
    tasks = await house.tasks(model, 5)
    await house.lease(model)
    (public,) = await house.public(tasks[-1:])
    tenant = str(model.tenant_id)
    text = await shell.run("why", public)
    assert text.startswith("3 of 3 tasks")
    assert "window_full" in text
    paused = await shell.run("pause", "--tenant", tenant, "--model", model.name, "--reason", "wrong answers")
    assert paused == "paused\n"
    said = await shell.json("why", "--tenant", tenant, "--model", model.name)
    assert said["code"] == "model_paused"
    assert said["at"].endswith("Z")
    (lane,) = (await shell.json("lanes", "--tenant", tenant))["items"]
    assert (lane["waiting"]["value"], lane["pauses"][0]["by"]) == (2, "ann")
    assert await shell.json("resume", "--tenant", tenant, "--model", model.name) == {"verdict": "resumed"}
    name = await house.value("SELECT name FROM executor WHERE id = $1", executor)
    assert await shell.json("executor", "drain", name, "--reason", "new") == {"verdict": "draining"}
    (listed,) = (await shell.json("executor", "list"))["items"]
    assert listed["posture"] != "draining", "its posture is its own to say"
    assert listed["adapters"] == ["plain-http", "test"]
    heading, row = (await shell.run("executor", "list")).splitlines()
    assert (heading.split()[-1], row.split()[-1]) == ("ADAPTERS", "plain-http,test")
    done = (await shell.json("actions"))["items"]
    assert [(one["by"], one["action"]) for one in done] == [("ann", "drain"), ("ann", "resume"), ("ann", "pause")]
    assert (await shell.json("overview"))["ready"] == {"value": 2, "exact": True}
    assert "dispatch" in [channel["channel"] for channel in (await shell.json("outbox"))["items"]]
    assert (await shell.json("series", "--tenant", tenant, "--model", model.name, "--hours", "2"))["points"] == []
    assert await shell.json("executor", "undrain", name) == {"verdict": "staying"}


async def test_webhooks_are_paused_and_go_on(house: House, shell: Shell) -> None:
    webhook = await house.value(
        "INSERT INTO webhook (tenant_id, kind, url, secrets)"
        " VALUES (7, 'endpoint', 'https://example.com/h?token=hidden', 'x') RETURNING id"
    )
    assert await shell.json("webhooks", "pause", str(webhook), "--reason", "moving") == {"verdict": "paused"}
    assert await shell.run("webhooks", "pause", str(webhook)) == "already paused\n"
    (listed,) = (await shell.json("webhooks"))["webhooks"]
    assert (listed["id"], listed["tenant"], listed["state"]) == (str(webhook), "7", "held: moving")
    assert (listed["held"]["by"], listed["held"]["reason"]) == ("ann", "moving")
    (paused,) = (await shell.json("pauses"))["items"]
    assert (paused["scope"], paused["webhook_id"], paused["tenant_id"]) == ("webhook", str(webhook), "7")
    assert f"webhook {webhook} of tenant 7" in await shell.run("pauses")
    assert f"paused: webhook {webhook} of tenant 7 moving" in await shell.run("top", "--once")
    assert (await shell.json("overview"))["pauses"] == [paused]
    channels = {channel["channel"]: channel["held"]["value"] for channel in (await shell.json("outbox"))["items"]}
    assert channels == {"dispatch": 0, "event": 0, "webhook": 1}
    assert listed["url"] == "https://example.com/h"
    assert await shell.json("webhooks", "--failing") == {"webhooks": []}
    assert await shell.json("webhooks", "resume", str(webhook)) == {"verdict": "resumed"}
    assert await house.value("SELECT count(*) FROM pause WHERE ended IS NULL") == 0
    done = await house.sql("SELECT done_by, action, tenant_id, subject, reason FROM operator_action ORDER BY id")
    assert [tuple(row) for row in done] == [
        ("ann", "pause", 7, f"webhook {webhook}", "moving"),
        ("ann", "resume", 7, f"webhook {webhook}", ""),
    ]
    assert "no webhook" in await shell.run("webhooks", "pause", str(webhook + 1), code=1)


async def test_what_cannot_be_done_says_so_and_changes_nothing(house: House, shell: Shell) -> None:
    nobody = "01939d5c-6f3e-7b1a-9c55-2f6f0b6f7a10"
    assert "no such task" in await shell.run("why", nobody, code=1)
    assert "no tenant 17" in await shell.run("pause", "--tenant", "17", code=1)
    assert "no executor" in await shell.run("executor", "drain", "a/b", code=1)
    assert "500" in await shell.run("resume", "--all", "--reason", "x" * 501, code=1)
    assert "whole minutes" in await shell.run("series", "--step", "61", code=1)
    assert await house.value("SELECT count(*) FROM operator_action") == 0
    assert await shell.json("pause", "--all", "--yes") == {"verdict": "paused"}
    assert await house.value("SELECT reason FROM pause") == ""


async def test_stores_that_are_away_are_told(local: Shell) -> None:
    away = local.having(SLUICEWAY_DATABASE_URL="postgresql://127.0.0.1:1/nothing")
    assert "PostgreSQL" in await away.run("overview", code=3)
    assert await local.having(SLUICEWAY_REDIS_URL="redis://127.0.0.1:1/0").json("lanes") == {"items": []}
    assert await local.having(SLUICEWAY_URL="http://127.0.0.1:1").json("lanes", "--url", "") == {"items": []}


async def test_rows_that_somebody_keeps_locked_are_told_as_such(house: House, shell: Shell) -> None:
    """It was said to be the address of a store, or of the API."""
    executor = await house.executor()
    name = await house.value("SELECT name FROM executor WHERE id = $1", executor)
    async with kept_by(house, f"executor SET name = name WHERE id = {executor}"):
        said = await shell.run("executor", "drain", name, "--reason", "new", code=3)
    assert "keeps rows locked" in said
    assert "`sluiceway doctor`" in said
    assert "SLUICEWAY_" not in said
    assert len(said.splitlines()) == 1
    assert await shell.json("executor", "drain", name, "--reason", "new") == {"verdict": "draining"}


async def test_who_does_it_is_named_where_no_key_says_it(house: House, local: Shell, remote: Shell) -> None:
    assert await local.json("pause", "--all", "--yes", "--by", "bob") == {"verdict": "paused"}
    assert "the key's name" in await remote.run("resume", "--all", "--by", "bob", code=2)
    assert await house.value("SELECT paused_by FROM pause WHERE ended IS NULL") == "bob"


async def test_an_api_that_is_away_or_knows_the_key_not(house: House, remote: Shell) -> None:
    away = await remote.having(SLUICEWAY_URL="http://127.0.0.1:1").ran("overview")
    assert (away.code, "--url ''" in away.err, away.out) == (3, True, "")
    stranger = await remote.having(SLUICEWAY_API_KEY=f"sw_{'x' * 43}").ran("top", "--once")
    assert (stranger.code, "SLUICEWAY_API_KEY" in stranger.err) == (4, True)
    nobody = await remote.having(SLUICEWAY_API_KEY="").ran("lanes")
    assert (nobody.code, "keys create" in nobody.err) == (2, True)


async def test_a_key_that_may_only_read_sees_its_tenant_and_orders_nothing(
    house: House, redis_url: str, tmp_path: Path
) -> None:
    model, other = await house.model(), await house.model()
    await house.tasks(other)
    (public,) = await house.public(await house.tasks(model))
    async with running_api(house.database_url, redis_url) as api:
        key = tmp_path / "key"
        key.write_text(await api.key(model.tenant_id, ("read",)))
        reader = Shell({"SLUICEWAY_URL": api.url, "SLUICEWAY_API_KEY_FILE": str(key)})
        assert [lane["model"] for lane in (await reader.json("lanes"))["items"]] == [model.name]
        assert (await reader.json("why", public))["task_id"] == public
        for words in ("overview", f"pause --tenant {model.tenant_id}", "executor list"):
            refused = await reader.ran(*words.split())
            assert (refused.code, "forbidden" in refused.err, "keys create" in refused.err) == (4, True, True), words
    assert await house.value("SELECT count(*) FROM operator_action") == 0


async def test_what_the_broker_refuses_is_on_top(house: House, shell: Shell) -> None:
    model = await house.model()
    cause = "InvalidReplicationFactorError: 3 is larger than 1"
    await alive(house, refused={model.lane: cause}, events=cause)
    seen = await shell.json("overview")
    assert (seen["topics_refused"], seen["events_refused"]) == (1, cause)
    text = " ".join((await shell.run("top", "--once")).split())
    assert f"the broker refuses the topic of events: {cause}" in text
    assert "models whose topics the broker refuses: 1; `why` of each says why" in text


async def test_top_looks_once_without_a_terminal(house: House, shell: Shell) -> None:
    model = await house.model()
    await alive(house)
    await house.tasks(model, 3)
    await shell.run("pause", "--tenant", str(model.tenant_id), "--reason", "unpaid")
    seen = await shell.json("top", "--once")
    assert seen["overview"]["ready"]["value"] == 3
    assert [(lane["model"], lane["waiting"]["value"]) for lane in seen["lanes"]] == [(model.name, 3)]
    text = await shell.run("top")
    assert "ready 3" in text
    assert "unpaid" in text
    assert "queues with work" in text
