"""What a process knows of models, against what PostgreSQL says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from libs.common.domain.errors import DatabaseUnavailable
from libs.common.domain.model import Model
from libs.common.operations.model_cache import ModelCache

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Told:
    """Says what it is told to."""

    def __init__(self, *models: Model) -> None:
        self.models: Sequence[Model] = models
        self.asked: list[datetime | None] = []
        self.away = False

    async def changed_since(self, since: datetime | None) -> tuple[Sequence[Model], datetime]:
        self.asked.append(since)
        if self.away:
            raise DatabaseUnavailable("away")
        return self.models, NOW


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
    told.away = False
    before, other = replace(changed, version=4), model(7, 2, "other", 1)
    told.models = [before, kept, other]
    await cache.refresh()
    assert (cache.named(1, "lost"), cache.known(7), cache.named(2, "other")) == (None, other, other)
    assert cache.named(1, "changed") is before
    assert cache.named(1, "kept") is kept
    assert told.asked[-1] is None


async def test_what_did_not_change_is_not_read_again() -> None:
    told = Told(model(1, 1, "m", 1))
    cache = ModelCache(told)  # type: ignore[arg-type]
    await cache.refresh()
    told.models = []
    await cache.refresh()
    assert cache.named(1, "m") is not None
    assert told.asked[0] is None
    assert told.asked[1] is not None
