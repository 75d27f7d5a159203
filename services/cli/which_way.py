"""Which way an operator's command takes: over the REST face where an API is named, else straight on the stores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from services.cli.control_room import ControlRoom
from services.cli.remote import connect_async
from services.cli.wiring import complete, open_stores, operator_name

Result = TypeVar("Result")

ApiOption = Annotated[
    str, typer.Option("--url", envvar="SLUICEWAY_URL", help="Address of the API; without one, straight on the stores.")
]
By = Annotated[str, typer.Option("--by", help="Who does it, for the record; you, if left out. An API knows the key.")]


@dataclass(frozen=True, slots=True)
class Way:
    """What a command was told: an API's address, the key's file, and who is recorded where no key says it."""

    url: str = ""
    key_file: Path | None = None
    by: str = ""


def asked(ask: Callable[[ControlRoom], Awaitable[Result]], way: Way) -> Result:
    """Ask in the control room; what is refused ends the command with one line and exit code 1, either way."""

    async def work() -> Result:
        async with opened(way) as room:
            return await ask(room)

    return complete(work())


async def found(work: Awaitable[None]) -> bool:
    """Whether there was something to do it to."""
    from libs.common.domain.errors import NotFound

    try:
        await work
    except NotFound:
        return False
    return True


@asynccontextmanager
async def opened(way: Way) -> AsyncIterator[ControlRoom]:
    """The control room, the way that was asked for."""
    if way.url:
        from services.cli.over_rest import room_over_rest

        if way.by:
            raise typer.BadParameter("over REST the key's name is recorded", param_hint="--by")
        async with connect_async(way.url, way.key_file) as client:
            yield room_over_rest(client)
        return
    from libs.common.runtime.logging import configure_logging
    from libs.common.settings import load_settings
    from services.cli.over_stores import room_over_stores

    settings = load_settings()
    configure_logging("cli", "ERROR", settings.log_format)
    async with open_stores(settings) as stores:
        yield room_over_stores(stores, way.by or operator_name())
