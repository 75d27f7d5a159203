"""The first page: what flows now, and how it went in the last hour or day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from libs.common.ports_insight import LaneSight, Overview
from services.api.console.live import LivePart
from services.api.console.plots import SPANS, read_plots
from services.api.console.rendering import fragment, page, part
from services.api.console.tools import Tools
from services.api.console.visit import Visit

_SHOWN: Final = 15


async def show(tools: Tools, visit: Visit) -> Response:
    """Figures, the busiest models, and plots."""
    plots = await read_plots(tools.cases.series, visit)
    now = await _now(tools, visit)
    return page(visit, "overview.html", status=200 if plots.known else 404, plots=plots, spans=SPANS, **now)


async def live(tools: Tools, visit: Visit) -> Response:
    """The figures again, whenever they have changed."""

    async def render() -> tuple[str, bool]:
        return part(visit, "_overview.html", **await _now(tools, visit)), False

    return LivePart(tools, visit, render, seconds=1.0)


async def plots(tools: Tools, visit: Visit) -> Response:
    """The plots again: a page asks for them every half minute."""
    return fragment(visit, "_plots.html", plots=await read_plots(tools.cases.series, visit))


async def _now(tools: Tools, visit: Visit) -> dict[str, Any]:
    overview = await tools.cases.sight.overview() if visit.operates else None
    lanes, cut = await tools.cases.sight.busiest(visit.reach)
    return {
        "overview": overview,
        "troubles": _troubles(overview) if overview else [],
        "pauses": overview.pauses if overview else await tools.cases.sight.pauses(visit.reach),
        "lanes": lanes[:_SHOWN],
        "sums": _sums(lanes),
        "more": "+" if cut else "",
    }


def _sums(lanes: Sequence[LaneSight]) -> dict[str, Any]:
    """What a tenant's models have together."""
    return {
        "waiting": sum(lane.waiting.value for lane in lanes),
        "in_flight": sum(lane.facts.in_flight for lane in lanes),
        "running": sum(lane.facts.running for lane in lanes),
        "starts": sum(lane.starts_per_second or 0.0 for lane in lanes),
        "oldest": max((lane.facts.oldest_seconds or 0.0 for lane in lanes), default=0.0),
    }


def _troubles(overview: Overview) -> list[str]:
    """What nobody should have to read between numbers."""
    found = []
    if not overview.dispatchers:
        found.append("No dispatcher lives: nothing is published.")
    elif overview.broker_reachable is False:
        found.append("The dispatchers do not reach the broker: nothing is published.")
    if overview.events_refused:
        found.append(f"The broker refuses the topic of events: {overview.events_refused}. No end is announced.")
    if overview.topics_refused:
        found.append(f"Models whose topics the broker refuses: {overview.topics_refused}. Their pages say why.")
    if not overview.executors:
        found.append("No executor lives: nothing starts.")
    elif not overview.executors_reading:
        found.append("No executor takes new work.")
    if not overview.janitors:
        found.append("No janitor lives: no retries, no rescue, no repairs.")
    return found
