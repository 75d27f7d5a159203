"""The dead, and the jobs that replay or drop them, in PostgreSQL.

Longer than other adapters: four kinds of dead are listed, grouped and shown alike, each from rows of its own.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import orjson

from libs.common.adapters.postgres.database import Database
from libs.common.adapters.postgres.paging import BEHIND_ALL, page_of
from libs.common.adapters.postgres.tasks import EXAMINE_LIMIT, STORY_LIMIT, name_was_used
from libs.common.domain.ids import parse_task_id
from libs.common.domain.task import TaskStatus
from libs.common.ports_dead import (
    NO_MODEL_WORD,
    Action,
    DeadEntry,
    DeadFilter,
    DeadGroup,
    DeadGroups,
    DeadKind,
    DeadPlace,
    DeadStory,
    ItemResult,
    Job,
    JobItem,
    JobOrder,
    JobState,
    Selection,
    SentRequest,
)
from libs.common.ports_dispatch import Headers

#: The dead tasks whose causes one look counts, and that a page with a filter looks at; of other kinds EXAMINE_LIMIT.
COUNTED: Final = 50_000
#: Groups that one look gives.
MOST_GROUPS: Final = 200
_PAYLOAD_BYTES: Final = 65_536
_LATEST: Final = datetime(9999, 1, 1, tzinfo=UTC)
_EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
_RANKS: Final = tuple(DeadKind)
_PAGES: Final = {
    DeadKind.TASK: "dead_tasks",
    DeadKind.EVENT: "dead_events",
    DeadKind.DELIVERY: "dead_deliveries",
    DeadKind.MESSAGE: "dead_messages",
}


class PostgresDead:
    """Implements ports_dead.DeadRows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, reach: int | None, wanted: DeadFilter, after: DeadPlace | None, limit: int
    ) -> tuple[list[DeadEntry], DeadPlace | None]:
        if not await self._can_be(reach, wanted):
            return [], None
        found: list[tuple[DeadPlace, DeadEntry]] = []
        floors: list[DeadPlace] = []
        for kind in _kinds(reach, wanted):
            rows = await self._look(reach, kind, wanted, after, limit + 1)
            rank = _RANKS.index(kind)
            entries = [_entry(reach, kind, row) for row in rows if row.key is not None]
            found += [(DeadPlace(entry.died_at, rank, entry.key), entry) for entry in entries]
            if len(entries) <= limit and rows[0].full_look:
                floors.append(DeadPlace(rows[0].last_at, rank, rows[0].last_id))
        return _merged(found, max(floors, default=None), limit)

    async def groups(self, reach: int | None, wanted: DeadFilter) -> DeadGroups:
        if not await self._can_be(reach, wanted):
            return DeadGroups([], 0, True)
        groups: list[DeadGroup] = []
        counted, complete = 0, True
        for kind in _kinds(reach, wanted):
            examine = _counted(kind, wanted)
            rows = await self._database.query(
                f"dead_{kind}_groups", at=wanted.until or _LATEST, limit=MOST_GROUPS, examine=examine,
                **_asked(kind, reach, wanted),
            )  # fmt: skip
            here = [_group(kind, row._mapping) for row in rows if row.count is not None]
            groups += here
            counted += sum(group.count for group in here)
            complete = complete and rows[0].looked < examine and len(here) < MOST_GROUPS
        return DeadGroups(sorted(groups, key=lambda group: (-group.count, group.kind, group.code)), counted, complete)

    async def find(self, reach: int | None, kind: DeadKind, id: str) -> DeadEntry | None:
        for key, died_at in (await self._rows_of(reach, kind, [id])).values():
            rows = await self._database.query(
                _PAGES[kind], at=died_at, id=key + 1, limit=1, examine=1, **_asked(kind, reach, DeadFilter())
            )
            for row in rows:
                if row.key == key:
                    return _entry(reach, kind, row)
        return None

    async def keys(self, reach: int | None, kind: DeadKind, ids: Sequence[str]) -> dict[str, int]:
        return {id_: key for id_, (key, _) in (await self._rows_of(reach, kind, ids)).items()}

    async def story(self, reach: int | None, entry: DeadEntry) -> DeadStory:
        replays = await self._rows("dead_replays", kind=entry.kind, key=entry.key, tenant_id=reach)
        if entry.kind is DeadKind.MESSAGE:
            return await self._message(entry, replays)
        if entry.kind is not DeadKind.TASK:
            return DeadStory(entry, replays=replays)
        asked = {"key": entry.key, "tenant_id": entry.tenant_id}
        return DeadStory(
            entry,
            attempts=await self._rows("dead_attempts", **asked, limit=STORY_LIMIT),
            history=await self._rows("dead_history", **asked, limit=STORY_LIMIT),
            provider_jobs=await self._rows("dead_provider_jobs", **asked),
            events=await self._rows("dead_events_of", **asked),
            replays=replays,
            request=await self._request(asked),
        )

    async def _can_be(self, reach: int | None, wanted: DeadFilter) -> bool:
        """Whether anything can fit: no walk is begun for the dead of others, or of a model that never was."""
        if reach is not None and wanted.tenant not in (None, reach):
            return False
        return await name_was_used(self._database, _tenant(reach, wanted), wanted.model)

    async def _look(
        self, reach: int | None, kind: DeadKind, wanted: DeadFilter, after: DeadPlace | None, limit: int
    ) -> Sequence[Any]:
        at, last = _before(kind, wanted, after)
        examine = _examined(kind, wanted, limit)
        return await self._database.query(
            _PAGES[kind], at=at, id=last, limit=limit, examine=examine, **_asked(kind, reach, wanted)
        )

    async def _rows_of(self, reach: int | None, kind: DeadKind, ids: Sequence[str]) -> dict[str, tuple[int, datetime]]:
        if kind is DeadKind.MESSAGE and reach is not None:
            return {}
        tenant = {} if kind is DeadKind.MESSAGE else {"tenant_id": reach}
        named: dict[str, UUID | int]
        if kind is DeadKind.TASK:
            named = {id_: parsed for id_ in ids if (parsed := parse_task_id(id_)) is not None}
        else:
            named = {id_: int(id_) for id_ in ids if id_.isascii() and id_.isdecimal() and len(id_) < 19}
        wanted = {"public_ids" if kind is DeadKind.TASK else "ids": list(named.values())}
        rows = await self._database.query(f"dead_{kind}_keys", **wanted, **tenant) if named else []
        found = {row.id: (row.key, row.died_at) for row in rows}
        return {id_: found[str(name)] for id_, name in named.items() if str(name) in found}

    async def _request(self, asked: Mapping[str, Any]) -> SentRequest | None:
        for row in await self._database.query("dead_request", most=_PAYLOAD_BYTES, **asked):
            return SentRequest(
                row.http_method, row.base_url, row.route, row.bindings, row.tenant_id, row.payload, row.size
            )
        return None

    async def _message(self, entry: DeadEntry, replays: Sequence[Mapping[str, Any]]) -> DeadStory:
        for row in await self._database.query("dead_bytes", key=entry.key):
            return DeadStory(
                entry,
                replays=replays,
                key=row.key,
                value=row.value,
                value_size=row.size,
                headers=headers_of(row.headers),
            )
        return DeadStory(entry, replays=replays)

    async def _rows(self, name: str, **values: Any) -> list[dict[str, Any]]:
        return [dict(row._mapping) for row in await self._database.query(name, **values)]


