"""Series as plots show them: which, over how long, and their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from libs.common.domain.errors import NotFound
from libs.common.domain.model import Model
from libs.common.operations.series import Series
from libs.common.ports_insight import Percentiles, Point, SeriesWanted
from services.api.console.formats import plain
from services.api.console.visit import Visit

#: How far back, and the seconds of a step.
SPANS: Final = {"hour": (timedelta(hours=1), 60), "day": (timedelta(hours=23, minutes=45), 900)}

Value = Callable[[Point], float | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot; `tone` names its colour."""

    name: str
    tone: str
    value: Value


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot."""

    id: str
    title: str
    unit: str
    lines: Sequence[Line]


@dataclass(frozen=True, slots=True)
class Plots:
    """All plots of a page over the same points. `known` is false where nobody ever had a model of this name."""

    span: str
    tenant: int | None
    model: str
    since: datetime
    until: datetime
    points: Sequence[Point]
    step_seconds: int
    plots: Sequence[Plot]
    known: bool = True

    def unit(self, plot: Plot) -> str:
        """What the numbers of a plot count; those of ends are sums of a step."""
        if plot.id != "throughput":
            return plot.unit
        minutes = self.step_seconds // 60
        return f"{plot.unit} a minute" if minutes == 1 else f"{plot.unit} in {minutes} min"

    def told(self, plot: Plot) -> str:
        """A plot in words, for those who do not see it: the numbers themselves are in the table below."""
        lines = ", ".join(_told(line, self.points) for line in plot.lines)
        return f"{plot.title}, {self.unit(plot)}, by the time of day in UTC, last {self.span}: {lines}"


def _percentiles(of: Callable[[Point], Percentiles]) -> Sequence[Line]:
    return (
        Line("p50", "one", lambda point: of(point).p50),
        Line("p90", "two", lambda point: of(point).p90),
        Line("p99", "three", lambda point: of(point).p99),
    )


PLOTS: Final = (
    Plot(
        "throughput",
        "Ended",
        "attempts",
        (Line("success", "good", lambda point: point.success), Line("other", "bad", lambda point: _other(point))),
    ),
    Plot("wait", "Wait", "s", _percentiles(lambda point: point.wait)),
    Plot("run", "Run time", "s", _percentiles(lambda point: point.run)),
    Plot(
        "errors",
        "Error rate",
        "%",
        (Line("errors", "bad", lambda point: None if point.error_rate is None else 100 * point.error_rate),),
    ),
    Plot("backlog", "Backlog", "tasks", (Line("waiting", "one", lambda point: point.backlog),)),
    Plot("oldest", "Oldest that waits", "s", (Line("oldest", "one", lambda point: point.oldest_seconds),)),
)


async def read_plots(series: Series, visit: Visit, model: Model | None = None) -> Plots:
    """The plots that an address asks for, or those of a model. Raises Invalid."""
    span = visit.asked("span") if visit.asked("span") in SPANS else "hour"
    length, step = SPANS[span]
    name = model.name if model else visit.asked("model")
    named = visit.asked("tenant") if visit.operates else ""
    # A model belongs to a tenant: without one named it is the viewer's own.
    tenant = visit.caller.tenant_id if named or name else visit.reach
    until = datetime.now(UTC)
    try:
        points, known = await series.read(SeriesWanted(until - length, until, step, tenant, name or None)), True
    except NotFound:
        points, known = [], False
    return Plots(span, tenant, name, until - length, until, points, step, PLOTS, known)


def _told(line: Line, points: Sequence[Point]) -> str:
    values = [value for point in points if (value := line.value(point)) is not None]
    if not values:
        return f"{line.name} nothing"
    return f"{line.name} {plain(min(values))} to {plain(max(values))}, at last {plain(values[-1])}"


def _other(point: Point) -> float:
    return point.ended - point.success
