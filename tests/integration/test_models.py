"""Models in PostgreSQL: what is asked of one says, and changes, nothing of another."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from libs.common.adapters.postgres.models import PostgresModels
from libs.common.domain.errors import Conflict
from libs.common.domain.model import Model
from tests.support.house import House
from tests.support.sights import controls_of, sight_of


@pytest.fixture
async def three(house: House) -> tuple[Model, Model, Model]:
    """One, another of the same tenant, and another tenant's."""
    one = await house.model()
    return one, await house.model(tenant=one.tenant_id), await house.model()


async def test_a_model_is_found_by_its_own_tenant_until_it_is_deleted(
    house: House, three: tuple[Model, Model, Model]
) -> None:
    models = PostgresModels(house.database)
    one, sibling, other = three
    assert [await models.find_by_id(model.tenant_id, model.id) for model in three] == list(three)
    assert await models.find_by_id(one.tenant_id, other.id) is None
    assert await models.by_ids([one.id, other.id]) == [one, other]
    assert await models.delete(one.tenant_id, one.id, "ann")
    assert await models.find_by_id(one.tenant_id, one.id) is None
    assert (await models.list_page(one.tenant_id, None, 9))[0] == [sibling]
    (deleted,) = await models.by_ids([one.id])
    assert deleted.deleted, "workers are told, too"


async def test_a_change_and_a_deletion_touch_one_model_of_its_tenant_once(
    house: House, three: tuple[Model, Model, Model]
) -> None:
    models = PostgresModels(house.database)
    one, sibling, other = three
    assert await models.update(replace(one, tenant_id=other.tenant_id), "eve", {"remark": "x"}) is None
    assert await models.delete(other.tenant_id, one.id, "eve") is None
    changed = await models.update(one, "ann", {"remark": "x"})
    assert changed is not None
    deleted = await models.delete(one.tenant_id, one.id, "ann")
    assert deleted is not None
    assert await models.delete(one.tenant_id, one.id, "bob") is None
    assert await models.update(deleted, "bob", {"remark": "y"}) is None
    assert await models.by_ids([sibling.id, other.id]) == [sibling, other]


async def test_a_deletion_ends_the_pause_of_its_own_model_alone(
    house: House, three: tuple[Model, Model, Model]
) -> None:
    one, sibling, other = three
    controls = controls_of(house)
    await controls.pause_model(one.tenant_id, one.name, "ann", "first")
    await controls.resume_model(one.tenant_id, one.name, "ann")
    ended = await house.value("SELECT ended FROM pause WHERE lane = $1", one.lane)
    for model in three:
        await controls.pause_model(model.tenant_id, model.name, "ann", "again")
    await controls.pause_tenant(one.tenant_id, "ann", "all of it")
    await PostgresModels(house.database).delete(one.tenant_id, one.id, "ann")
    left = {(pause.scope, pause.tenant_id, pause.model) for pause in await sight_of(house).pauses(None)}
    assert {("tenant", one.tenant_id, None), ("model", one.tenant_id, sibling.name)} <= left
    assert ("model", other.tenant_id, other.name) in left
    assert ("model", one.tenant_id, one.name) not in left
    assert await house.value("SELECT min(ended) FROM pause WHERE lane = $1", one.lane) == ended


@pytest.mark.parametrize(
    ("job", "holds"),
    [
        ("ended_at = NULL", True),
        ("ended_at = now(), cancel_at = now()", True),
        ("ended_at = now()", False),
        ("ended_at = now() - interval '61 minutes', cancel_at = now()", False),
    ],
    ids=["open", "to be cancelled there", "over", "to be cancelled there by nobody for an hour"],
)
async def test_a_model_whose_jobs_are_open_keeps_its_adapter(
    house: House, three: tuple[Model, Model, Model], job: str, holds: bool
) -> None:
    models = PostgresModels(house.database)
    one, sibling, _ = three
    await house.sql(
        "INSERT INTO provider_job (task_id, attempt, lane, intent_key, adapter, polls, permit_token, deadline)"
        " VALUES ($1, 1, $2, $3, 'a', true, $3, now())",
        one.id, one.lane, uuid4(),
    )  # fmt: skip
    await house.sql(f"UPDATE provider_job SET {job} WHERE lane = $1", one.lane)
    assert await models.update(sibling, "ann", {"adapter": "another"}), "they are not its own"
    if holds:
        with pytest.raises(Conflict, match="providers have jobs"):
            await models.update(one, "ann", {"adapter": "another"})
    else:
        assert await models.update(one, "ann", {"adapter": "another"})


async def test_dispatchers_hear_of_lanes_whose_model_or_tenant_changed(
    house: House, three: tuple[Model, Model, Model]
) -> None:
    one, sibling, other = three
    gone = await house.model(tenant=one.tenant_id)
    await PostgresModels(house.database).delete(gone.tenant_id, gone.id, "ann")
    mine = {model.lane for model in (*three, gone)}
    since = await house.value("SELECT now()")

    async def changed() -> list[int]:
        return sorted(info.lane for info in await house.queue.lanes_changed(since) if info.lane in mine)

    before = since - timedelta(hours=1)
    await house.sql("UPDATE model SET updated_at = $1", before)
    await house.sql("UPDATE tenant SET updated_at = $1", before)
    assert await changed() == []
    await house.sql("UPDATE model SET updated_at = $1 WHERE id = $2", since, gone.id)
    assert await changed() == [gone.lane], "that it is closed"
    await house.sql("UPDATE tenant SET updated_at = $1 WHERE id = $2", since, one.tenant_id)
    assert await changed() == sorted([one.lane, sibling.lane, gone.lane])
    await house.sql("UPDATE model SET updated_at = $1 WHERE id = $2", since, one.id)
    assert await changed() == sorted([one.lane, sibling.lane, gone.lane]), "each once"
    await house.sql("UPDATE model SET updated_at = $1 WHERE id = $2", before, gone.id)
    assert await changed() == sorted([one.lane, sibling.lane])
    assert other.lane not in await changed()
