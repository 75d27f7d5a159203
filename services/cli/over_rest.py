"""The control room over the REST face, with an operator's key: from any machine."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from libs.client import ApiError, AsyncClient, ClientError, NotReachable
from libs.client.calls import Call, page_of, quoted
from libs.common.domain.errors import Conflict, Invalid, NotFound, Refused, RowsLocked
from services.cli.control_room import ApiUnavailable, ControlRoom, Document, Scope, Steer

if TYPE_CHECKING:
    from libs.common.operations.replay import ReplayRequest
    from libs.common.ports_dead import DeadFilter
    from libs.common.ports_insight import SeriesWanted

_LANES, _PAGE = 200, 1_000
#: What the use cases refuse, by the status that tells it. That the API knows no such path is no answer of theirs.
_REFUSALS: Final[dict[int, type[Refused]]] = {400: Invalid, 404: NotFound, 409: Conflict}
_AWAY: Final = (502, 503, 504)
_NO_ANSWER: Final = ("not_found", "bad_json", "bad_cursor")


def room_over_rest(client: AsyncClient) -> ControlRoom:
    """What the key may see and order; the key's name is recorded."""
    face = Face(client)
    return ControlRoom(
        sights=RestSights(face),
        orders=RestOrders(face),
        tenants=RestTenants(face),
        quotas=RestQuotas(face),
        keys=RestKeys(face),
        webhooks=RestWebhooks(face),
        dead=RestDead(face),
    )


@dataclass(frozen=True, slots=True)
class Face:
    """Requests that fail as the use cases behind them do."""

    client: AsyncClient

    async def get(self, path: str, **params: Any) -> Document:
        return await self._send(Call("GET", path, params=_given(params)))

    async def post(
        self, path: str, body: Document | None = None, *, repeatable: bool = True, **params: Any
    ) -> Document:
        return await self._send(Call("POST", path, params=_given(params), body=body, repeatable=repeatable))

    async def put(self, path: str, body: Document, **params: Any) -> Document:
        return await self._send(Call("PUT", path, params=_given(params), body=body))

    async def delete(self, path: str, **params: Any) -> None:
        await self._send(Call("DELETE", path, params=_given(params)))

    async def ordered(self, path: str, reason: str, **params: Any) -> str:
        """What an order came to, in a word."""
        return str((await self.post(path, {"reason": reason}, **params))["verdict"])

    async def items(self, path: str, **params: Any) -> list[Document]:
        """Items of a list that has no pages."""
        items: list[Document] = page_of(await self.get(path, **params))["items"]
        return items

    async def listed(self, path: str, most: int | None, largest: int, **params: Any) -> list[Document]:
        """Items of a list, page by page, `most` of them (all for None)."""
        found: list[Document] = []
        limit = largest if most is None else min(largest, most)
        try:
            async for item in self.client.pages(path, limit=limit, **params):
                found.append(item)
                if len(found) == most:
                    break
        except ClientError as error:
            raise _told(error) from None
        return found

    async def _send(self, call: Call) -> Document:
        try:
            answer: Document = await self.client.send(call)
        except ClientError as error:
            raise _told(error) from None
        return answer


@dataclass(frozen=True, slots=True)
class RestSights:
    """Implements control_room.Sights."""

    face: Face

    async def why_task(self, task: str) -> Document:
        return await self.face.get(f"/v1/tasks/{quoted(task)}/why")

    async def why_model(self, tenant: int, model: str) -> Document:
        return await self.face.get(f"/v1/models/{quoted(model)}/why", tenant=tenant)

    async def overview(self) -> Document:
        return await self.face.get("/v1/overview")

    async def lanes(self, tenant: int | None, *, busy: bool, most: int | None) -> list[Document]:
        return await self.face.listed("/v1/lanes", most, _LANES, tenant=tenant, busy=busy)

    async def executors(self) -> list[Document]:
        return await self.face.items("/v1/executors")

    async def outbox(self) -> list[Document]:
        return await self.face.items("/v1/outbox")

    async def pauses(self) -> list[Document]:
        return await self.face.items("/v1/pauses")

    async def series(self, wanted: SeriesWanted) -> Document:
        times = {"from": wanted.since.isoformat(), "to": wanted.until.isoformat()}
        whose = {"tenant": wanted.tenant_id, "model": wanted.model}
        return await self.face.get("/v1/series", step=wanted.step_seconds, **times, **whose)

    async def actions(self, most: int) -> list[Document]:
        return await self.face.listed("/v1/actions", most, _PAGE)


@dataclass(frozen=True, slots=True)
class RestOrders:
    """Implements control_room.Orders."""

    face: Face

    async def pause(self, scope: Scope, reason: str) -> str:
        return await self._scoped(scope, "pause", reason)

    async def resume(self, scope: Scope, reason: str) -> str:
        return await self._scoped(scope, "resume", reason)

    async def drain(self, executor: str, reason: str) -> str:
        return await self.face.ordered(f"/v1/executors/{quoted(executor)}/drain", reason)

    async def undrain(self, executor: str, reason: str) -> str:
        return await self.face.ordered(f"/v1/executors/{quoted(executor)}/undrain", reason)

    async def _scoped(self, scope: Scope, verb: str, reason: str) -> str:
        if scope.tenant is None:
            return await self.face.ordered(f"/v1/dispatch/{verb}", reason)
        if scope.model is None:
            return await self.face.ordered(f"/v1/tenants/{scope.tenant}/{verb}", reason)
        return await self.face.ordered(f"/v1/models/{quoted(scope.model)}/{verb}", reason, tenant=scope.tenant)


