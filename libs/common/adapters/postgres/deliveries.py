"""Deliveries of webhooks in PostgreSQL, from the sender's side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.right import Right
from libs.common.ports_webhooks import Delivery, HookedEvent, Line, Tried


class PostgresDeliveries:
    """Implements ports_webhooks.Deliveries. The sender's lock lives on a connection of its own, and dies with it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._right = Right(database, "become_sender", "sends")

    async def hold_sender(self) -> bool:
        return await self._right.hold()

    async def close(self) -> None:
        """Give the right up."""
        self._right.give_up()

    async def due(self, after: Line, lines: int, per_line: int) -> tuple[list[Delivery], Line | None]:
        rows = await self._database.fetch("due_deliveries", per_line, lines, *after)
        seen = [(row["webhook_id"], row["line"]) for row in rows]  # in the database's order, which is not Python's
        due = [Delivery(**row) for row in rows if row["id"] is not None]
        return due, seen[-1] if len(set(seen)) == lines else None

    async def tried(self, tries: Sequence[Tried], give_up_seconds: float) -> list[int]:
        ordered = sorted(tries, key=lambda tried: tried.delivery.id)
        answers = [tried.answer for tried in ordered]
        rows = await self._database.fetch(
            "deliveries_tried",
            [tried.delivery.id for tried in ordered],
            [tried.delivery.attempts for tried in ordered],
            [tried.delivery.round for tried in ordered],
            [answer.accepted for answer in answers],
            [answer.gone for answer in answers],
            [answer.code for answer in answers],
            [answer.error for answer in answers],
            [answer.cost_ms for answer in answers],
            [answer.body for answer in answers],
            [tried.pause for tried in ordered],
            give_up_seconds,
        )
        return [row["id"] for row in rows]

    async def bury(self, limit: int) -> int:
        return len(await self._database.fetch("bury_deliveries", limit))


def hooked_columns(events: Sequence[HookedEvent]) -> tuple[list[Any], ...]:
    """The arguments of `hand_to_webhooks`."""
    return (
        [event.id for event in events],
        [event.tenant_id for event in events],
        [event.task_id for event in events],
        [event.bit for event in events],
        [event.message_id for event in events],
        [event.type for event in events],
        [event.body for event in events],
        [event.url for event in events],
        [event.line for event in events],
    )
