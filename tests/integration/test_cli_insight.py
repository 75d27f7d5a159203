"""Why, sight and orders by command line, straight on the stores, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from tests.support.cli_schemas import assert_as_promised
from tests.support.house import House
from tests.support.sights import alive


class Shell:
    """Runs `sluiceway` against a house's stores."""

    def __init__(self, house: House, redis_url: str) -> None:
        self.environment = {
            **os.environ,
            "SLUICEWAY_DATABASE_URL": house.database_url,
            "SLUICEWAY_REDIS_URL": redis_url,
            "USER": "ann",
        }

    async def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What it prints; what it complains of where it fails as expected."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**self.environment, "LOGNAME": "ann", **environment},
        )  # fmt: skip
        printed, complained = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == code, complained.decode()
        assert_as_promised(arguments, printed)
        return (complained if code else printed).decode()

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.run(*arguments, "--json"))


@pytest.fixture
def shell(house: House, redis_url: str) -> Shell:
    return Shell(house, redis_url)


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
    assert await shell.json("executor", "drain", name, "--by", "bob") == {"verdict": "draining"}
    (listed,) = (await shell.json("executor", "list"))["items"]
    assert listed["posture"] != "draining", "its posture is its own to say"
    done = (await shell.json("actions"))["items"]
    assert [(one["by"], one["action"]) for one in done] == [("bob", "drain"), ("ann", "resume"), ("ann", "pause")]
    assert (await shell.json("overview"))["ready"] == {"value": 2, "exact": True}
    assert "dispatch" in [channel["channel"] for channel in (await shell.json("outbox"))["items"]]
    assert (await shell.json("series", "--hours", "2"))["points"] == []


async def test_webhooks_are_paused_and_go_on(house: House, shell: Shell) -> None:
    webhook = await house.value(
        "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES (7, 'endpoint', 'https://example.com/h', 'x')"
        " RETURNING id"
    )
    assert await shell.json("webhooks", "pause", str(webhook), "--reason", "moving") == {"verdict": "paused"}
    assert await shell.run("webhooks", "pause", str(webhook)) == "already paused\n"
    (listed,) = (await shell.json("webhooks"))["webhooks"]
    assert (listed["id"], listed["state"]) == (str(webhook), "paused")
    assert await shell.json("webhooks", "resume", str(webhook)) == {"verdict": "resumed"}
    assert await house.value("SELECT paused FROM webhook") is False
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
    await shell.run("pause", code=2)
    await shell.run("why", code=2)
    await shell.run("resume", "--all", "--tenant", "3", code=2)
    assert "--yes" in await shell.run("pause", "--all", code=2)
    assert await house.value("SELECT count(*) FROM operator_action") == 0
    assert await shell.json("pause", "--all", "--yes") == {"verdict": "paused"}
    assert await house.value("SELECT reason FROM pause") == ""
    away = "postgresql://127.0.0.1:1/nothing"
    assert "PostgreSQL" in await shell.run("overview", code=3, SLUICEWAY_DATABASE_URL=away)
    assert json.loads(await shell.run("lanes", "--json", SLUICEWAY_REDIS_URL="redis://127.0.0.1:1/0")) == {"items": []}


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
