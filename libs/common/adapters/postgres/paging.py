"""Lists in pages: one row more than fits is asked for, and tells that another page follows."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final, TypeVar

Found = TypeVar("Found")

#: Every id is below it: where a list that goes down begins.
BEHIND_ALL: Final = 2**63 - 1


def page_of(
    found: list[Found], limit: int, place_of: Callable[[Found], int] = attrgetter("id")
) -> tuple[list[Found], int | None]:
    """The first `limit` of what was found, and the place of the last of them if there are more."""
    page = found[:limit]
    return page, place_of(page[-1]) if len(found) > limit else None
