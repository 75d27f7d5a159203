"""After an import the services run what was open, in its order, and the audit of all stores finds nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.legacy import NOW, Legacy, open_legacy_database
from tests.support.road import Road, until

_FRESH = 8


async def fill(legacy: Legacy, road: Road, tenant: int) -> list[int]:
    """Open tasks and ends of every kind; the ids of the open ones, first those of the queue in its order."""
    just_now = datetime.now(UTC).replace(tzinfo=None)
    await legacy.model(
        "m", tenant_id=tenant, base_url=road.mock.url, route=f"/{tenant}-m", retry_times=2, max_concurrency=1
    )  # fmt: skip
    queue = [
        await legacy.task(
            0, tenant_id=tenant, enqueue_at=NOW - timedelta(minutes=n), payload={"name": f"fresh-{n}", "seconds": 0.1}
        )
        for n in range(_FRESH)
    ]
    jumper = await legacy.task(
        0, tenant_id=tenant, enqueue_at=NOW - timedelta(days=36_525), retry_count=1, payload={"name": "jumper"}
    )
    running = await legacy.task(1, tenant_id=tenant, started_at=NOW, payload={"name": "running"})
    uploading = await legacy.task(1, tenant_id=tenant, phase=1, tmp_file="/gone/x.png", payload={"name": "uploading"})
    failed = await legacy.task(
        3, tenant_id=tenant, finished_at=just_now, updated_at=just_now, error_msg="503", payload={"name": "failed"}
    )
    for state in (2, 3, 4):
        await legacy.task(state, tenant_id=tenant, retry_count=2)
    await legacy.task(0, model="gone", tenant_id=tenant)
    await legacy.count(NOW, 30, tenant=tenant)
    return [*reversed(queue), jumper, running, uploading, failed]


async def copied(road: Road, legacy: Legacy) -> int:
    """How many tasks a run of the command copies."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "import-legacy", "--dsn", legacy.url, "--json",
        env=road.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return int(json.loads(out)["tables"]["asynch_task"]["copied"])


@pytest.mark.timeout(240)
async def test_open_tasks_run_to_their_end_and_the_audit_is_clean(road: Road) -> None:
    tenant = await road.tenant()
    async with open_legacy_database(road.database_url) as legacy:
        open_ids = await fill(legacy, road, tenant)
        assert await copied(road, legacy) == 16
        await road.start_all(executors=1)
        (done,) = await road.sql(
            "SELECT public_id::text FROM task WHERE fetched_at IS NULL AND oss_file LIKE '%example%'"
        )
        for state in (2, 4):
            answer = await road.call(tenant, "GET", "/task/getTaskResult", params={"taskId": done["public_id"]})
            data = answer.json()["data"]
            assert (data["state"], data["ossFile"]) == (state, "http://files.example/a.mp3")
        rows = await road.sql("SELECT id, public_id::text FROM task WHERE id = ANY ($1::bigint[])", open_ids)
        public = {row["id"]: row["public_id"] for row in rows}
        ids = [public[id_] for id_ in open_ids]
        await road.ended(ids, 60)
        called = [call.name for call in road.mock.calls]
        assert sorted(called) == sorted(
            [*(f"fresh-{n}" for n in range(_FRESH)), "jumper", "running", "uploading", "failed"]
        )
        leased = await road.sql(
            "SELECT leased_at FROM attempt WHERE task_id = ANY ($1::bigint[]) AND outcome = 'success'"
            " ORDER BY array_position($1::bigint[], task_id)",
            open_ids[:_FRESH],
        )
        times = [row["leased_at"] for row in leased]
        assert times == sorted(times)
        assert times[0] < times[-1]
        # the task of a deleted model ends so, announced
        (homeless,) = await road.sql(
            "SELECT t.public_id::text FROM task t JOIN model m ON m.id = t.model_id WHERE m.name = 'gone'"
        )
        await road.ended([homeless["public_id"]], 30, status="failed")
        assert (await road.views(tenant, [homeless["public_id"]]))[0]["error"]["code"] == "model_deleted"
        # a second run beside running services: what came meanwhile runs too
        late = await legacy.task(0, tenant_id=tenant, payload={"name": "late"})
        assert await copied(road, legacy) == 1

        async def over() -> bool:
            return bool(await road.sql("SELECT 1 FROM task WHERE id = $1 AND status = 6", late))

        await until(over, 30, "the late task ends")
        (row,) = await road.sql("SELECT public_id::text FROM task WHERE id = $1", late)
        fresh = await road.submit(tenant, 3)
        await road.ended(fresh, 30)
        await road.assert_whole([*ids, homeless["public_id"], row["public_id"], *fresh], 60)