class PostgresReplayJobs:
    """Implements ports_dead.ReplayJobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def select(self, order: JobOrder) -> Selection:
        may_refuse = order.action is Action.REPLAY and order.mended is None
        rows = await self._database.fetch("replay_selection", *_order(order), may_refuse)
        groups = [_group(order.kind, dict(row)) for row in rows if row["count"] is not None]
        refused = orjson.loads(rows[0]["refused"]) if rows[0]["refused"] is not None else {}
        return Selection(rows[0]["selected"], rows[0]["busy"], groups, refused)

    async def create(self, order: JobOrder) -> Job:
        async with self._database.transaction() as transaction:
            (made,) = await transaction.fetch(
                "create_replay_job", order.reach, order.action, order.kind, orjson.dumps(_asked_for(order)).decode(),
                order.limit, order.rate, order.reason, order.asked_by, order.mended,
            )  # fmt: skip
            items = await transaction.fetch("create_replay_items", *_order(order), made["id"])
            (row,) = await transaction.fetch("count_replay_items", made["id"], len(items))
        return _job(dict(row))

    async def page(self, reach: int | None, before: int | None, limit: int) -> tuple[list[Job], int | None]:
        start = BEHIND_ALL if before is None else before
        rows = await self._database.query("replay_jobs", tenant_id=reach, before=start, limit=limit + 1)
        return page_of([_job(row._mapping) for row in rows], limit)

    async def find(self, reach: int | None, id: int) -> Job | None:
        for row in await self._database.query("replay_job", tenant_id=reach, id=id):
            return _job(row._mapping)
        return None

    async def items(self, job: int, after: int | None, limit: int) -> tuple[list[JobItem], int | None]:
        start = -1 if after is None else after
        rows = await self._database.query("replay_items", job=job, after=start, limit=limit + 1)
        return page_of([_item(row) for row in rows], limit, attrgetter("key"))

    async def steer(self, reach: int | None, id: int, state: JobState) -> Job | None:
        await self._database.query("steer_replay", tenant_id=reach, id=id, state=state)
        return await self.find(reach, id)


def headers_of(stored: str | Sequence[Any] | None) -> Headers:
    """Headers as they lie in `dead_message`: text, base64 where they are none, null where there is no value."""
    parsed: Sequence[Any] = orjson.loads(stored) if isinstance(stored, str) else stored or ()
    return [(name, _value(value)) for name, value in parsed]


def stored_headers(headers: Headers) -> str:
    """Headers as they come to lie there."""
    return orjson.dumps([[_storable(name), _stored(value)] for name, value in headers]).decode()


def _value(stored: str | Mapping[str, str] | None) -> bytes | None:
    if stored is None:
        return None
    return stored.encode() if isinstance(stored, str) else base64.b64decode(stored["base64"])


def _stored(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\x00"
    return {"base64": base64.b64encode(value).decode()} if "\x00" in text else text


def _storable(name: str) -> str:
    return name.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _kinds(reach: int | None, wanted: DeadFilter) -> list[DeadKind]:
    """Messages belong to no tenant and no model, and deliveries alone to a webhook."""
    if wanted.webhook is not None:
        return [DeadKind.DELIVERY] if wanted.kind in (None, DeadKind.DELIVERY) else []
    owned = reach is not None or wanted.tenant is not None or wanted.model is not None or bool(wanted.model_id)
    return [kind for kind in DeadKind if wanted.kind in (None, kind) and not (owned and kind is DeadKind.MESSAGE)]


def _tenant(reach: int | None, wanted: DeadFilter) -> int | None:
    return reach if reach is not None else wanted.tenant


def _asked(kind: DeadKind, reach: int | None, wanted: DeadFilter) -> dict[str, Any]:
    asked: dict[str, Any] = {"code": wanted.code, "part": wanted.text, "since": wanted.since or _EARLIEST}
    if kind is DeadKind.MESSAGE:
        return asked
    asked |= {"tenant_id": _tenant(reach, wanted), "model": wanted.model, "model_id": wanted.model_id}
    return asked | {"webhook": wanted.webhook} if kind is DeadKind.DELIVERY else asked


def _examined(kind: DeadKind, wanted: DeadFilter, limit: int) -> int:
    """How many rows a page may look at: none more than it shows, where nothing is left out."""
    if all(asked is None for asked in (wanted.code, wanted.model, wanted.model_id, wanted.text)):
        return limit
    return _counted(kind, wanted)


def _counted(kind: DeadKind, wanted: DeadFilter) -> int:
    """Dead tasks are narrow rows, as long as their errors' messages are not asked for."""
    return COUNTED if kind is DeadKind.TASK and wanted.text is None else EXAMINE_LIMIT


