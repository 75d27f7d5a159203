"""Numbers that are counted no further than anybody needs to know."""

from __future__ import annotations

from typing import NamedTuple


class Count(NamedTuple):
    """A number counted up to a limit: not `exact` means that there are more."""

    value: int
    exact: bool = True
