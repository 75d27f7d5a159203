"""What PostgreSQL's "no" means to an operator: it answers, but is not the database that was meant."""

from __future__ import annotations

from typing import Final

import asyncpg

_MIGRATE: Final = "its tables are not those of this version: run `sluiceway migrate`"
_ADDRESS: Final = "see SLUICEWAY_DATABASE_URL"
_ROLE: Final = f"the role may not do this, {_ADDRESS}"
#: What to do, by SQLSTATE or the first two characters of it.
_REMEDIES: Final = {
    "42P01": _MIGRATE,  # no such table
    "42703": _MIGRATE,  # no such column
    "42883": _MIGRATE,  # no such function
    "3D000": _ADDRESS,  # no such database
    "28": _ADDRESS,  # no such role, or no line of pg_hba.conf for it
    "42501": _ROLE,
    "25006": f"it takes no writes: name the primary, {_ADDRESS}",  # a standby
    "55P03": "somebody holds a lock on its tables (pg_locks says who): try again",
}


def remedy_of(error: BaseException) -> str | None:
    """What PostgreSQL said, or its client of an address that means nothing, and what to do about it; None when `error`
    is none of these refusals."""
    answer = _answer(error)
    if answer is None:
        return None
    if isinstance(answer, asyncpg.ClientConfigurationError):
        return f"{answer} ({_ADDRESS})"
    state = answer.sqlstate or ""
    remedy = _REMEDIES.get(state) or _REMEDIES.get(state[:2])
    return remedy and f"PostgreSQL says: {answer} ({remedy})"


def _answer(error: BaseException) -> asyncpg.PostgresError | asyncpg.ClientConfigurationError | None:
    """asyncpg's error, as it is or in the wraps of SQLAlchemy."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, asyncpg.PostgresError | asyncpg.ClientConfigurationError):
        seen = getattr(seen, "orig", None) or seen.__cause__
    return seen
