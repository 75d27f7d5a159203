"""Options that several commands have, and how large their numbers may be."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer

#: Of whatever the database numbers; a tenant's may be negative.
LARGEST_ID: Final = 2**63 - 1
SMALLEST_TENANT: Final = -LARGEST_ID - 1
_AGO: Final = re.compile(r"(\d{1,9})\s*([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

OfTenant = Annotated[
    int | None, typer.Option("--tenant", min=SMALLEST_TENANT, max=LARGEST_ID, help="Only what is this tenant's.")
]


def instant(text: str | None, option: str) -> datetime | None:
    """An option that says when; raises typer.BadParameter."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago is not None:
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
        at = datetime.fromisoformat(text.strip())
        return at.astimezone(UTC) if at.tzinfo is not None else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter("write RFC 3339, or an age such as 90m, 2h, 3d", param_hint=option) from None
