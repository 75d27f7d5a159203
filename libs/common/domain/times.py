"""The instants that a caller may bind a task to."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from libs.common.domain.errors import Invalid

LATEST: Final = timedelta(days=366)
#: Codes of tasks that ended because their time was over.
NOT_STARTED: Final = "not_started"
DEADLINE_EXCEEDED: Final = "deadline_exceeded"


def check_times(
    now: datetime, not_before: datetime | None, start_by: datetime | None, deadline: datetime | None
) -> None:
    """Raises Invalid unless not_before <= start_by <= deadline, the latter two in the future, none a year ahead."""
    given = [("not_before", not_before), ("start_by", start_by), ("deadline", deadline)]
    known = [(name, instant) for name, instant in given if instant is not None]
    for name, instant in known:
        if instant - now > LATEST:
            raise Invalid("invalid", f"{name} is more than a year ahead", field=f"/{name}")
        if instant <= now and name != "not_before":
            raise Invalid("invalid", f"{name} has passed already", field=f"/{name}")
    for (earlier, first), (later, second) in pairwise(known):
        if second < first:
            raise Invalid("invalid", f"{later} comes before {earlier}", field=f"/{later}")
