"""Identifiers that outsiders see."""

from __future__ import annotations

import re
from collections.abc import Iterable
from uuid import UUID

_SLUG = re.compile(r"[^a-z0-9]+")
_SLUG_LIMIT = 60


def slug(name: str) -> str:
    """A topic-safe shadow of a name, for human eyes; uniqueness comes from the id beside it."""
    return _SLUG.sub("-", name.lower()).strip("-")[:_SLUG_LIMIT].strip("-") or "model"


def parse_task_id(text: str) -> UUID | None:
    """The task id that a 36-character UUID string names, else None."""
    if len(text) != 36:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None


def parse_task_ids(texts: Iterable[str]) -> list[UUID]:
    """The task ids among these, in order."""
    return [parsed for text in texts if (parsed := parse_task_id(text)) is not None]