@dataclass(frozen=True, slots=True)
class RestTenants:
    """Implements control_room.Tenants."""

    face: Face

    async def tenants(self, most: int) -> list[Document]:
        return await self.face.listed("/v1/tenants", most, _PAGE)

    async def show(self, tenant: int) -> Document:
        return await self.face.get(f"/v1/tenants/{tenant}")

    async def weigh(self, tenant: int, weight: int) -> Document:
        return await self.face.put(f"/v1/tenants/{tenant}", {"weight": weight})


@dataclass(frozen=True, slots=True)
class RestQuotas:
    """Implements control_room.Quotas."""

    face: Face

    async def limits(self, tenant: int) -> list[Document]:
        return await self.face.listed("/v1/quota/limits", None, _PAGE, tenant=tenant)

    async def account(self, tenant: int, user: str) -> Document:
        return await self.face.get("/v1/quota", tenant=tenant, user=user)

    async def limit(self, tenant: int, user: str, points: int) -> None:
        await self.face.put(_limit(user), {"points_per_day": points}, tenant=tenant)

    async def clear(self, tenant: int, user: str) -> None:
        await self.face.delete(_limit(user), tenant=tenant)


@dataclass(frozen=True, slots=True)
class RestKeys:
    """Implements control_room.Keys."""

    face: Face

    async def keys(self, tenant: int) -> list[Document]:
        return await self.face.items("/v1/keys", tenant=tenant)

    async def create(self, tenant: int, name: str, scopes: list[str]) -> Document:
        body = {"name": name, "scopes": scopes}
        return await self.face.post("/v1/keys", body, repeatable=False, tenant=tenant)

    async def revoke(self, key: int) -> None:
        await self.face.delete(f"/v1/keys/{key}")


@dataclass(frozen=True, slots=True)
class RestWebhooks:
    """Implements control_room.Webhooks."""

    face: Face

    async def webhooks(self, *, failing: bool) -> list[Document]:
        return await self.face.listed("/v1/webhooks", None, _PAGE, failing=failing)

    async def pause(self, webhook: int, reason: str) -> str:
        return await self.face.ordered(f"/v1/webhooks/{webhook}/pause", reason)

    async def resume(self, webhook: int, reason: str) -> str:
        return await self.face.ordered(f"/v1/webhooks/{webhook}/resume", reason)


@dataclass(frozen=True, slots=True)
class RestDead:
    """Implements control_room.Dead."""

    face: Face

    async def entries(self, wanted: DeadFilter, most: int) -> list[Document]:
        return await self.face.listed("/v1/dead", most, _PAGE, kind=wanted.kind, **_narrowed(wanted))

    async def groups(self, wanted: DeadFilter) -> Document:
        return await self.face.get("/v1/dead/groups", kind=wanted.kind, **_narrowed(wanted))

    async def show(self, kind: str, dead: str) -> Document:
        return await self.face.get(f"/v1/dead/{kind}/{quoted(dead)}")

    async def preview(self, request: ReplayRequest) -> Document:
        return await self.face.post("/v1/replays", _order(request) | {"dry_run": True})

    async def start(self, request: ReplayRequest) -> Document:
        return await self.face.post("/v1/replays", _order(request), repeatable=False)

    async def jobs(self, most: int) -> list[Document]:
        return await self.face.listed("/v1/replays", most, _PAGE)

    async def job(self, job: int) -> Document:
        return await self.face.get(f"/v1/replays/{job}")

    async def items(self, job: int) -> list[Document]:
        return await self.face.listed(f"/v1/replays/{job}/items", None, _PAGE)

    async def steer(self, job: int, verb: Steer) -> Document:
        return await self.face.post(f"/v1/replays/{job}/{verb}")


def _limit(user: str) -> str:
    return f"/v1/quota/limits/{quoted(user)}" if user else "/v1/quota/limits"


def _order(request: ReplayRequest) -> Document:
    """The body of a replay; who asks is the key."""
    return _given(
        {
            "action": request.action.value,
            "kind": request.kind.value,
            "ids": request.ids,
            "filter": _narrowed(request.wanted),
            "limit": request.limit,
            "rate": request.rate,
            "reason": request.reason,
            "value_base64": None if request.mended is None else b64encode(request.mended).decode(),
        }
    )


def _narrowed(wanted: DeadFilter) -> Document:
    return _given(
        {
            "code": wanted.code,
            "model": wanted.model,
            "model_id": None if wanted.model_id is None else _model_word(wanted.model_id),
            "tenant": None if wanted.tenant is None else str(wanted.tenant),
            "since": wanted.since and wanted.since.isoformat(),
            "until": wanted.until and wanted.until.isoformat(),
            "text": wanted.text,
            "webhook": None if wanted.webhook is None else str(wanted.webhook),
        }
    )


def _model_word(model_id: int) -> str:
    from libs.common.ports_dead import NO_MODEL, NO_MODEL_WORD

    return NO_MODEL_WORD if model_id == NO_MODEL else str(model_id)


def _given(values: Document) -> Document:
    return {name: value for name, value in values.items() if value is not None}


def _told(error: ClientError) -> Exception:
    """What the use cases refused, as they refused it; anything else is about the API and stays as it is."""
    if isinstance(error, NotReachable):
        return ApiUnavailable(str(error))
    if not isinstance(error, ApiError):
        return error
    if error.code == "rows_locked":
        return RowsLocked(error.detail)
    if error.status in _AWAY:
        return ApiUnavailable(error.detail or error.code)
    refusal = _REFUSALS.get(error.status)
    if refusal is None or error.code in _NO_ANSWER or error.code.startswith("http_"):
        return error
    where = next((one.get("pointer") or one.get("parameter") or "" for one in error.errors), "")
    said = next((one.get("detail", "") for one in error.errors), "") or error.detail
    return refusal(error.code, said, field=where)
