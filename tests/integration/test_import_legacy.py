"""The import from an old Go gateway, as a command on real servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from libs.common.adapters.postgres.statements import load_statements
from libs.common.adapters.secrets import KeyRing
from tests.support.cli_schemas import assert_as_promised
from tests.support.legacy import NOW, Legacy, open_legacy_database
from tests.support.nursery import run_command

KEYS = "t:" + base64.b64encode(b"t" * 32).decode()
_TABLES = (
    "tenant", "model", "lane", "task", "task_input", "task_secret", "dispatch", "attempt", "history", "dead_task",
    "event", "op_log", "model_stat", "cleaned", "legacy_import", "legacy_model", "legacy_stat", "legacy_note",
)  # fmt: skip


@dataclass
class Desk:
    """Both databases, and the command between them."""

    legacy: Legacy
    connection: Any
    environment: dict[str, str]

    async def run(self, *arguments: str, **settings: str) -> tuple[int, dict[str, Any], str]:
        """`import-legacy --json`: exit code, what it printed, what it said beside."""
        code, out, errors = await run_command(self._command(*arguments), self._environment(settings))
        assert_as_promised(("import-legacy", "--json"), out)
        return code, json.loads(out) if out else {}, errors.decode()

    async def start(self, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli", *self._command(*arguments), env=self._environment(settings),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    def _command(self, *arguments: str) -> tuple[str, ...]:
        return ("import-legacy", "--json", "--dsn", self.legacy.url, *arguments)

    def _environment(self, settings: dict[str, str]) -> dict[str, str]:
        return self.environment | {f"SLUICEWAY_{name.upper()}": value for name, value in settings.items()}

    async def sql(self, query: str, *arguments: Any) -> list[Any]:
        return list(await self.connection.fetch(query, *arguments))

    async def task(self, id_: int) -> Any:
        (row,) = await self.sql(
            "SELECT t.*, f.status AS shown, d.state AS state, d.class AS class, d.position AS position,"
            " d.retries AS left_retries, d.attempt AS begun, d.due_at, convert_from(i.payload, 'UTF8') AS payload"
            " FROM task t JOIN task_face f ON f.id = t.id JOIN task_input i ON i.task_id = t.id"
            " LEFT JOIN dispatch d ON d.id = t.id WHERE t.id = $1",
            id_,
        )
        return row

    async def everything(self) -> dict[str, list[Any]]:
        """All rows of our tables, to compare."""
        found = {}
        for table in _TABLES:
            found[table] = sorted(row["r"] for row in await self.sql(f"SELECT to_jsonb(x)::text AS r FROM {table} x"))
        sequences = await self.sql("SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")
        return {**found, "sequences": [tuple(row) for row in sequences]}

    async def audit(self) -> dict[str, Any]:
        """The invariants that PostgreSQL alone can prove."""
        violations = {}
        statements = load_statements()
        limits = {"audit_orphans": [60.0], "audit_sends": [20.0], "audit_unclaimed": [60.0]}
        for name in (
            "audit_open_without_row", "audit_row_without_open", "audit_orphans", "audit_attempt_numbers", "audit_ends",
            "audit_versions", "audit_times", "audit_sends", "audit_unclaimed", "audit_dead",
        ):  # fmt: skip
            rows = await self.sql(statements[name], 0, 2**62, *limits.get(name, []))
            violations[name] = [tuple(row) for row in rows]
        violations["audit_statistics"] = [tuple(row) for row in await self.sql(statements["audit_statistics"])]
        ends = await self.sql(statements["audit_finals"], 0, 2**62, datetime(1970, 1, 1, tzinfo=UTC))
        violations["audit_finals"] = [row["public_id"] for row in ends]
        return {name: found for name, found in violations.items() if found}


@pytest.fixture(params=["newer", "older"])
async def any_legacy(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Legacy]:
    async with open_legacy_database(database_url, older=request.param == "older") as legacy:
        yield legacy


@pytest.fixture
async def legacy(database_url: str) -> AsyncIterator[Legacy]:
    async with open_legacy_database(database_url) as opened:
        yield opened


async def open_desk(legacy: Legacy, database_url: str, redis_url: str) -> Desk:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")} | {
        "SLUICEWAY_DATABASE_URL": database_url,
        "SLUICEWAY_REDIS_URL": redis_url,
        "SLUICEWAY_SECRET_KEYS": KEYS,
    }
    return Desk(legacy, await asyncpg.connect(database_url), environment)


@pytest.fixture
async def desk(legacy: Legacy, database_url: str, redis_url: str) -> AsyncIterator[Desk]:
    opened = await open_desk(legacy, database_url, redis_url)
    yield opened
    await opened.connection.close()


@pytest.fixture
async def any_desk(any_legacy: Legacy, database_url: str, redis_url: str) -> AsyncIterator[Desk]:
    opened = await open_desk(any_legacy, database_url, redis_url)
    yield opened
    await opened.connection.close()


async def fill(legacy: Legacy) -> dict[str, int]:
    """Every kind of row once."""
    recent = datetime.now(ZoneInfo("UTC")).replace(tzinfo=None)
    timeout = {"timeout_ms": 1_500} if legacy.older else {"timeout_seconds": 2}
    newer = {} if legacy.older else {"retry_queue_max_seconds": 30, "expected_seconds": 4}
    ids = {
        "model": await legacy.model(
            "m", api_key='X-API-Key:"k,1",n:1', retry_times=2, queue_limit=-1, max_concurrency=3, **timeout, **newer
        ),
        "deleted_model": await legacy.model("gone", deleted_at=NOW),
        "waiting": await legacy.task(0, payload={"a": 1.5}, input_ref="ref"),
        "running": await legacy.task(1, retry_count=1, started_at=NOW),
        "success": await legacy.task(2),
        "fetched": await legacy.task(4),
        "dead": await legacy.task(3, retry_count=2, error_msg="broken"),
        "retry": await legacy.task(3, retry_count=1, error_msg="again", finished_at=recent, updated_at=recent),
        "given_up": await legacy.task(3, retry_count=0, error_msg="long ago"),
        "deleted_task": await legacy.task(0, deleted_at=NOW),
        "homeless": await legacy.task(2, model="gone"),
    }
    public = await legacy.connection.fetchval("SELECT task_id FROM asynch_task WHERE id = $1", ids["waiting"])
    ids["line"] = await legacy.line(task_id=public, request_payload={"x": 1}, response_payload={"taskId": public})
    await legacy.line(deleted_at=NOW)
    await legacy.count(NOW, 40)
    await legacy.count(NOW - timedelta(days=1), 2, creator="other")
    return ids


async def test_every_kind_of_row_arrives_from_newer_and_older_tables(any_desk: Desk) -> None:
    desk, ids = any_desk, await fill(any_desk.legacy)
    code, report, errors = await desk.run("--timezone", "Asia/Shanghai")
    assert code == 0, errors
    assert {name: (table["rows"], table["deleted"], table["copied"]) for name, table in report["tables"].items()} == {
        "asynch_models": (1, 1, 1),
        "asynch_op_log": (1, 1, 1),
        "asynch_task": (8, 1, 8),
        "asynch_model_stat": (2, 0, 2),
    }
    assert "asynch_task: 8 of 8" in errors
    (model,) = await desk.sql("SELECT * FROM model WHERE deleted_at IS NULL")
    assert model["id"] == ids["model"]
    assert (model["timeout_seconds"], model["queue_limit"], model["max_concurrency"]) == (2, 2_147_483_647, 3)
    assert model["retry_queue_max_seconds"] == (0 if desk.legacy.older else 30)
    assert KeyRing(KEYS).open(model["bindings"], "tenant:7") == b'X-API-Key:"k,1",n:1'
    assert report["models_without_limit"] == [{"id": str(ids["model"]), "tenant": "7", "model": "m"}]
    assert ("older" in report["tables"]["asynch_task"]["columns"]) is desk.legacy.older

    waiting, running = await desk.task(ids["waiting"]), await desk.task(ids["running"])
    assert (waiting["shown"], waiting["state"], waiting["begun"], waiting["payload"]) == (1, 0, 0, '{"a": 1.5}')
    assert (waiting["biz_name"], waiting["input_ref"]) == ("biz", "ref")
    assert waiting["created_at"] == NOW.replace(tzinfo=ZoneInfo("Asia/Shanghai"))
    assert (running["shown"], running["state"], running["begun"], running["left_retries"]) == (1, 0, 2, 1)
    success, fetched = await desk.task(ids["success"]), await desk.task(ids["fetched"])
    assert (success["shown"], success["fetched_at"], success["expire_at"]) == (6, None, None)
    assert (success["oss_file"], success["file_size"]) == ("http://files.example/a.mp3", 7)
    assert fetched["shown"] == 6
    assert fetched["fetched_at"] is not None
    assert fetched["expire_at"] == (NOW + timedelta(days=400)).replace(tzinfo=ZoneInfo("Asia/Shanghai"))
    dead, retry, given_up = [await desk.task(ids[name]) for name in ("dead", "retry", "given_up")]
    assert (dead["shown"], dead["state"], dead["error_message"]) == (7, None, "broken")
    assert (retry["shown"], retry["state"], retry["left_retries"]) == (7, 3, 2)
    assert given_up["state"] is None
    assert {row["task_id"] for row in await desk.sql("SELECT task_id FROM dead_task")} == {ids["dead"], ids["given_up"]}
    homeless = await desk.task(ids["homeless"])
    (stand_in,) = await desk.sql(
        "SELECT m.*, l.closed FROM model m JOIN lane l ON l.model_id = m.id WHERE m.deleted_at IS NOT NULL"
    )
    assert (stand_in["id"], stand_in["closed"], stand_in["name"]) == (homeless["model_id"], True, "gone")
    assert report["notes"] == {"no_model": 1}
    (line,) = await desk.sql("SELECT * FROM op_log")
    assert (line["id"], line["biz_name"], str(line["task_id"])) == (ids["line"], "biz", str(waiting["public_id"]))
    assert await desk.sql("SELECT sum(request_count) FROM model_stat") == [(42,)]
    for sequence in ("task_ids", "model_ids", "op_log_id_seq"):
        assert await desk.connection.fetchval("SELECT nextval($1::regclass)", sequence) > max(ids["model"], 1)
    assert await desk.connection.fetchval("SELECT nextval('task_ids')") > ids["homeless"]
    assert await desk.audit() == {}


async def test_a_second_run_changes_nothing_and_a_grown_count_is_added_once(desk: Desk) -> None:
    await fill(desk.legacy)
    await desk.run()
    before = await desk.everything()
    code, report, _ = await desk.run()
    assert code == 0
    assert {table["copied"] for table in report["tables"].values()} == {0}
    before_this = {name: table["copied_before"] for name, table in report["tables"].items()}
    assert (before_this["asynch_task"], before_this["asynch_model_stat"]) == (8, 2)
    assert before_this["asynch_models"] == report["tables"]["asynch_models"]["rows"]  # the stand-in is none of them
    assert await desk.everything() == before
    await desk.legacy.count(NOW, 45)
    await desk.sql("UPDATE model_stat SET request_count = request_count + 3 WHERE creator = 'c'")  # calls made here
    await desk.sql("UPDATE cleaned SET calls = calls + 3 WHERE creator = 'c'")
    late = await desk.legacy.task(0)
    _, report, _ = await desk.run()
    assert (report["tables"]["asynch_model_stat"]["copied"], report["tables"]["asynch_task"]["copied"]) == (1, 1)
    assert await desk.sql("SELECT request_count FROM model_stat WHERE creator = 'c'") == [(48,)]
    assert (await desk.task(late))["state"] == 0
    assert await desk.audit() == {}


async def test_a_task_that_was_cleaned_here_does_not_come_back(desk: Desk) -> None:
    await desk.legacy.model()
    gone = await desk.legacy.task(0)
    await desk.run()
    for table, column in (("task", "id"), ("task_input", "task_id"), ("dispatch", "id"), ("history", "task_id")):
        await desk.sql(f"DELETE FROM {table} WHERE {column} = $1", gone)
    await desk.run()
    assert await desk.sql("SELECT 1 FROM task") == []


async def test_a_dry_run_counts_and_changes_nothing(desk: Desk) -> None:
    await fill(desk.legacy)
    await desk.legacy.model("inner", base_url="http://10.1.2.3:80")
    await desk.legacy.task(0, payload={"authorization": "Bearer top-secret-1", "text": "x" * 100})
    before = await desk.everything()
    code, report, errors = await desk.run("--dry-run", secret_keys="")
    assert code == 0, errors
    assert await desk.everything() == before
    assert report["dry_run"] is True
    assert {name: table["copied"] for name, table in report["tables"].items()} == {
        "asynch_models": 2, "asynch_op_log": 1, "asynch_task": 9, "asynch_model_stat": 2,
    }  # fmt: skip
    assert report["states"] == {"0": 2, "1": 1, "2": 2, "3": 3, "4": 1}
    assert {host["host"] for host in report["hosts_not_allowed"]} == {"10.1.2.3", "127.0.0.1"}
    assert "SLUICEWAY_EGRESS_ALLOW=10.1.2.3:80" in json.dumps(report["hosts_not_allowed"])
    assert len(report["payloads"]) == 3
    assert "top-secret-1" not in json.dumps(report)
    assert any("SLUICEWAY_OSS_AUTHORIZATION" in warning for warning in report["warnings"])
    assert any("--payload-path" in warning for warning in report["warnings"])
    _, report, _ = await desk.run("--dry-run", egress_allow="10.0.0.0/8,127.0.0.1", oss_authorization="Bearer service")
    assert report["hosts_not_allowed"] == []
    assert not any("SLUICEWAY_OSS_AUTHORIZATION" in warning for warning in report["warnings"])


@pytest.mark.parametrize("path", ["request.body", "/request/body"])
async def test_a_wrapped_payload_is_unwrapped_and_its_credentials_are_sealed(desk: Desk, path: str) -> None:
    def wrapped(body: Any, token: str) -> dict[str, Any]:
        headers = {"Authorization": [f"Bearer {token}"], "x-user-info": '{"tenantId":7,"userName":"ann"}'}
        return {"request": {"headers": headers, "body": body}}

    await desk.legacy.model()
    plain = await desk.legacy.task(0, payload=wrapped({"n": 1.0, "big": 10**30}, "canary-open"))
    text = await desk.legacy.task(1, payload=wrapped('{"as": "text"}', "canary-text"))
    done = await desk.legacy.task(2, payload=wrapped({"n": 2}, "canary-done"))
    bare = await desk.legacy.task(0, payload={"n": 3})
    empty = await desk.legacy.task(0, payload={"request": {"headers": {"Authorization": "Bearer canary-empty"}}})
    listed = await desk.legacy.task(0, payload=[{"n": 5}])
    inside = await desk.legacy.task(0, payload={"request": [{"Authorization": "Bearer canary-list"}]})
    twice = await desk.legacy.task(0, payload=json.dumps(wrapped({"n": 4}, "canary-twice")))
    await desk.legacy.line(
        request_payload=wrapped({"n": 1}, "canary-log"),
        response_payload={"echo": 'X-User-Info: {"userName":"canary-log"}'},
        error_msg="refused Authorization: Bearer canary-log",
    )  # fmt: skip
    code, report, _ = await desk.run("--payload-path", path)
    assert code == 0
    payloads = [(await desk.task(id_))["payload"] for id_ in (plain, text, done, bare, listed, empty, inside, twice)]
    assert payloads == [
        f'{{"n": 1.0, "big": {10**30}}}', '{"as": "text"}', '{"n": 2}', '{"n": 3}', '[{"n": 5}]', "", "", "",
    ]  # fmt: skip
    secrets = {row["task_id"]: row["sealed"] for row in await desk.sql("SELECT * FROM task_secret")}
    assert set(secrets) == {plain, text, empty, inside, twice}
    opened = KeyRing(KEYS).open(secrets[plain], f"task:{(await desk.task(plain))['public_id']}")
    assert json.loads(opened) == {
        "authorization": "Bearer canary-open",
        "x_user_info": '{"tenantId":7,"userName":"ann"}',
    }
    assert report["notes"] == {"not_wrapped": 5}
    assert report["tasks"]["open_without_credential"] == 2
    whole = json.dumps({table: rows for table, rows in (await desk.everything()).items() if table != "task_secret"})
    assert "canary" not in whole
    assert "canary" not in json.dumps(report)
    assert await desk.audit() == {}


async def test_the_queue_keeps_its_order_with_head_jumpers_first_and_new_tasks_last(desk: Desk) -> None:
    await desk.legacy.model()
    late = await desk.legacy.task(0, enqueue_at=NOW)
    early = await desk.legacy.task(0, enqueue_at=NOW - timedelta(minutes=5))
    jumper = await desk.legacy.task(0, enqueue_at=NOW - timedelta(days=36_525), retry_count=1)
    twin = await desk.legacy.task(0, enqueue_at=NOW)
    await desk.run()
    rows = await desk.sql("SELECT id FROM dispatch ORDER BY class, priority, position, ctid")
    assert [row["id"] for row in rows] == [jumper, early, late, twin]
    assert [(await desk.task(id_))["class"] for id_ in (jumper, early)] == [0, 1]
    assert await desk.connection.fetchval("SELECT max(position) < 0 FROM dispatch")


async def test_an_import_that_is_killed_goes_on_where_it_was(desk: Desk) -> None:
    await desk.legacy.model()
    await desk.legacy.many_tasks(2_500)
    for strike in (
        "cli/import-before-commit:3:exit",
        "cli/import-after-commit:1:exit",
        "cli/import-before-commit:2:exit",
    ):
        code, _, _ = await desk.run(failpoints=strike)
        assert code == 137
        assert await desk.audit() == {}
    assert await desk.connection.fetchval("SELECT count(*) FROM task") == 2_000
    code, report, _ = await desk.run()
    assert (code, report["tables"]["asynch_task"]["copied"]) == (0, 500)
    assert await desk.connection.fetchval("SELECT count(DISTINCT public_id) FROM dispatch") == 2_500
    assert await desk.audit() == {}


async def test_two_imports_at_once_copy_each_row_once(desk: Desk) -> None:
    await desk.legacy.model()
    await desk.legacy.many_tasks(3_000, state=0)
    slow = {"failpoints": "cli/import-before-commit:*:delay=200"}
    runs = await asyncio.gather(desk.run(**slow), desk.run(**slow))
    assert sorted(code for code, _, _ in runs) == [0, 1]
    (lost,) = [errors for code, _, errors in runs if code == 1]
    assert "another import" in lost
    assert "Traceback" not in lost
    code, _, _ = await desk.run()
    assert code == 0
    assert await desk.connection.fetchval("SELECT count(*) FROM task") == 3_000
    assert await desk.audit() == {}


async def test_what_cannot_be_taken_over_as_it_is_is_listed(desk: Desk) -> None:
    await desk.legacy.model()
    same = uuid4()
    odd = await desk.legacy.task(0, task_id="order-17")
    bare = await desk.legacy.task(0, task_id=same.hex)
    twin = await desk.legacy.task(0, task_id=str(same))
    strange = await desk.legacy.task(9)
    code, report, _ = await desk.run()
    assert code == 3
    noted = {(note["id"], note["code"]) for note in report["noted"]}
    assert noted == {
        (str(odd), "task_id_derived"), (str(bare), "task_id_respelled"),
        (str(twin), "same_task_id"), (str(strange), "unknown_state"),
    }  # fmt: skip
    assert report["left_out"] == 2
    assert (await desk.task(bare))["public_id"] == same
    derived = (await desk.task(odd))["public_id"]
    assert any(str(derived) in note["detail"] for note in report["noted"])
    assert isinstance(derived, UUID)
    again, report, _ = await desk.run()
    assert (again, report["left_out"]) == (3, 2)


async def test_ids_that_are_not_positive_are_taken_over_under_new_ones(desk: Desk) -> None:
    await desk.legacy.model()
    for id_ in (0, -5):
        await desk.legacy.task(2, id=id_)
        await desk.legacy.line(id=id_)
    for arguments in (["--dry-run"], []):
        code, report, _ = await desk.run(*arguments)
        assert code == 0
        assert [report["tables"][f"asynch_{name}"]["copied"] for name in ("task", "op_log")] == [2, 2]
    assert {note["id"]: note["code"] for note in report["noted"]} == {"0": "renumbered", "-5": "renumbered"}
    assert all(row["id"] > 0 for row in await desk.sql("SELECT id FROM task UNION ALL SELECT id FROM op_log"))
    assert (await desk.run())[1]["tables"]["asynch_task"]["copied"] == 0


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
async def test_times_that_were_never_set_and_a_missing_state_stop_nothing(desk: Desk, zone: str) -> None:
    never = datetime(1, 1, 1)  # noqa: DTZ001  as Go writes it
    unset = dict.fromkeys(("created_at", "updated_at", "enqueue_at", "started_at", "finished_at", "expire_at"), never)
    await desk.legacy.model()
    waiting = await desk.legacy.task(0, **{**unset, "created_at": NOW})
    done = await desk.legacy.task(2, **unset)
    await desk.legacy.connection.execute(
        "UPDATE asynch_task SET started_at = '-infinity', expire_at = 'infinity' WHERE id = $1", done
    )
    stateless = await desk.legacy.task(None)
    await desk.legacy.line(created_at=never)
    code, report, errors = await desk.run("--timezone", zone)
    assert (code, "Traceback" in errors) == (3, False)
    assert report["states"] == {"0": 1, "2": 1, "null": 1}
    assert [(note["id"], note["code"]) for note in report["noted"]] == [(str(stateless), "unknown_state")]
    row = await desk.task(waiting)
    assert (row["created_at"], row["started_at"]) == (NOW.replace(tzinfo=ZoneInfo(zone)), None)
    row = await desk.task(done)
    assert (row["created_at"].year, row["finished_at"].year, row["expire_at"]) == (datetime.now(UTC).year,) * 2 + (
        None,
    )
    assert await desk.audit() == {}


_MOST = 2**63 - 1
_STAT = "INSERT INTO asynch_model_stat VALUES ({}, 7, 'x', 'm', {}, now(), now())"
_SUMS = " ; ".join(_STAT.format(f"'2026-01-0{day}'", _MOST - 1) for day in (1, 2))
#: What an old database may hold by now -> the table, the row, and what is said of it.
UNFIT = {
    "a day beyond the calendar": (_STAT.format("'10000-01-01'", 1), "asynch_model_stat", 0, "10000-01-01 of tenant 7"),
    "a day before it": (_STAT.format("'0044-03-15 BC'", 1), "asynch_model_stat", 0, "day is beyond the calendar"),
    "no day at all": (_STAT.format("'infinity'", 1), "asynch_model_stat", 0, "day is beyond the calendar"),
    "a sum": (_SUMS, "asynch_model_stat", 0, "2026-01-02 of tenant 7, creator 'x', model 'm': request_count makes"),
    "a number": (
        "ALTER TABLE asynch_model_stat ALTER request_count TYPE numeric; " + _STAT.format("'2026-01-01'", "1e30"),
        "asynch_model_stat", 0, "request_count is a number that no column takes",
    ),
    "a day twice": (
        "ALTER TABLE asynch_model_stat DROP CONSTRAINT asynch_model_stat_pkey; "
        + _STAT.format("'2026-01-01'", 1) + "; " + _STAT.format("'2026-01-01'", 2),
        "asynch_model_stat", 0, "are another row's, too",
    ),
    "a model's number": (
        "ALTER TABLE asynch_models ALTER max_concurrency TYPE bigint; "
        "INSERT INTO asynch_models (id, tenant_id, creator, updater, model_name, base_url, max_concurrency)"
        " VALUES (5, 7, 'c', 'c', 'n', 'http://127.0.0.1:9', 4294967296)",
        "asynch_models", 5, "max_concurrency is a number that no column takes",
    ),
    "a model without a switch": (
        "ALTER TABLE asynch_models ALTER enabled DROP NOT NULL; "
        "INSERT INTO asynch_models (id, tenant_id, creator, updater, model_name, base_url, enabled)"
        " VALUES (5, 7, 'c', 'c', 'n', 'http://127.0.0.1:9', NULL)",
        "asynch_models", 5, "enabled is null",
    ),
    "a model's name twice": (
        "ALTER TABLE asynch_models DROP CONSTRAINT asynch_models_tenant_id_model_name_key; "
        "INSERT INTO asynch_models (id, tenant_id, creator, updater, model_name, base_url)"
        " VALUES (2000000000000000000, 7, 'c', 'c', 'm', 'http://127.0.0.1:9')",
        "asynch_models", 2_000_000_000_000_000_000, "its name is another row's, too",
    ),
    "a task's size": (
        "ALTER TABLE asynch_task ALTER file_size TYPE numeric; "
        "INSERT INTO asynch_task (id, tenant_id, creator, updater, model_name, task_id, state, file_size)"
        " VALUES (5, 7, 'c', 'c', 'm', gen_random_uuid(), 2, 1e30)",
        "asynch_task", 5, "file_size is a number that no column takes",
    ),
    "a task of nobody": (
        "ALTER TABLE asynch_task ALTER creator DROP NOT NULL; "
        "INSERT INTO asynch_task (id, tenant_id, creator, updater, model_name, task_id, state)"
        " VALUES (5, 7, NULL, 'c', 'm', gen_random_uuid(), 2)",
        "asynch_task", 5, "creator is null",
    ),
    "a line of no tenant": (
        "ALTER TABLE asynch_op_log ALTER tenant_id DROP NOT NULL; "
        "INSERT INTO asynch_op_log (id, tenant_id, creator, updater) VALUES (5, NULL, 'c', 'c')",
        "asynch_op_log", 5, "tenant_id is null",
    ),
}  # fmt: skip


@pytest.mark.parametrize("value", UNFIT)
async def test_a_row_with_a_value_that_no_column_takes_is_named_and_left_out_alone(desk: Desk, value: str) -> None:
    change, table, row, words = UNFIT[value]
    await desk.legacy.model()
    tasks = [await desk.legacy.task(state) for state in (0, 2)]
    await desk.legacy.line()
    await desk.legacy.count(NOW, 3)
    await desk.legacy.connection.execute(change)
    for arguments in (["--dry-run"], [], []):
        code, report, errors = await desk.run(*arguments)
        assert (code, "Traceback" in errors) == (3, False), errors
        (note,) = report["noted"]
        assert (note["table"], note["id"]) == (table, str(row))
        assert words in note["detail"]
        assert report["left_out"] == 1
    assert [row["id"] for row in await desk.sql("SELECT id FROM task ORDER BY 1")] == tasks
    assert await desk.connection.fetchval("SELECT count(*) FROM op_log") == 1
    assert await desk.connection.fetchval("SELECT request_count FROM model_stat WHERE creator = 'c'") == 3
    assert await desk.audit() == {}


async def test_a_sum_that_is_too_large_with_what_is_here_is_named_and_left_out_alone(desk: Desk) -> None:
    await desk.sql("INSERT INTO cleaned (tenant_id, creator, tasks, calls) VALUES (7, 'c', 0, $1)", _MOST - 5)
    for day in (1, 2, 3):
        await desk.legacy.count(datetime(2026, 1, day), 3)  # noqa: DTZ001
    code, report, _ = await desk.run()
    assert (code, report["left_out"], report["tables"]["asynch_model_stat"]["copied"]) == (3, 2, 1)
    assert [note["detail"][:11] for note in report["noted"]] == ["2026-01-02 ", "2026-01-03 "]
    assert all("request_count makes a sum that no column takes" in note["detail"] for note in report["noted"])


async def test_what_only_postgresql_refuses_is_named_and_left_out_alone(desk: Desk) -> None:
    """As values that nobody has thought of."""
    await desk.sql("ALTER TABLE task ADD CONSTRAINT no_ogre CHECK (creator <> 'ogre')")
    await desk.sql("ALTER TABLE op_log ADD CONSTRAINT no_ogre CHECK (creator <> 'ogre')")
    await desk.sql("ALTER TABLE model ADD CONSTRAINT no_ogre CHECK (creator <> 'ogre')")
    try:
        creators = ["c", "ogre", "c", "c", "ogre"]
        for number, creator in enumerate(creators):
            await desk.legacy.model(f"m{number}", creator=creator)
            await desk.legacy.task(0, "m0", creator=creator)
            await desk.legacy.line(creator=creator)
        code, report, errors = await desk.run()
        assert (code, report["notes"], "Traceback" in errors) == (3, {"unfit": 6}, False)
        assert {note["detail"] for note in report["noted"]} == {
            "no_ogre does not take what it has (CheckViolationError)"
        }
        assert [table["copied"] for table in report["tables"].values()] == [3, 3, 3, 0]
        assert (await desk.run())[1]["notes"] == {"unfit": 6}
    finally:
        for table in ("task", "op_log", "model"):
            await desk.sql(f"ALTER TABLE {table} DROP CONSTRAINT no_ogre")


async def test_ids_at_the_end_of_all_numbers_leave_numbers_to_what_is_new(desk: Desk) -> None:
    await desk.legacy.model(id=_MOST)
    await desk.legacy.task(0, id=_MOST)
    await desk.legacy.line(id=_MOST)
    for arguments in (["--dry-run"], []):
        assert (await desk.run(*arguments))[0] == 0
    for sequence in ("model_ids", "task_ids", "op_log_id_seq"):
        assert await desk.connection.fetchval(f"SELECT nextval('{sequence}')") < 100


async def test_instants_beyond_all_zones_are_none(desk: Desk) -> None:
    last = datetime(9999, 12, 31)  # noqa: DTZ001
    await desk.legacy.model()
    task = await desk.legacy.task(2, created_at=last, finished_at=last)
    await desk.legacy.connection.execute("UPDATE asynch_task SET created_at = '294276-12-31 23:59:59'")
    assert (await desk.run("--timezone", "America/New_York"))[0] == 0
    assert (await desk.task(task))["created_at"] < datetime.now(UTC) + timedelta(minutes=1)


async def test_a_task_id_of_two_tenants_is_told_and_both_are_here(desk: Desk) -> None:
    shared = uuid4()
    rows = []
    for tenant, text in ((7, str(shared)), (8, shared.hex.upper())):
        await desk.legacy.model(tenant_id=tenant)
        rows.append(await desk.legacy.task(0, tenant_id=tenant, task_id=text))
    for arguments in (["--dry-run"], []):
        code, report, _ = await desk.run(*arguments)
        assert (code, report["tables"]["asynch_task"]["copied"], report["left_out"]) == (0, 2, 0)
        told = [note for note in report["noted"] if note["code"] == "task_id_in_two_tenants"]
        assert [note["id"] for note in told] == [str(row) for row in rows]
        assert all(str(shared) in note["detail"] for note in told)
    await desk.legacy.connection.execute("UPDATE asynch_task SET id = id + 1000 WHERE tenant_id = 8")
    await desk.sql("DELETE FROM task WHERE tenant_id = 8")
    dry = (await desk.run("--dry-run"))[1]
    assert dry["tables"]["asynch_task"]["copied"] == 1, "tenant 7's is not tenant 8's"


async def test_columns_of_other_kinds_are_no_tables_of_the_old_gateway(desk: Desk) -> None:
    await desk.legacy.connection.execute(
        "ALTER TABLE asynch_models ALTER enabled DROP DEFAULT, ALTER enabled TYPE boolean USING enabled <> 0"
    )
    code, _, errors = await desk.run()
    assert (code, "Traceback" in errors) == (2, False)
    assert "the old database does not answer legacy_models: operator does not exist" in errors


async def test_columns_with_nothing_in_them_stop_nothing(any_desk: Desk) -> None:
    """A model whose api_key was null ended the import with a traceback."""
    newer = {} if any_desk.legacy.older else {"expected_seconds": None}
    model = await any_desk.legacy.model(api_key=None, remark=None, **newer)
    await any_desk.legacy.count(NOW, 3)
    await any_desk.legacy.count(NOW, 4, creator="nobody")
    await any_desk.legacy.connection.execute(
        "UPDATE asynch_model_stat SET request_count = NULL WHERE creator = 'nobody'"
    )
    for dry in (["--dry-run"], []):
        code, report, errors = await any_desk.run(*dry)
        assert (code, "Traceback" in errors) == (0, False)
        assert report["tables"]["asynch_models"]["copied"] == 1
    (row,) = await any_desk.sql("SELECT bindings, remark, expected_seconds FROM model WHERE id = $1", model)
    assert tuple(row) == (None, "", 0)
    assert [row["creator"] for row in await any_desk.sql("SELECT creator FROM model_stat")] == ["c"]


async def test_numbers_and_names_in_use_here_stay_with_their_owners(desk: Desk) -> None:
    await desk.sql("INSERT INTO tenant (id) VALUES (7)")
    await desk.sql(
        "INSERT INTO model (id, tenant_id, name, base_url) VALUES (5, 7, 'm', 'http://ours'), (6, 7, 'other', 'http://ours')"
    )
    await desk.sql("INSERT INTO lane (model_id, tenant_id, window_size) VALUES (5, 7, 3), (6, 7, 3)")
    await desk.sql(
        "INSERT INTO task (id, public_id, tenant_id, model_id, lane, status) VALUES (9, gen_random_uuid(), 7, 5, 1, 1)"
    )
    await desk.legacy.model("m", id=50)
    await desk.legacy.model("new", id=6)
    ours = await desk.connection.fetchval("SELECT public_id FROM task")
    await desk.legacy.task(0, id=9)
    twin = await desk.legacy.task(2, task_id=str(ours))
    code, report, _ = await desk.run()
    assert code == 3
    assert await desk.sql("SELECT base_url FROM model WHERE id IN (5, 6)") == [("http://ours",), ("http://ours",)]
    (new,) = await desk.sql("SELECT id FROM model WHERE name = 'new'")
    details = {(note["id"], note["code"]): note["detail"] for note in report["noted"]}
    assert set(details) == {
        ("50", "model_is_here"), ("6", "model_renumbered"), ("9", "renumbered"), (str(twin), "same_task_id"),
    }  # fmt: skip
    assert f"it has {new['id']}" in details["6", "model_renumbered"]
    assert "model 5 stays" in details["50", "model_is_here"]
    assert await desk.connection.fetchval("SELECT count(*) FROM dispatch WHERE lane = 1") == 1


async def test_open_tasks_own_gate_slots_over_the_limit_too(desk: Desk, redis_url: str) -> None:
    import redis

    await desk.legacy.model(queue_limit=2)
    await desk.legacy.many_tasks(5)
    code, _, _ = await desk.run()
    assert code == 0
    with redis.Redis.from_url(redis_url) as client:
        gates = [key for key in client.keys("*") if b"gate" in key]
        assert [client.zcard(key) for key in gates if client.type(key) == b"zset"] == [5]


async def test_without_redis_the_import_goes_on_and_says_so(desk: Desk) -> None:
    await desk.legacy.model()
    for name in ("a", "b", "c"):
        await desk.legacy.model(name)
        await desk.legacy.task(0, model=name)
    code, report, _ = await desk.run(redis_url="redis://127.0.0.1:9/0")
    assert code == 0
    assert any("a running janitor does it" in warning for warning in report["warnings"])


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "said"),
    [
        (["--timezone", "Mars/Olympus"], {}, 2, "--timezone"),
        (["--payload-path", "a..b"], {}, 2, "--payload-path"),
        ([], {"secret_keys": ""}, 2, "sluiceway secrets new"),
        ([], {"egress_allow": "a b"}, 2, "SLUICEWAY_EGRESS_ALLOW"),
        ([], {"database_url": "postgresql://127.0.0.1:9/x"}, 1, "repeat the command"),
        (["--dsn", "postgresql://127.0.0.1:9/x"], {}, 1, "--dsn"),
        (["--dsn", "nonsense"], {}, 2, "--dsn"),
    ],
)
async def test_what_cannot_be_used_is_said(
    desk: Desk, arguments: Sequence[str], settings: dict[str, str], code: int, said: str
) -> None:
    got, _, errors = await desk.run(*arguments, **settings)
    assert (got, "Traceback" in errors) == (code, False), errors
    assert said in errors


async def test_other_tables_and_unmigrated_databases_are_refused(desk: Desk, database_url: str) -> None:
    got, _, errors = await desk.run("--dsn", database_url)
    assert (got, "asynch_models" in errors) == (2, True)
    got, _, errors = await desk.run(database_url=desk.legacy.url)
    assert (got, "sluiceway migrate" in errors) == (2, True)
    await desk.legacy.connection.execute("ALTER TABLE asynch_task DROP COLUMN enqueue_at")
    got, _, errors = await desk.run()
    assert (got, "enqueue_at" in errors) == (2, True)


async def test_an_account_that_may_only_read_is_enough(desk: Desk) -> None:
    await fill(desk.legacy)
    role = f"reader_{uuid4().hex[:8]}"
    await desk.legacy.connection.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'reads'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    )
    try:
        host = desk.legacy.url.rpartition("@")[2]
        code, report, errors = await desk.run("--dsn", f"postgresql://{role}:reads@{host}")
        assert (code, report["tables"]["asynch_task"]["copied"]) == (0, 8), errors
    finally:
        await desk.legacy.connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_payloads_past_a_slice_and_the_dsn_from_the_environment(desk: Desk) -> None:
    await desk.legacy.model()
    for _ in range(12):
        await desk.legacy.task(0, payload={"text": "x" * 1_000_000})
    environment = desk.environment | {"SLUICEWAY_LEGACY_DSN": desk.legacy.url}
    code, out, errors = await run_command(("import-legacy",), environment)
    assert code == 0, errors
    assert b"asynch_task: 9 of 12" in errors  # a slice ends at 8 MiB
    assert b"12" in out
    assert await desk.connection.fetchval("SELECT sum(length(payload)) > 12000000 FROM task_input")
