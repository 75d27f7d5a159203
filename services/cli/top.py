"""`sluiceway top`: what flows and what waits, live, straight on the stores."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from services.cli.app import app
from services.cli.insight import EXECUTORS, LANES, OUTBOX, counted, plain
from services.cli.output import Column, cell, console, note, value_of
from services.cli.wiring import complete, open_insight

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from services.cli.wiring import Insight

_LANES_SHOWN: Final = 40
_COUNTS: Final = ("ready", "in_flight", "later", "retrying", "dead", "events")
_NUMBERS: Final = ("running", "held", "executors", "dispatchers", "janitors")
_PAUSE: Final = ("scope", "tenant_id", "model", "reason")


@app.command()
def top(
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print, and return.")] = False,
    tenant: Annotated[int | None, typer.Option("--tenant", help="Only lanes of this tenant.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a look.")] = False,
) -> None:
    """Show queues, executors and the outbox, live until interrupted. Without a terminal it looks once.

    `--json` prints a line a look until interrupted; with `--once`, one.

    Example: sluiceway top --every 5 --tenant 42
    """
    from libs.common.runtime.logging import configure_logging
    from libs.common.settings import load_settings

    settings = load_settings()
    configure_logging("cli", "ERROR", settings.log_format)

    async def work() -> None:
        async with open_insight(settings) as over:
            if as_json:
                await _print_each(over, tenant, every, once=once)
            else:
                await _draw(over, tenant, every, once=once or not sys.stdout.isatty())

    complete(work())


async def _print_each(over: Insight, tenant: int | None, every: float, *, once: bool) -> None:
    print(json.dumps(await _look(over, tenant)), flush=True)
    while not once:
        await asyncio.sleep(every)
        seen = await _look_again(over, tenant)
        if isinstance(seen, str):
            note(seen)
        else:
            print(json.dumps(seen), flush=True)


async def _draw(over: Insight, tenant: int | None, every: float, *, once: bool) -> None:
    """On the terminal's other screen: what stood there comes back at the end."""
    from rich.live import Live

    screen, seen = console(), await _look(over, tenant)
    if once:
        screen.print(_screen(seen))
        return
    with Live(_screen(seen), console=screen, screen=True, auto_refresh=False) as live:
        while True:
            live.refresh()
            await asyncio.sleep(every)
            found = await _look_again(over, tenant)
            seen, trouble = (seen, found) if isinstance(found, str) else (found, "")
            live.update(_screen(seen, trouble))


async def _look_again(over: Insight, tenant: int | None) -> dict[str, Any] | str:
    """What is seen, or what keeps it from being seen: only the first look ends the command, an outage is watched."""
    from libs.common.domain.errors import SluicewayError

    try:
        return await _look(over, tenant)
    except (SluicewayError, OSError) as error:
        return f"no answer since then: {error or type(error).__name__}"


async def _look(over: Insight, tenant: int | None) -> dict[str, Any]:
    from libs.common.operations import insight_json as shown

    numbers, lanes, executors, outbox = await asyncio.gather(
        over.sight.overview(),
        over.sight.lanes(tenant, after=0, limit=_LANES_SHOWN, busy=True),
        over.sight.executors(),
        over.sight.outbox(),
    )
    return plain(
        {
            "overview": shown.overview_document(numbers),
            "lanes": [shown.lane_document(lane, operator=True) for lane in lanes[0]],
            "more_lanes": lanes[1] is not None,
            "executors": [shown.executor_document(one) for one in executors],
            "outbox": [shown.outbox_document(channel) for channel in outbox],
        }
    )


def _screen(seen: Mapping[str, Any], trouble: str = "") -> Group:
    from rich.console import Group
    from rich.text import Text

    numbers = seen["overview"]
    told = [f"{name.replace('_', ' ')} {counted(numbers[name])}" for name in _COUNTS]
    told += [f"{name} {numbers[name]}" for name in _NUMBERS]
    heading = f"{numbers['at']}  {'  '.join(told)}"
    held = [
        f"paused: {cell(' '.join(str(pause[name] or '') for name in _PAUSE).strip())}" for pause in numbers["pauses"]
    ]
    broker = [] if numbers["broker_reachable"] in (True, None) else ["no dispatcher reaches the broker"]
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
