"""What operators see, over a house."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from uuid import UUID

from libs.common.adapters.postgres.control import PostgresControl, PostgresPresence
from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.domain.model import Model
from libs.common.operations.control import Controls
from libs.common.operations.sight import Sight
from libs.common.operations.why import Why
from libs.common.ports_insight import ModelWhy, TaskWhy
from tests.support.house import House


def sight_of(house: House) -> Sight:
    """A look that remembers nothing of earlier ones."""
    return Sight(PostgresInsight(house.database), house.gate, house.permits)


def controls_of(house: House) -> Controls:
    return Controls(PostgresControl(house.database), PostgresInsight(house.database), house.hints)


async def why_task(house: House, task: int, *, tenant: int | None = None) -> TaskWhy:
    public = UUID((await house.public([task]))[0])
    return await Why(PostgresInsight(house.database), sight_of(house)).task(tenant, public)


async def why_model(house: House, model: Model) -> ModelWhy:
    return await Why(PostgresInsight(house.database), sight_of(house)).model(model.tenant_id, model.name)


async def alive(
    house: House,
    *,
    broker: bool = True,
    error: str = "",
    refused: Mapping[int, str] = MappingProxyType({}),
    events: str = "",
) -> None:
    """A dispatcher and a janitor live."""
    presence = PostgresPresence(house.database)
    await presence.beat(None, "dispatcher", "d1", "1", broker, error, refused, events)
    await presence.beat(None, "janitor", "j1", "1", None, "", {}, "")
