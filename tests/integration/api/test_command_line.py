"""`sluiceway task` and `models` as processes, against an API over real servers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import typer.main
import yaml

from services.cli.__main__ import load_commands
from services.cli.app import app
from tests.support.api import NOWHERE, Api, Tenant
from tests.support.shell import Ran, Shell

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def run(*arguments: str, tenant: Tenant | None = None, given: str | None = None, **more: str) -> Ran:
    """Run a command with a tenant's key, or without any."""
    own = {} if tenant is None else {"SLUICEWAY_URL": tenant.api.url, "SLUICEWAY_API_KEY": tenant.key}
    return await Shell(own | more).ran(*arguments, given=given)


async def test_tasks_are_handed_in_listed_and_canceled(tenant: Tenant, tmp_path: Path) -> None:
    payload = tmp_path / "payload.json"
    payload.write_text('{"text": "hi"}')
    made = await run("task", "submit", "m", "-p", f"@{payload}", "--biz-name", "b", "--json", tenant=tenant)
    assert made.code == 0, made.err
    task_id = made.json["id"]
    (stored,) = await tenant.stored()
    assert json.loads(stored["payload"]) == {"text": "hi"}
    got = await run("task", "get", task_id, "--json", tenant=tenant)
    assert (got.json["status"], got.json["biz_name"]) == ("submitted", "b")
    ids = await run("task", "list", "--biz-name", "b", "-o", "ids", tenant=tenant)
    assert ids.out == f"{task_id}\n"
    table = await run("task", "list", tenant=tenant)
    assert table.out.splitlines()[0].split()[:3] == ["ID", "MODEL", "STATUS"]
    assert "\x1b" not in table.out, "no colours in a pipe"
    refused = await run("task", "cancel", task_id, tenant=tenant)
    assert (refused.code, "--yes" in refused.err) == (2, True), "nobody is there to ask"
    canceled = await run("task", "cancel", "-", "--yes", "-o", "yaml", tenant=tenant, given=f"{task_id}\n")
    assert yaml.safe_load(canceled.out)["items"][0]["verdict"] == "canceled"
    again = await run("task", "cancel", task_id, "--yes", "--json", tenant=tenant)
    assert again.json == {"items": [{"id": task_id, "verdict": "already_final", "status": "canceled"}]}
    waited = await run("task", "wait", task_id, "--json", tenant=tenant)
    assert (waited.code, waited.json["status"]) == (1, "canceled")
    assert (await run("task", "history", task_id, "--json", tenant=tenant)).json["items"][0]["kind"] == "cancel"
    nothing = await run("task", "download", task_id, tenant=tenant)
    assert (nothing.code, "canceled" in nothing.err) == (1, True)


async def test_a_result_is_followed_and_downloaded(tenant: Tenant, tmp_path: Path) -> None:
    task_id = await tenant.result(b"one", b"two")
    watched = await run("task", "watch", task_id, "--json", tenant=tenant)
    assert (watched.code, watched.json["status"]) == (0, "success")
    assert (await run("task", "why", task_id, "--json", tenant=tenant)).json["code"] == "ended"
    assert (await run("task", "attempts", task_id, "--json", tenant=tenant)).code == 0
    folder = tmp_path / "new" / "folder"
    one = await run("task", "download", task_id, "--to", f"{folder}/", "--index", "1", "--json", tenant=tenant)
    assert one.json == {"files": [str(folder / f"{task_id}-1.png")]}
    assert (folder / f"{task_id}-1.png").read_bytes() == b"two"
    both = await run("task", "download", task_id, "--to", str(tmp_path / "both"), tenant=tenant)
    assert [Path(line).read_bytes() for line in both.out.splitlines()] == [b"one", b"two"]
    piped = await run("task", "download", task_id, "--to", "/dev/stdout", "--index", "0", tenant=tenant)
    assert (piped.code, piped.out) == (0, "one")
    nowhere = tmp_path / "missing" / "one.png"
    lost = await run("task", "download", task_id, "--to", str(nowhere), "--index", "0", tenant=tenant)
    assert (lost.code, lost.err.count("\n"), "No such file" in lost.err) == (1, 1, True)
    inside = await run("task", "download", task_id, "--to", f"{both.out.splitlines()[0]}/", tenant=tenant)
    assert (inside.code, inside.err.count("\n")) == (1, 1)


async def test_a_list_of_tasks_that_is_read_may_be_empty(tenant: Tenant) -> None:
    for command in (("get", "-"), ("wait", "-"), ("cancel", "-")):
        ran = await run("task", *command, "--json", tenant=tenant, given="\n")
        assert (ran.code, ran.json) == (0, {"items": []})