def _before(kind: DeadKind, wanted: DeadFilter, after: DeadPlace | None) -> tuple[datetime, int]:
    """The (instant, row) that a kind's page begins below."""
    until = (wanted.until or _LATEST, -1)
    if after is None:
        return until
    rank = _RANKS.index(kind)
    # The list goes down by instant, then rank, then row.
    row = after.id if rank == after.rank else BEHIND_ALL if rank < after.rank else -1
    return min(until, (after.at, row))


def _merged(
    found: list[tuple[DeadPlace, DeadEntry]], floor: DeadPlace | None, limit: int
) -> tuple[list[DeadEntry], DeadPlace | None]:
    """The first of all kinds; below the floor some kind was not looked at."""
    found.sort(key=lambda one: one[0], reverse=True)
    seen = [one for one in found if floor is None or one[0] >= floor]
    if len(seen) > limit:
        return [entry for _, entry in seen[:limit]], seen[limit - 1][0]
    return [entry for _, entry in seen], floor


def _entry(reach: int | None, kind: DeadKind, row: Any) -> DeadEntry:
    told = row._mapping
    task = told.get("public_id")
    status = told.get("status")
    return DeadEntry(
        kind=kind,
        key=row.key,
        id=str(task) if kind is DeadKind.TASK else str(row.key),
        tenant_id=told.get("tenant_id"),
        model=told.get("model"),
        code=row.code,
        message=row.message or "",
        died_at=row.died_at,
        task_id=task,
        status=None if status is None else TaskStatus(status).word,
        attempt=told.get("attempt"),
        version=told.get("version"),
        staged=bool(told.get("staged")),
        topic=told.get("topic"),
        partition=told.get("partition"),
        offset=told.get("offset"),
        webhook=told.get("webhook_id"),
        pending=row.pending if reach is None or told.get("pending_of") == reach else None,
        in_hand=row.pending is not None,
    )


