"""Whatever strangers wrote into names and messages, no command steers the terminal by it, or ends in a traceback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.api import running_api
from tests.support.graves import Operator, dead_delivery, dead_event, died
from tests.support.house import House
from tests.support.shell import Ran, Shell
from tests.support.ways import WAYS, open_way

HOSTILE = "\x1b]0;t\x07\x1b[2J\x9b31m\u202eb\u2066\r\nx\u2028\t \xfc"
#: Columns that hold what a caller, a model, a provider, a receiver or an operator wrote, without the checks of the API.
_WRITTEN = {
    "task": ("error_message", "creator", "biz_name", "input_ref"),
    "attempt": ("error_message",),
    "model": ("name", "remark", "base_url", "route", "creator"),
    "executor": ("name", "version"),
    "process": ("name", "last_error", "events_refused"),
    "api_key": ("name",),
    "dead_event": ("last_error",),
    "dead_message": ("topic", "cause", "code"),
    "delivery": ("last_error", "url"),
    "replay_job": ("reason", "asked_by", "note"),
    "replay_item": ("detail", "error_code"),
    "pause": ("reason", "paused_by"),
    "operator_action": ("reason", "done_by", "subject"),
    "webhook": ("url", "disabled_reason", "description"),
    "quota_limit": ("user_name",),
    "quota_usage": ("user_name",),
    "op_log": ("creator", "biz_name", "model_name", "error_msg"),
    "history": ("detail",),
}


@dataclass(frozen=True)
class Scene:
    """Ids of what is there."""

    tenant: int
    dead: str
    waiting: str
    message: int
    event: int
    delivery: int
    job: int
    key: str


async def hostile(house: House) -> Scene:
    model = await house.model()
    tenant = model.tenant_id
    _, event = await dead_event(house, model)
    delivery = await dead_delivery(house, model)
    (attempt,) = await died(house, model)
    (waiting,) = await house.public(await house.tasks(model))
    message = await house.value(
        'INSERT INTO dead_message (topic, "partition", "offset", digest, key, value, headers, cause)'
        " VALUES ('t', 0, 1, '', $1, $1, jsonb_build_array(jsonb_build_array($2::text, $2::text)), 'x') RETURNING id",
        HOSTILE.encode(), HOSTILE,
    )  # fmt: skip
    job = await Operator(house.database).order()
    for statement in (
        "INSERT INTO process (role, name, broker_reachable) VALUES ('dispatcher', 'd', false)",
        f"INSERT INTO pause (scope, tenant_id, paused_by) VALUES ('tenant', {tenant}, 'x')",
        f"INSERT INTO operator_action (done_by, action, tenant_id, subject) VALUES ('x', 'pause', {tenant}, 'x')",
        f"INSERT INTO quota_limit (tenant_id, user_name, points_per_day) VALUES ({tenant}, 'x', 5)",
        f"INSERT INTO quota_usage (tenant_id, user_name, day, used) VALUES ({tenant}, 'x', current_date, 1)",
        f"INSERT INTO api_key (tenant_id, name, digest, scopes) VALUES ({tenant}, 'x', '\\x01', '{{read}}')",
        "UPDATE webhook SET disabled_at = now(), disabled_reason = 'x'",
    ):
        await house.sql(statement)
    for table, columns in _WRITTEN.items():
        for column in columns:
            await house.sql(f"UPDATE {table} SET {column} = $1", HOSTILE)
    await house.sql("UPDATE task SET error_message = $1 || repeat('y', 1000000) || $1 WHERE status = 7", HOSTILE)
    return Scene(tenant, str(attempt.public_id), waiting, message, event, delivery, job.id, "")


@pytest.fixture(params=WAYS)
async def shell(request: pytest.FixtureRequest, house: House, redis_url: str) -> AsyncIterator[Shell]:
    async with open_way(request.param, house, redis_url) as shell:
        yield shell


def assert_plain(ran: Ran, words: tuple[str, ...]) -> None:
    steering = {character for character in ran.out + ran.err if character != "\n" and not character.isprintable()}
    assert not steering, (words, steering)


async def test_no_operators_command_is_steered(house: House, shell: Shell) -> None:
    scene = await hostile(house)
    tenant = ("--tenant", str(scene.tenant))
    commands: list[tuple[str, ...]] = [
        ("why", scene.dead), ("why", scene.waiting), ("why", *tenant, "--model", HOSTILE),
        ("overview",), ("lanes", "--all"), ("outbox",), ("pauses",), ("actions",), ("executor", "list"),
        ("series", *tenant, "--model", HOSTILE), ("top", "--once"), ("tenants", "list"), ("keys", "list", *tenant),
        ("quota", "show", *tenant), ("quota", "show", *tenant, "--user", HOSTILE), ("webhooks",),
        ("quota", "set", "7", *tenant, "--user", HOSTILE), ("quota", "clear", *tenant, "--user", HOSTILE),
        ("dead", "list"), ("dead", "groups"), ("dead", "list", "--text", HOSTILE), ("dead", "show", scene.dead),
        ("dead", "show", str(scene.event), "--kind", "event"), ("dead", "show", HOSTILE),
        ("dead", "show", str(scene.delivery), "--kind", "delivery"),
        ("dead", "show", str(scene.message), "--kind", "message"),
        ("dead", "replay", scene.dead, HOSTILE, "--dry-run"), ("replays", "list"),
        ("replays", "show", str(scene.job), "--items"), ("executor", "drain", HOSTILE),
        ("executor", "drain", "nobody\x1b[2J"), ("pause", *tenant, "--model", HOSTILE, "--reason", "x"),
    ]  # fmt: skip
    for words in commands:
        for output in ("table", "json", "yaml"):
            if words[0] == "top" and output != "table":
                continue
            way = () if words[0] == "top" else ("--output", output)
            ran = await shell.ran(*words, *way)
            assert_plain(ran, words)
            assert ran.code in (0, 1, 4), (words, ran.err)
            if output == "json" and ran.out:
                json.loads(ran.out)


async def test_no_command_of_a_tenant_is_steered(house: House, redis_url: str) -> None:
    scene = await hostile(house)
    async with running_api(house.database_url, redis_url) as api:
        key = await api.key(scene.tenant)
        shell = Shell({"SLUICEWAY_URL": api.url, "SLUICEWAY_API_KEY": key})
        for words in (
            ("task", "list"), ("task", "get", scene.dead), ("task", "get", scene.dead, scene.waiting),
            ("task", "why", scene.dead), ("task", "attempts", scene.dead), ("task", "history", scene.dead),
            ("task", "get", HOSTILE), ("task", "cancel", HOSTILE, "--yes"), ("task", "cancel", scene.waiting, "--yes"),
            ("models", "list"), ("models", "show", HOSTILE), ("models", "show", "x\x1b[2J"),
            ("task", "wait", scene.dead, "--timeout", "3"), ("task", "submit", "x\x1b[2J", "-p", "1"),
        ):  # fmt: skip
            for output in ("table", "json", "yaml"):
                ran = await shell.ran(*words, "--output", output)
                assert_plain(ran, words)
                assert ran.code in (0, 1, 4), (words, ran.err)
        assert_plain(await shell.ran("task", "watch", scene.dead), ("watch",))
        assert_plain(await shell.ran("models", "delete", HOSTILE, "--yes"), ("models", "delete"))
        model = json.dumps({"name": HOSTILE, "base_url": "http://127.0.0.1:9", HOSTILE: 1})
        for arguments in ((), ("--dry-run",)):
            assert_plain(await shell.ran("models", "apply", "-f", "-", *arguments, given=model), ("models", "apply"))
