"""`sluiceway secrets rotate` on a real database, while others write."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.database import Database, open_database
from libs.common.adapters.postgres.models import PostgresModels
from libs.common.adapters.postgres.sealed import sealed_places
from libs.common.adapters.postgres.tasks import PostgresTasks
from libs.common.adapters.secrets import KeyRing
from libs.common.domain.model import Model
from libs.common.operations.rotation import Rotation
from libs.common.ports_secrets import SealError
from libs.common.ports_tasks import NewTask
from tests.support.cli_schemas import assert_as_promised
from tests.support.nursery import run_command

OLD = "old:" + base64.b64encode(b"o" * 32).decode()
NEW = "new:" + base64.b64encode(b"n" * 32).decode()
BOTH = f"{NEW},{OLD}"


@dataclass
class Safe:
    """A database with sealed values in it."""

    url: str
    database: Database

    async def model(self, ring: KeyRing, clear: bytes = b"X-Key:1", tenant: int = 7) -> Model:
        fields = {"name": uuid4().hex, "base_url": "http://m", "bindings": ring.seal(clear, f"tenant:{tenant}")}
        return await PostgresModels(self.database).create(tenant, "c", fields)

    async def secret(self, ring: KeyRing, model: Model, clear: bytes = b"{}") -> int:
        task = NewTask(uuid4(), model.tenant_id, model.lane, b"{}", creator="c")
        (created,) = await PostgresTasks(self.database).create_many([task])
        sealed = ring.seal(clear, f"task:{task.public_id}")
        await self.database.pool.execute("INSERT INTO task_secret VALUES ($1, $2)", created.id, sealed)  # type: ignore[union-attr]
        return int(created.id)  # type: ignore[union-attr]

    async def keys(self) -> set[str]:
        """The ids of all keys that anything is sealed by."""
        rows = await self.database.pool.fetch(
            "SELECT bindings AS b FROM model UNION ALL SELECT sealed FROM task_secret"
        )
        return {KeyRing(BOTH).key_of(row["b"]) for row in rows}

    async def run(self, *arguments: str, keys: str = BOTH, **settings: str) -> tuple[int, dict[str, Any], str]:
        ours = {"database_url": self.url, "secret_keys": keys, **settings}
        environment = {**os.environ, **{f"SLUICEWAY_{name.upper()}": value for name, value in ours.items() if value}}
        command = ("secrets", "rotate", "--json", *arguments)
        code, out, errors = await run_command(command, environment)
        assert_as_promised(command, out)
        return code, json.loads(out) if out else {}, errors.decode()


@pytest.fixture
async def safe(database_url: str) -> AsyncIterator[Safe]:
    async with open_database(database_url) as database:
        yield Safe(database_url, database)


async def test_everything_gets_sealed_by_the_first_key_once(safe: Safe) -> None:
    model = await safe.model(KeyRing(OLD), b"X-Key:secret")
    await safe.model(KeyRing(NEW))
    task = await safe.secret(KeyRing(OLD), model, b"credential")
    await safe.database.pool.execute(
        "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES (7, 'tasks', '', $1)",
        KeyRing(OLD).seal(b"whsec", "webhook:7"),
    )
    code, report, _ = await safe.run("--dry-run")
    assert (code, report["left"], await safe.keys()) == (0, 3, {"old", "new"})
    assert report["places"]["model.bindings"]["keys"] == {"new": 1, "old": 1}
    code, report, _ = await safe.run()
    assert (code, report["left"], report["key"]) == (0, 0, "new")
    assert [place["resealed"] for place in report["places"].values()] == [1, 1, 1]
    after = await PostgresModels(safe.database).find(7, model.name)
    assert after is not None
    assert after.version > model.version  # caches notice, and a change made from the old bytes loses
    assert KeyRing(NEW).open(after.bindings or b"", "tenant:7") == b"X-Key:secret"
    (row,) = await safe.database.pool.fetch(
        "SELECT s.sealed, t.public_id FROM task_secret s JOIN task t ON t.id = s.task_id WHERE t.id = $1", task
    )
    assert KeyRing(NEW).open(row["sealed"], f"task:{row['public_id']}") == b"credential"
    assert KeyRing(NEW).open(await safe.database.pool.fetchval("SELECT secrets FROM webhook"), "webhook:7") == b"whsec"
    code, report, _ = await safe.run()
    assert (code, [place["resealed"] for place in report["places"].values()]) == (0, [0, 0, 0])


async def test_a_change_made_from_the_old_bytes_does_not_bring_them_back(safe: Safe) -> None:
    before = await safe.model(KeyRing(OLD))
    await safe.run()
    assert await PostgresModels(safe.database).update(before, "c", {"remark": "late"}) is None
    assert await safe.keys() == {"new"}


async def test_what_services_write_meanwhile_is_never_lost(safe: Safe) -> None:
    """Every model is changed, and secrets come and go, between the reading of a page and its writing."""
    old, ring = KeyRing(OLD), KeyRing(BOTH)
    models = [await safe.model(old, f"X-Key:{n}".encode()) for n in range(6)]
    gone = await safe.secret(old, models[0])
    places = sealed_places(safe.database)
    bindings, credentials, _ = places
    written: dict[str, bytes] = {}

    class Meddled:
        """The place of bindings, with a writer that is faster than its replace in the first two walks."""

        name = bindings.name
        times = 0

        async def page(self, after: int, limit: int) -> Any:
            return await bindings.page(after, limit)

        async def replace(self, values: Any) -> set[int]:
            if self.times < 2:
                self.times += 1
                await safe.database.pool.execute("DELETE FROM task_secret WHERE task_id = $1", gone)
                for model in models[: 2 * self.times]:
                    current = await PostgresModels(safe.database).find(7, model.name)
                    assert current is not None
                    clear = f"X-Key:{model.name}-{self.times}".encode()
                    fields = {"bindings": old.seal(clear, "tenant:7")}
                    assert await PostgresModels(safe.database).update(current, "c", fields)
                    written[model.name] = clear
            return await bindings.replace(values)

    reports = await Rotation(ring, [Meddled(), credentials]).run(dry_run=False)
    assert [report.left for report in reports.values()] == [0, 0]
    assert await safe.keys() == {"new"}
    for n, model in enumerate(models):
        found = await PostgresModels(safe.database).find(7, model.name)
        assert found is not None
        clear = KeyRing(NEW).open(found.bindings or b"", "tenant:7")
        assert clear == written.get(model.name, f"X-Key:{n}".encode())
    assert await safe.database.pool.fetchval("SELECT count(*) FROM task_secret") == 0


async def test_a_run_that_was_killed_is_repeated(safe: Safe) -> None:
    model = await safe.model(KeyRing(OLD))
    for _ in range(3):
        await safe.secret(KeyRing(OLD), model)
    code, _, _ = await safe.run(failpoints="cli/before-reseal:2:exit")
    assert (code, await safe.keys()) == (137, {"old", "new"})
    code, report, _ = await safe.run()
    assert (code, report["left"], await safe.keys()) == (0, 0, {"new"})


async def test_places_are_walked_in_pages_and_pass_over_what_holds_nothing(safe: Safe) -> None:
    ring = KeyRing(OLD)
    models = [await safe.model(ring) for _ in range(2)]
    await PostgresModels(safe.database).create(7, "c", {"name": "without a key", "base_url": "http://m"})
    tasks = [await safe.secret(ring, model) for model in models]
    for tenant in (7, 8):
        sealed = ring.seal(b"whsec", f"webhook:{tenant}")
        statement = "INSERT INTO webhook (tenant_id, kind, url, secrets) VALUES ($1, 'tasks', '', $2)"
        await safe.database.pool.execute(statement, tenant, sealed)
    webhooks = [row["id"] for row in await safe.database.pool.fetch("SELECT id FROM webhook ORDER BY id")]
    for place, ids in zip(sealed_places(safe.database), ([m.id for m in models], tasks, webhooks), strict=True):
        walked, after = list[int](), 0
        while page := await place.page(after, 1):
            (value,) = page
            assert ring.open(value.sealed, value.owner)
            after = value.id
            walked.append(after)
            assert walked == ids[: len(walked)], place.name
        assert walked == ids, place.name
        assert [value.id for value in await place.newest(9)] == ids[::-1], place.name


async def test_what_no_key_opens_is_named_and_left(safe: Safe) -> None:
    stranger = KeyRing("gone:" + base64.b64encode(b"g" * 32).decode())
    model = await safe.model(stranger)
    await safe.model(KeyRing(OLD))
    code, report, _ = await safe.run()
    assert (code, report["left"]) == (1, 1)
    (named,) = report["places"]["model.bindings"]["unreadable"]
    assert named.startswith(f"tenant:7, id {model.id}: no key 'gone'"), "a tenant has many models"
    after = await PostgresModels(safe.database).find(7, model.name)
    assert after is not None
    assert after.bindings == model.bindings
    with pytest.raises(SealError):
        KeyRing(BOTH).open(after.bindings or b"", "tenant:7")


@pytest.mark.parametrize("written", [f"{BOTH}\n", f"\ufeff{NEW},\r\n{OLD}\r\n"])
async def test_keys_come_from_a_mounted_file_too(safe: Safe, tmp_path: Path, written: str) -> None:
    await safe.model(KeyRing(OLD))
    mounted = tmp_path / "keys"
    mounted.write_bytes(written.encode())
    code, report, errors = await safe.run(keys="", secret_keys_file=str(mounted))
    assert (code, report.get("left")) == (0, 0), errors


@pytest.mark.parametrize(
    ("keys", "said"), [("", "is empty"), ("a:eA==", "32 are needed"), (f"{OLD},{OLD}", "same id, 'old'")]
)
async def test_keys_that_cannot_be_used_are_said(safe: Safe, keys: str, said: str) -> None:
    code, _, errors = await safe.run(keys=keys)
    assert (code, said in errors) == (2, True)
