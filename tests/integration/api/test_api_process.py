"""`python -m services.api` and the commands around it, as an operator meets them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import Any
from unittest.mock import patch

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from services.cli import config, keys, migrate
from services.cli.app import app
from tests.support.api import DEAD_POSTGRES, Api, until_true
from tests.support.api_process import api_process, environment
from tests.support.cli_schemas import assert_as_promised

COMMANDS = (config, keys, migrate)  # imported for what they register
pytestmark = pytest.mark.asyncio(loop_scope="package")


async def command(stores: tuple[str, str], *arguments: str) -> tuple[int, str, str]:
    """A command in a thread of this process: starting another one for each takes seconds. Logging stays as it is."""
    with patch("libs.common.runtime.logging.configure_logging"):
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=environment(stores))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert_as_promised(arguments, result.stdout)
    return result.exit_code, result.stdout, result.stderr


async def test_keys_are_made_listed_and_revoked(api: Api, stores: tuple[str, str]) -> None:
    code, out, _ = await command(stores, "keys", "create", "--tenant", "-77", "--name", "shop", "--json")
    assert code == 0
    made = json.loads(out)
    assert made["key"].startswith("sw_")
    assert len(made["key"]) == 46
    assert made == {**made, "tenant": "-77", "name": "shop", "scopes": ["submit", "read", "admin"]}
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert (await api.client.get("/v1/tasks", headers=headers)).status_code == 200
    (row,) = await api.sql("SELECT digest FROM api_key WHERE id = $1", made["id"])
    assert made["key"].encode() not in row["digest"]

    code, out, _ = await command(stores, "keys", "list", "--tenant", "-77", "--json")
    (listed,) = json.loads(out)["items"]
    assert (listed["id"], listed["revoked_at"]) == (made["id"], None)
    assert made["key"] not in out

    assert (await command(stores, "keys", "revoke", str(made["id"]), "--yes", "--json"))[0] == 0
    assert (await command(stores, "keys", "revoke", str(made["id"]), "--yes"))[0] == 1

    async def refused() -> bool:
        return (await api.client.get("/v1/tasks", headers=headers)).status_code == 401

    await until_true(refused, seconds=2)
    assert (await command(stores, "keys", "create", "--tenant", "1", "--scopes", "fly"))[0] == 2


async def test_migrate_and_config(stores: tuple[str, str]) -> None:
    code, out, _ = await command(stores, "migrate", "--json")
    assert (code, json.loads(out)) == (0, {"revision": "0001"})
    code, out, err = await command((DEAD_POSTGRES, stores[1]), "migrate")
    assert code == 3
    assert "SLUICEWAY_DATABASE_URL" in err
    assert "Traceback" not in err
    code, out, _ = await command(stores, "config", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["SLUICEWAY_SECRET_KEYS"] == "********"
    password = stores[0].partition("@")[0].rpartition(":")[2]
    assert password not in out


async def test_a_task_passes_and_the_process_leaves_gracefully(api: Api, stores: tuple[str, str]) -> None:
    tenant = await api.tenant()
    headers = {"Authorization": f"Bearer {tenant.key}"}
    async with (
        api_process(stores) as (process, url),
        httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, verify=False, timeout=20) as client,
    ):
        body: dict[str, Any] = {"name": "m", "base_url": "http://127.0.0.1:9"}
        assert (await client.post("/v1/models", json=body)).status_code == 201
        created = await client.post("/v1/tasks", json={"model": "m", "payload": 1})
        assert created.status_code == 202
        location = created.headers["location"]
        waiting = asyncio.create_task(client.get(location, headers={"Prefer": "wait=60"}))

        listening = [each for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"]
        assert [each.laddr.port for each in listening] == [int(url.rpartition(":")[2])]
        metrics = (await client.get("/metrics")).text
        assert 'sluiceway_http_requests_total{method="POST",route="/v1/tasks",status="202"} 1.0' in metrics
        assert "sluiceway_tasks_created_total{" in metrics
        process.send_signal(signal.SIGTERM)
        answer = await waiting
        assert answer.status_code == 200
        assert answer.json()["status"] == "submitted"
        # Still listening for a moment, so that balancers and keep-alive clients can leave.
        drained = await client.get("/readyz")
        assert drained.status_code == 503
        assert drained.headers["connection"] == "close"
        assert (await client.get(location)).status_code == 200
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_setting_that_cannot_be_used_ends_the_process_and_is_named(stores: tuple[str, str]) -> None:
    async def end(name: str, value: str) -> tuple[str, int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.api",
            env=environment(stores, **{"SLUICEWAY_API_PORT": "0", name: value}),
            stderr=subprocess.PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(), 60)
        return name, process.returncode, err.decode()

    broken = {
        "SLUICEWAY_SECRET_KEYS": "",
        "SLUICEWAY_EGRESS_ALLOW": "10.0.0.0/99",
        "SLUICEWAY_FAILPOINTS": "api/x:1:exit",
        "SLUICEWAY_TRUSTED_PEERS": "10.0.0.1/8",
        "SLUICEWAY_DEFAULT_IDENTITY": "shop",
        "SLUICEWAY_STAT_READERS": "1,x",
        "SLUICEWAY_USER_INFO_TENANT": ",",
    }
    for name, code, err in await asyncio.gather(*[end(name, value) for name, value in broken.items()]):
        assert code == 2, name
        (line,) = [line for line in err.splitlines() if not line.startswith("{")]
        assert line.startswith(f"sluiceway: {name}: ")
