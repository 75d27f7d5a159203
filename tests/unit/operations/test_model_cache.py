"""What a process knows of models, against what PostgreSQL says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.domain.model import Model
from libs.common.operations.model_cache import ModelCache
from libs.common.ports_tasks import ModelNews

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Told:
    """Says what it is told to."""

    def __init__(self, *models: Model) -> None:
        self.models: Sequence[Model] = models
        self.asked: list[datetime | None] = []
        self.away = False
        self.server = NOW

    async def changed_since(self, since: datetime | None) -> ModelNews:
        self.asked.append(since)
        if self.away:
            raise DatabaseUnavailable("away")
        return ModelNews(self.models if since is None else [], NOW, self.server)


def model(number: int, tenant: int, name: str, version: int) -> Model:
    return Model(id=number, tenant_id=tenant, lane=number, name=name, base_url=f"http://{name}", version=version)


async def test_models_of_an_older_state_take_the_place_of_those_that_never_were() -> None:
    """A number that began anew is another tenant's; what was changed last is as it was before."""
    lost, changed, kept = model(7, 1, "lost", 3), model(6, 1, "changed", 5), model(5, 1, "kept", 1)
    told = Told(lost, changed, kept)
    cache = ModelCache(told)  # type: ignore[arg-type]  # nothing else is asked
    await cache.refresh()
    told.away = True
    with pytest.raises(DatabaseUnavailable):
        await cache.refresh()
    assert cache.named(1, "lost") is lost, "what is known holds while nobody answers"
    told.away, told.server = False, NOW + timedelta(seconds=1)
    before, other = replace(changed, version=4), model(7, 2, "other", 1)
    told.models = [before, kept, other]
    await cache.refresh()
    assert (cache.named(1, "lost"), cache.known(7), cache.named(2, "other")) == (None, other, other)
    assert cache.named(1, "changed") is before
    assert cache.named(1, "kept") is kept
    assert told.asked[-1] is None


async def test_a_server_that_took_over_between_two_looks_is_noticed() -> None:
    told = Told(model(7, 1, "lost", 3))
    cache = ModelCache(told)  # type: ignore[arg-type]
    await cache.refresh()
    told.models, told.server = [model(7, 2, "other", 1)], NOW + timedelta(seconds=1)
    await cache.refresh()
    assert cache.named(1, "lost") is None
    assert cache.known(7) is cache.named(2, "other") is told.models[0]


async def test_an_outage_alone_has_nothing_read_again() -> None:
    told = Told(model(1, 1, "m", 1))
    cache = ModelCache(told)  # type: ignore[arg-type]
    await cache.refresh()
    told.away = True
    with pytest.raises(DatabaseUnavailable):
        await cache.refresh()
    told.away = False
    await cache.refresh()
    assert told.asked[-1] is not None
    assert cache.named(1, "m") is not None


async def test_what_did_not_change_is_not_read_again() -> None:
    told = Told(model(1, 1, "m", 1))
    cache = ModelCache(told)  # type: ignore[arg-type]
    await cache.refresh()
    told.models = []
    await cache.refresh()
    assert cache.named(1, "m") is not None
    assert told.asked[0] is None
    assert told.asked[1] is not None