async def test_an_unknown_task_keeps_none_of_the_others_from_being_canceled(tenant: Tenant) -> None:
    """It ended the command, which did not say what it had canceled before."""
    made = [(await run("task", "submit", "m", "--json", tenant=tenant)).json["id"] for _ in range(2)]
    given = f"{made[0]}\n{uuid4()}\n{made[1]}\n"
    ran = await run("task", "cancel", "-", "--yes", "--json", tenant=tenant, given=given)
    assert (ran.code, ran.err.count("\n"), "task_unknown: " in ran.err) == (4, 1, True)
    assert [(item["id"], item["verdict"]) for item in ran.json["items"]] == [(id_, "canceled") for id_ in made]
    none = await run("task", "cancel", str(uuid4()), "--yes", "--json", tenant=tenant)
    assert (none.code, none.out, none.err.count("\n")) == (4, "", 1)


async def test_a_locked_task_keeps_none_of_the_others_from_being_canceled(api: Api, tenant: Tenant) -> None:
    """It ended the command, and those named behind it went on."""
    made = [await tenant.task() for _ in range(3)]
    async with api.pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM dispatch WHERE public_id = $1 FOR UPDATE", UUID(made[1]))
        ran = await run("task", "cancel", *made, "--yes", "--json", tenant=tenant)
    assert [(item["id"], item["verdict"]) for item in ran.json["items"]] == [(id_, "canceled") for id_ in made[::2]]
    assert ran.code == 4
    assert ran.err.startswith(f"sluiceway: {made[1]}: rows_locked: Somebody's transaction keeps rows locked")


async def test_a_wait_that_lasts_too_long_says_how_to_go_on(tenant: Tenant) -> None:
    ran = await run("task", "submit", "m", "--wait", "--timeout", "0", tenant=tenant)
    assert ran.code == 1
    assert "sluiceway task watch" in ran.err


async def test_models_are_applied_from_a_file_and_applying_twice_changes_nothing(
    tenant: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "models:\n- {name: one, base_url: 'http://127.0.0.1:9', max_concurrency: 3}\n"
        "---\nname: two\nbase_url: http://127.0.0.1:9\nadapter_config: {}\n"
    )
    dry = await run("models", "apply", "-f", str(file), "--dry-run", "--json", tenant=tenant)
    assert [model["action"] for model in dry.json["models"]] == ["create", "create"]
    assert (await run("models", "show", "one", tenant=tenant)).code == 4, "a dry run makes nothing"
    assert "created" in (await run("models", "apply", "-f", str(file), tenant=tenant)).out
    before = (await run("models", "show", "one", "--json", tenant=tenant)).json
    again = await run("models", "apply", "-f", str(file), tenant=tenant)
    assert again.out == "one: unchanged\ntwo: unchanged\n"
    file.write_text("name: one\nmax_concurrency: 5\napi_key: 'X-Key: very-secret'\n")
    changed = await run("models", "apply", "-f", "-", tenant=tenant, given=file.read_text())
    assert "max_concurrency: 3 -> 5" in changed.out
    assert "very-secret" not in changed.out + changed.err
    after = (await run("models", "show", "one", "--json", tenant=tenant)).json
    assert (after["max_concurrency"], after["version"] > before["version"], after["api_key"]) == (5, True, "********")
    shown = await run("models", "dry-run", "one", "--payload", '{"n": 1}', "--json", tenant=tenant)
    request = shown.json["steps"][0]["exchanges"][0]["request"]
    assert (request["url"], request["body"]) == ("http://127.0.0.1:9/", {"n": 1})
    assert (await run("models", "delete", "two", "--yes", "--json", tenant=tenant)).code == 0
    listed = await run("models", "list", "-o", "ids", tenant=tenant)
    assert len(listed.out.split()) == 2, "m and one are left"
    assert len((await run("models", "list", "--json", tenant=tenant)).json["items"]) == 2


