"""Results go to the HTTP file service: through its outages, past dead executors, with the caller's own credentials."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import orjson
import pytest

from libs.common.adapters.secrets import KeyRing
from tests.support.road import Road, until
from tests.support.stand_in_file_service import StandInFileService, stand_in_file_service

SERVICE = "Bearer service-credential-0c1d"


@pytest.fixture
async def service() -> AsyncIterator[StandInFileService]:
    async with stand_in_file_service() as running:
        yield running


async def ready(road: Road, service: StandInFileService, executors: int = 1, **settings: str) -> int:
    """A road whose results go to the service; a tenant with a model."""
    await asyncio.gather(
        road.start("api"),
        road.start("dispatcher"),
        road.start("janitor"),
        road.start("executor", executors, oss_url=service.url, **settings),
    )
    tenant = await road.tenant()
    await road.model(tenant, max_concurrency=100, queue_limit=1_000)
    return tenant


async def generated(road: Road, count: int) -> None:
    """Wait until so many outputs are staged and known to PostgreSQL."""

    async def staged() -> bool:
        return (await road.sql("SELECT count(*) FROM dispatch WHERE phase >= 2"))[0]["count"] == count

    await until(staged, 30, f"{count} outputs are staged")


async def assert_all_arrived(road: Road, service: StandInFileService, tenant: int, ids: Sequence[str]) -> None:
    """Each task has its own output at the service, under the address that it names, and no file is there twice."""
    names = {call.name for call in road.mock.calls}
    contents = Counter(name for name in names for kept in service.files.values() if name.encode() + b"." in kept)
    assert contents == Counter(names)
    views = await road.views(tenant, ids)
    assert {view["result"]["url"] for view in views} == {f"{service.url}/f/{name}" for name in service.files}
    assert len(service.files) == len(ids)


async def outage(road: Road, service: StandInFileService, seconds: float) -> None:
    tenant = await ready(road, service, executors=2)
    service.status = 503
    ids = await road.submit(tenant, 100, size=2_000)
    await generated(road, len(ids))
    loop = asyncio.get_running_loop()
    over = loop.time() + seconds
    await until(lambda: loop.time() >= over and len(service.uploads) >= len(ids), seconds + 30, "the outage lasts")
    assert service.files == {}
    service.status = 200
    # an upload that was parked near the end of a minute is due within some seconds, and so is the next try of any other
    await road.ended(ids, 60)
    assert len(road.mock.calls) == len(ids)
    await assert_all_arrived(road, service, tenant, ids)
    await road.assert_whole(ids, 60)


async def test_an_outage_of_the_file_service_calls_no_model_again(road: Road, service: StandInFileService) -> None:
    await outage(road, service, 3)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_an_outage_of_a_minute_calls_no_model_again(road: Road, service: StandInFileService) -> None:
    await outage(road, service, 60)


@pytest.mark.long
async def test_an_executor_killed_after_staging_leaves_the_upload_to_another(
    road: Road, service: StandInFileService
) -> None:
    tenant = await ready(road, service)
    service.status = 503
    ids = await road.submit(tenant, 10, size=300_000)
    await generated(road, len(ids))
    await road.kill(road.processes["executor"][0])
    service.status = 200
    await road.start("executor", oss_url=service.url)
    await road.ended(ids, 60)
    assert len(road.mock.calls) == len(ids)
    await assert_all_arrived(road, service, tenant, ids)
    await road.assert_whole(ids, 60)


async def test_a_staged_output_that_is_lost_costs_one_more_call_and_is_recorded(
    road: Road, service: StandInFileService
) -> None:
    tenant = await ready(road, service)
    service.status = 503
    ids = await road.submit(tenant, 3, size=3_000_000)  # too large for anything but the staging store
    await generated(road, len(ids))
    await road.kill(road.processes["executor"][0])
    shutil.rmtree(road.folder / "staging")
    (road.folder / "staging").mkdir()
    # What the dead executor had sent would be taken, too, and lie there beside the second output.
    await until(lambda: not service.under_way, 30, "all that was sent is refused")
    service.status = 200
    await road.start("executor", oss_url=service.url)
    await road.ended(ids, 60)
    assert Counter(Counter(call.name for call in road.mock.calls).values()) == {2: len(ids)}
    for task in ids:
        items = (await road.call(tenant, "GET", f"/v1/tasks/{task}/history")).json()["items"]
        assert [item["kind"] for item in items].count("staging_lost") == 1
    await assert_all_arrived(road, service, tenant, ids)
    await road.assert_whole(ids, 60)


async def entrusted(road: Road, tenant: int, count: int) -> list[str]:
    """Tasks whose creator left its credentials with them, each its own."""
    await road.sql("UPDATE lane SET paused = true")
    ids = await road.submit(tenant, count)
    ring = KeyRing(road.environment["SLUICEWAY_SECRET_KEYS"])
    for number, task in enumerate(ids):
        shown = {"authorization": f"Bearer canary-{number}", "x_user_info": f'{{"tenantId":"{number}","canary":1}}'}
        await road.sql(
            "INSERT INTO task_secret (task_id, sealed) SELECT id, $2 FROM task WHERE public_id = $1::uuid",
            task, ring.seal(orjson.dumps(shown), f"task:{task}"),
        )  # fmt: skip
    await road.sql("UPDATE lane SET paused = false")
    return ids


async def test_a_tasks_own_credentials_go_to_its_upload_and_to_nobody_else(
    road: Road, service: StandInFileService
) -> None:
    tenant = await ready(road, service)
    ids = await entrusted(road, tenant, 5)
    await road.ended(ids)
    assert sorted(upload.authorization for upload in service.uploads) == [f"Bearer canary-{n}" for n in range(5)]
    assert all(f'"{upload.authorization[-1]}"' in upload.user_info for upload in service.uploads)
    assert all(upload.part == "file" and upload.file_name.startswith("asynch_") for upload in service.uploads)
    assert await road.sql("SELECT 1 FROM task_secret") == []
    await road.assert_whole(ids)
    seen = [repr(call.headers) for call in road.mock.calls]
    seen += [file.read_text() for file in (road.folder / "logs").iterdir()]
    seen += [repr(event) for event in await road.events()]
    seen += [repr(await road.views(tenant, ids)), repr(await road.sql("SELECT * FROM op_log"))]
    assert not [text for text in seen if "canary" in text]


async def test_expired_credentials_fall_back_to_the_services_own(
    road: Road, service: StandInFileService, tmp_path: Path
) -> None:
    (tmp_path / "credential").write_text(SERVICE + "\n")
    tenant = await ready(road, service, oss_authorization_file=str(tmp_path / "credential"))
    service.accepted = (SERVICE,)
    ids = await entrusted(road, tenant, 2)
    await road.ended(ids)
    assert Counter(upload.authorization == SERVICE for upload in service.uploads) == {True: 2, False: 2}
    assert len(road.mock.calls) == len(ids)
    await road.assert_whole(ids)


async def test_credentials_that_nobody_accepts_have_an_end_of_their_own(
    road: Road, service: StandInFileService
) -> None:
    tenant = await ready(road, service)
    service.accepted = (SERVICE,)
    (task,) = await entrusted(road, tenant, 1)
    await road.ended([task], status="failed")
    (view,) = await road.views(tenant, [task])
    assert view["error"]["code"] == "upload_unauthorized"
    assert "canary" not in view["error"]["message"]
    assert len(road.mock.calls) == 1
    # kept for a replay: the output, and what its upload needs
    assert await road.sql("SELECT 1 FROM dead_task d JOIN task_secret s USING (task_id) WHERE d.staged IS NOT NULL")
    await road.assert_whole([task])
