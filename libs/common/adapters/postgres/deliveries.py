"""Deliveries of webhooks in PostgreSQL, from the sender's side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.paging import BEHIND_ALL
from libs.common.adapters.postgres.right import Right
from libs.common.ports_webhooks import Delivery, HookedEvent, Place, Reach, Tried


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

    async def due(self, place: Place, reach: Reach) -> tuple[list[Delivery], bool]:
        rows = await self._database.fetch(
            "due_deliveries",
            reach.deliveries,
            reach.webhooks,
            place.after,
            reach.lines,
            list(place.inside),
            list(place.inside.values()),
            reach.ahead,
        )
        lines: dict[int, list[str]] = {}
        for row in rows:  # in the database's order, which is not Python's
            seen = lines.setdefault(row["webhook_id"], [])
            if row["line"] is not None and row["line"] not in seen[-1:]:
                seen.append(row["line"])
        more = len(lines) == reach.webhooks
        end = max(lines) if more else BEHIND_ALL
        place.inside = {id_: line for id_, line in place.inside.items() if not place.after < id_ <= end}
        place.inside |= {id_: seen[-1] for id_, seen in lines.items() if len(seen) == reach.lines}
        place.after = end if more else Place().after
        return [Delivery(**row) for row in rows if row["id"] is not None], more or bool(place.inside)

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
            [tried.delivery.webhook_id for tried in ordered],
            [tried.delivery.message_id for tried in ordered],
        )
        return [row["id"] for row in rows]

    async def locked(self, tries: Sequence[Tried]) -> list[bool]:
        deliveries = [tried.delivery for tried in tries]
        rows = await self._database.fetch(
            "locked_deliveries", [one.id for one in deliveries], [one.webhook_id for one in deliveries]
        )
        kept = {row["id"] for row in rows}
        return [one.id in kept for one in deliveries]

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
        [event.finished_at for event in events],
    )