def _group(kind: DeadKind, row: Mapping[str, Any]) -> DeadGroup:
    return DeadGroup(
        kind=kind,
        code=row["code"],
        tenant_id=row.get("tenant_id"),
        model_id=row.get("model_id"),
        model=row.get("model"),
        count=row["count"],
        first_at=row["first_at"],
        last_at=row["last_at"],
        example_id=row["example_id"],
        example=row["example"] or "",
    )


def _order(order: JobOrder) -> tuple[Any, ...]:
    wanted = order.wanted
    return (
        order.kind,
        _tenant(order.reach, wanted),
        list(order.keys) if order.keys is not None else None,
        wanted.code,
        wanted.model,
        wanted.since or _EARLIEST,
        wanted.until or _LATEST,
        wanted.text,
        order.limit,
        wanted.model_id,
        wanted.webhook,
    )


def _asked_for(order: JobOrder) -> dict[str, Any]:
    if order.keys is not None:
        return {"ids": len(order.keys)}
    wanted = order.wanted
    filled = {
        "code": wanted.code,
        "model": wanted.model,
        "model_id": str(wanted.model_id or NO_MODEL_WORD) if wanted.model_id is not None else None,
        "tenant": str(wanted.tenant) if wanted.tenant is not None else None,
        "since": wanted.since,
        "until": wanted.until,
        "text": wanted.text,
        "webhook": str(wanted.webhook) if wanted.webhook is not None else None,
    }
    return {name: value for name, value in filled.items() if value is not None}


def _job(row: Mapping[str, Any]) -> Job:
    asked = row["asked"]
    return Job(
        id=row["id"],
        reach=row["tenant_id"],
        action=Action(row["action"]),
        kind=DeadKind(row["kind"]),
        asked=orjson.loads(asked) if isinstance(asked, str) else asked,
        limit=row["most"],
        rate=row["rate"],
        reason=row["reason"],
        asked_by=row["asked_by"],
        state=JobState(row["state"]),
        total=row["total"],
        results={result: row[result] for result in ItemResult},
        refusals=row["refusals"],
        note=row["note"],
        created_at=row["created_at"],
        changed_at=row["changed_at"],
        ended_at=row["ended_at"],
    )


def _item(row: Any) -> JobItem:
    return JobItem(
        key=row.key,
        id=row.public_id,
        tenant_id=row.tenant_id,
        code=row.error_code,
        result=ItemResult(row.result) if row.result is not None else None,
        detail=row.detail,
        tries=row.tries,
        due_at=row.due_at,
        ended_at=row.ended_at,
    )
