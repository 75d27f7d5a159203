"""What operators see, over a house."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from libs.common.adapters.postgres.control import PostgresControl, PostgresPresence
from libs.common.adapters.postgres.insight import PostgresInsight
from libs.common.domain.model import Model
from libs.common.operations.control import Controls
from libs.common.operations.sight import Sight
from libs.common.operations.why import Why
from libs.common.ports_insight import NO_BROKER, Broker, ModelWhy, TaskWhy
from tests.support.house import House


def sight_of(house: House) -> Sight:
    """A look that remembers nothing of earlier ones."""
    return Sight(PostgresInsight(house.database), house.gate, house.permits)


def controls_of(house: House) -> Controls:
    return Controls(PostgresControl(house.database), PostgresInsight(house.database), house.hints)


def documented_codes() -> set[str]:
    """The codes of everything that may hold a task or a model."""
    page = (Path(__file__).parents[2] / "docs/seeing-what-flows.md").read_text()
    table = page.split("| code | what holds it |")[1].split("\n\n")[0]
    return {code for line in table.splitlines()[2:] for code in re.findall("`([a-z_]+)`", line.split("|")[1])}


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
    await presence.beat(None, "dispatcher", "d1", "1", Broker(broker, error, refused, events))
    await presence.beat(None, "janitor", "j1", "1", NO_BROKER)
