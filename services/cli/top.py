"""`sluiceway top`: what flows and what waits, live."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.app import app
from services.cli.insight import EXECUTORS, LANES, OUTBOX, counted, paused_in_words
from services.cli.options import OfTenant
from services.cli.output import Column, cell, console, note, value_of
from services.cli.remote import KeyFileOption
from services.cli.which_way import ApiOption, Way, opened
from services.cli.wiring import complete

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from services.cli.control_room import ControlRoom

_LANES_SHOWN: Final = 40
_COUNTS: Final = ("ready", "in_flight", "later", "retrying", "dead", "events")
_NUMBERS: Final = ("running", "held", "executors", "dispatchers", "janitors")


@app.command()
def top(
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print, and return.")] = False,
    tenant: OfTenant = None,
    url: ApiOption = "",
    key_file: KeyFileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a look.")] = False,
) -> None:
    """Show queues, executors and the outbox, live until interrupted. Without a terminal it looks once.

    `--json` prints a line a look until interrupted; with `--once`, one.

    Example: sluiceway top --every 5 --tenant 42
    """

    async def work() -> None:
        async with opened(Way(url, key_file)) as room:
            if as_json:
                await _print_each(room, tenant, every, once=once)
            else:
                await _draw(room, tenant, every, once=once or not sys.stdout.isatty())

    complete(work())


async def _print_each(room: ControlRoom, tenant: int | None, every: float, *, once: bool) -> None:
    print(json.dumps(await _look(room, tenant)), flush=True)
    while not once:
        await asyncio.sleep(every)
        seen = await _look_again(room, tenant)
        if isinstance(seen, str):
            note(seen)
        else:
            print(json.dumps(seen), flush=True)


async def _draw(room: ControlRoom, tenant: int | None, every: float, *, once: bool) -> None:
    """On the terminal's other screen: what stood there comes back at the end."""
    from rich.live import Live

    screen, seen = console(), await _look(room, tenant)
    if once:
        screen.print(_screen(seen))
        return
    with Live(_screen(seen), console=screen, screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            await asyncio.sleep(every)
            found = await _look_again(room, tenant)
            seen, trouble = (seen, found) if isinstance(found, str) else (found, "")
            live.update(_screen(seen, trouble))


async def _look_again(room: ControlRoom, tenant: int | None) -> dict[str, Any] | str:
    """What is seen, or what keeps it from being seen: only the first look ends the command, an outage is watched."""
    from libs.common.domain.errors import SluicewayError

    try:
        return await _look(room, tenant)
    except (SluicewayError, OSError) as error:
        return f"no answer since then: {error or type(error).__name__}"


async def _look(room: ControlRoom, tenant: int | None) -> dict[str, Any]:
    sights = room.sights
    numbers, lanes, executors, outbox = await asyncio.gather(
        sights.overview(),
        sights.lanes(tenant, busy=True, most=_LANES_SHOWN + 1),
        sights.executors(),
        sights.outbox(),
    )
    return {
        "overview": numbers,
        "lanes": lanes[:_LANES_SHOWN],
        "more_lanes": len(lanes) > _LANES_SHOWN,
        "executors": executors,
        "outbox": outbox,
    }


def _screen(seen: Mapping[str, Any], trouble: str = "") -> Group:
    from rich.console import Group
    from rich.text import Text

    numbers = seen["overview"]
    told = [f"{name.replace('_', ' ')} {counted(numbers[name])}" for name in _COUNTS]
    told += [f"{name} {numbers[name]}" for name in _NUMBERS]
    heading = f"{numbers['at']}  {'  '.join(told)}"
    held = [cell(f"paused: {paused_in_words(pause)} {pause['reason']}".strip()) for pause in numbers["pauses"]]
    broker = [] if numbers["broker_reachable"] in (True, None) else ["no dispatcher reaches the broker"]
    if numbers["events_refused"]:
        broker.append(cell(f"the broker refuses the topic of events: {numbers['events_refused']}"))
    if numbers["topics_refused"]:
        broker.append(f"models whose topics the broker refuses: {numbers['topics_refused']}; `why` of each says why")
    more = " (the first of them)" if seen["more_lanes"] else ""
    return Group(
        Text(heading, style="bold"),
        *(Text(line, style="bold red") for line in held + broker + ([cell(trouble)] if trouble else [])),
        _table(f"queues with work{more}", LANES, seen["lanes"]),
        _table("executors", EXECUTORS, seen["executors"]),
        _table("outbox", OUTBOX, seen["outbox"]),
    )


def _table(title: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading, _ in columns:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(value_of(row, where))) for _, where in columns))
    return table
