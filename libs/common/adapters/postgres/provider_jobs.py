"""Jobs at providers in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import orjson

from libs.common.adapters.postgres.attempts import fence
from libs.common.adapters.postgres.database import Database
from libs.common.ports_attempts import Attempt
from libs.common.ports_jobs import COLLECT_SECONDS
from libs.common.ports_provider_jobs import (
    JobCallback,
    JobIntent,
    JobNews,
    JobRow,
    TellLater,
    UnwantedJob,
    UnwantedLook,
)

#: Callbacks of one job that wait to be read: the newest so many.
_KEPT_CALLBACKS: Final = 8


class PostgresProviderJobs:
    """Implements ports_provider_jobs.ProviderJobs and CallbackBox."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def intend_many(self, rows: Sequence[tuple[Attempt, JobIntent]]) -> dict[int, float | None]:
        intents = [intent for _, intent in rows]
        answers = await self._database.fetch(
            "intend_jobs",
            *fence([attempt for attempt, _ in rows]),
            [intent.key for intent in intents],
            [intent.adapter for intent in intents],
            [intent.polls for intent in intents],
            [intent.seconds for intent in intents],
            COLLECT_SECONDS,
        )
        return {row["id"]: row["intended_at"] for row in answers}

    async def resume_many(self, attempts: Sequence[Attempt]) -> dict[int, JobRow]:
        rows = await self._database.fetch("resume_jobs", *fence(attempts), COLLECT_SECONDS)
        return {
            row["id"]: JobRow(
                row["intent_key"],
                row["adapter"],
                row["provider_id"] or "",
                row["permit_token"],
                row["status"],
                row["unit_progress"],
                row["message"],
                row["intended_at"],
                row["seconds_left"],
            )
            for row in rows
        }

    async def own_permits(self, attempts: Sequence[Attempt]) -> set[int]:
        return {row["id"] for row in await self._database.fetch("own_permits", *fence(attempts))}

    async def news_many(self, rows: Sequence[tuple[Attempt, JobNews]]) -> dict[int, str]:
        news = [one for _, one in rows]
        answers = await self._database.fetch(
            "job_news",
            *fence([attempt for attempt, _ in rows]),
            [one.provider_id or None for one in news],
            [one.status for one in news],
            [one.unit_progress for one in news],
            [one.message for one in news],
            [one.begun for one in news],
        )
        return {row["id"]: row["former"] for row in answers}

    async def named_late(self, key: UUID, provider_id: str) -> bool:
        if await self._database.fetch("job_named_late", key, provider_id):
            return True
        return bool(await self._database.fetch("job_named", key, provider_id))

    async def unwanted_permits(self, limit: int) -> list[tuple[int, UUID]]:
        rows = await self._database.fetch("unwanted_permits", limit)
        return [(row["lane"], row["permit_token"]) for row in rows]

    async def unwanted(self, look: UnwantedLook) -> list[UnwantedJob]:
        rows = await self._database.fetch(
            "unwanted_jobs",
            look.limit,
            look.again_seconds,
            look.of_a_lane,
            list(look.adapters),
            list(look.at_work),
            list(look.at_work.values()),
        )
        return [
            UnwantedJob(
                row["intent_key"],
                row["lane"],
                row["model_id"],
                row["adapter"],
                row["provider_id"] or "",
                row["tries"],
                row["intended_at"],
                row["ended_for"],
            )
            for row in rows
        ]

    async def tell_later(self, rows: Sequence[TellLater]) -> None:
        await self._database.fetch(
            "jobs_told_later",
            [row.key for row in rows],
            [row.seconds for row in rows],
            [row.tried for row in rows],
        )

    async def told(self, jobs: Sequence[UnwantedJob]) -> None:
        await self._database.fetch("jobs_told", [job.key for job in jobs], [job.provider_id for job in jobs])

    async def weigh_callbacks(self, attempts: Sequence[Attempt]) -> dict[int, int]:
        rows = await self._database.fetch("weigh_callbacks", *_numbers(attempts))
        return {row["id"]: row["size"] for row in rows}

    async def callbacks(self, attempts: Sequence[Attempt]) -> dict[int, list[JobCallback]]:
        rows = await self._database.fetch("read_callbacks", *_numbers(attempts))
        found: dict[int, list[JobCallback]] = {}
        for row in rows:
            callback = JobCallback(row["id"], orjson.loads(row["headers"]), row["body"])
            found.setdefault(row["task_id"], []).append(callback)
        return found

    async def drop_callbacks(self, ids: Sequence[int]) -> None:
        await self._database.fetch("drop_callbacks", sorted(ids))

    async def keep(self, key: UUID, headers: Mapping[str, str], body: bytes) -> int | None:
        rows = await self._database.fetch(
            "keep_callback", key, orjson.dumps(dict(headers)).decode(), body, _KEPT_CALLBACKS
        )
        return rows[0]["id"] if rows else None


def _numbers(attempts: Sequence[Attempt]) -> tuple[list[int], list[int]]:
    return [attempt.id for attempt in attempts], [attempt.number for attempt in attempts]
