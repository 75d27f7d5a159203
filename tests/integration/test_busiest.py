"""Which lanes have most to do, and how long the oldest there has waited."""

from __future__ import annotations

import pytest

from libs.common.operations import sight
from tests.support.house import House
from tests.support.sights import sight_of


async def test_the_oldest_is_found_behind_smaller_priorities(house: House) -> None:
    model = await house.model()
    await house.tasks(model, 3)
    (old,) = await house.tasks(model, priority=5)
    await house.tasks(model, 2, priority=9)
    await house.sql("UPDATE dispatch SET entered_at = now() - interval '5 hours' WHERE id = $1", old)
    seen = await sight_of(house).lane_by_number(model.lane)
    assert seen is not None
    assert seen.facts.oldest_seconds == pytest.approx(5 * 3_600, abs=60)
    assert (await sight_of(house).overview()).oldest_ready_seconds == pytest.approx(5 * 3_600, abs=60)


async def test_the_busiest_come_first_however_many_lanes_have_work(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "_BUSIEST", 2)
    models = [await house.model() for _ in range(4)]
    for model, count in zip(models, (1, 2, 1, 5), strict=True):
        await house.tasks(model, count)
    lanes, cut = await sight_of(house).busiest(None)
    assert [lane.facts.lane for lane in lanes] == [models[3].lane, models[1].lane]
    assert cut
    lanes, cut = await sight_of(house).busiest(models[0].tenant_id)
    assert [lane.facts.lane for lane in lanes] == [models[0].lane]
    assert not cut