async def test_only_what_was_applied_is_said_to_be(tenant: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("name: first\nbase_url: http://127.0.0.1:9\n---\nname: second\nbase_url: nonsense\n")
    told = await run("models", "apply", "-f", str(file), tenant=tenant)
    assert (told.code, told.out) == (4, "first: created\n")
    again = await run("models", "apply", "-f", str(file), "--json", tenant=tenant)
    assert [model["name"] for model in again.json["models"]] == ["first"]
    assert again.code == 4
    reader = Tenant(tenant.api, tenant.id, await tenant.api.key(tenant.id, ("read",)))
    file.write_text("name: third\nbase_url: http://127.0.0.1:9\n")
    refused = await run("models", "apply", "-f", str(file), tenant=reader)
    assert (refused.code, refused.out) == (4, "")


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("", "names no model"),
        ("name: m\nroute: 2026-01-01\n", "Quote"),
        ("name: m\ntimeout_seconds: .inf\n", "Quote"),
        ("name: m\nadapter_config: &loop [*loop]\n", "Quote"),
        ("[" * 5_000, "no YAML"),
    ],
)
async def test_what_no_request_can_carry_is_told_before_anything_is_sent(tenant: Tenant, file: str, says: str) -> None:
    ran = await run("models", "apply", "-f", "-", "--json", tenant=tenant, given=file)
    assert (ran.code, ran.out) == (2, "")
    assert says in " ".join(ran.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("task", "submit", "m", "-p", "{oops"), 2, "Quote text"),
        (("task", "submit", "m", "-p", "@/no/such/file"), 2, "cannot read"),
        (("task", "submit", "nobody"), 4, "model_unknown"),
        (("task", "submit", "m", "--deadline", "soon"), 4, "/deadline"),
        (("task", "get", "not-an-id"), 4, "task_unknown"),
        (("task", "nonsense"), 2, "No such command"),
        (("models", "apply", "-f", "/no/such/file"), 2, "cannot read"),
        (("models", "apply", "-f", "-"), 2, "has no name"),
        (("models", "show", "nobody"), 4, "model_unknown"),
        (("models", "show", "."), 4, "model_unknown"),
        (("task", "submit", "m", "-p", "NaN"), 2, "JSON"),
        (("task", "submit", "m", "-p", '"\\ud800"'), 2, "surrogates"),
        (("task", "submit", "m", "--idempotency-key", "\u00fc"), 2, "Idempotency-Key"),
    ],
)
async def test_what_is_wrong_is_said(tenant: Tenant, arguments: tuple[str, ...], code: int, says: str) -> None:
    ran = await run(*arguments, tenant=tenant, given="- 1\n")
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err


async def test_who_is_asked_and_by_whom_must_be_known(tenant: Tenant, tmp_path: Path) -> None:
    away = await run("task", "list", SLUICEWAY_URL=f"http://{NOWHERE}", SLUICEWAY_API_KEY="x")
    assert (away.code, "doctor" in away.err) == (3, True)
    stranger = await run("task", "list", tenant=tenant, SLUICEWAY_API_KEY="sw_wrong")
    assert (stranger.code, "SLUICEWAY_API_KEY" in stranger.err) == (4, True)
    nobody = await run("task", "list", tenant=tenant, SLUICEWAY_API_KEY="")
    assert (nobody.code, "keys create" in nobody.err) == (2, True)
    homeless = await run("task", "list", SLUICEWAY_API_KEY="x", SLUICEWAY_DATA=str(tmp_path))
    assert (homeless.code, "SLUICEWAY_URL" in homeless.err) == (2, True)
    assert "sluiceway up" in homeless.err
    key = tmp_path / "key"
    key.write_text(f"{tenant.key}\n")
    by_file = await run("task", "list", "--json", "--key-file", str(key), tenant=tenant, SLUICEWAY_API_KEY="")
    assert (by_file.code, by_file.json) == (0, {"items": []})
    reader = Tenant(tenant.api, tenant.id, await tenant.api.key(tenant.id, ("read",)))
    for url in ("localhost:8080", "http://h:port", "http://h:99999"):
        nowhere = await run("task", "list", SLUICEWAY_URL=url, SLUICEWAY_API_KEY="x")
        assert (nowhere.code, "http://host:port" in nowhere.err) == (2, True)
    unsendable = await run("task", "list", tenant=tenant, SLUICEWAY_API_KEY="sw_\u00fc")
    assert (unsendable.code, "key" in unsendable.err) == (2, True)
    key.write_bytes(b"\xff")
    unreadable = await run("task", "list", "--key-file", str(key), tenant=tenant)
    assert (unreadable.code, str(key) in unreadable.err) == (2, True)
    forbidden = await run("task", "submit", "m", tenant=reader)
    assert (forbidden.code, "keys create" in forbidden.err) == (4, True)


async def test_a_closed_pipe_is_no_error(tenant: Tenant) -> None:
    for _ in range(30):
        await tenant.submit()
    own = {**os.environ, "SLUICEWAY_URL": tenant.api.url, "SLUICEWAY_API_KEY": tenant.key}
    command = f"{sys.executable} -m services.cli task list --json | head -c 1"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"set -o pipefail; {command}", env=own,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (out, err) == (b"{", b"")


async def test_every_command_says_what_it_does() -> None:
    load_commands()
    tree = typer.main.get_command(app)
    leaves = dict(_leaves("", tree))
    assert {"task submit", "models apply", "keys create", "audit", "doctor", "up"} <= leaves.keys()
    assert [name for name, command in leaves.items() if not (command.help or "").strip()] == []
    ran = await run("task", "submit", "--help")
    assert (ran.code, "Example:" in ran.out) == (0, True)


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        whole = f"{path} {name}".strip()
        if getattr(child, "commands", None):
            yield from _leaves(whole, child)
        else:
            yield whole, child
