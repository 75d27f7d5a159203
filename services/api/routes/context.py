"""What every route gets: the use cases, and the caller with the right to be here."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import Depends, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer

from libs.common.domain.errors import NotFound
from libs.common.domain.ids import parse_task_id
from libs.common.operations.control import Controls
from libs.common.operations.dead import Dead
from libs.common.operations.keys import Keys
from libs.common.operations.quota import Quota, Weights
from libs.common.operations.replay import Replays
from libs.common.operations.series import Series
from libs.common.operations.sight import Sight
from libs.common.operations.webhooks import WebhookAdministration
from libs.common.operations.why import Why
from libs.common.ports_operations import Operations
from libs.common.ports_tasks import KeyOwner
from services.api import strict_json
from services.api.administration import Administration
from services.api.auth import require
from services.api.cancellation import Canceling
from services.api.problems import Problem
from services.api.reading import Reading
from services.api.results import Results
from services.api.strict_json import BadJson


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the API can do."""

    administration: Administration
    reading: Reading
    operations: Operations
    canceling: Canceling
    webhooks: WebhookAdministration
    results: Results
    quota: Quota
    weights: Weights
    keys: Keys
    sight: Sight
    why: Why
    series: Series
    controls: Controls
    dead: Dead
    replays: Replays
    open_sealed: Callable[[bytes, str], bytes]


#: Many times what any object of a body of ours has. Each that is not known is complained of, in a kilobyte of memory.
_MOST_NAMES: Final = 1_000


class StrictRoute(APIRoute):
    """A route whose body is read as strict JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly


class _StrictRequest(Request):
    async def json(self) -> Any:
        body, parsing = await self.body(), self.app.state.parsing
        try:
            value = await parsing.run(self.scope["caller"].tenant_id, len(body), lambda: strict_json.read(body))
        except BadJson as error:
            raise Problem("bad_json", f"The body is not strict JSON: {error}.") from None
        inner = value.values() if isinstance(value, dict) else ()
        if any(isinstance(part, dict) and len(part) > _MOST_NAMES for part in (value, *inner)):
            raise Problem("invalid", f"The body has more than {_MOST_NAMES} names in one object.")
        return value


#: For the document alone: who calls was known before any route was looked for.
_bearer: Final = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="`sluiceway keys create` makes a key.")
_user_info: Final = APIKeyHeader(
    name="X-User-Info", auto_error=False, scheme_name="UserInfo", description="From peers of SLUICEWAY_TRUSTED_PEERS."
)


def _use_cases(request: Request) -> UseCases:
    cases: UseCases = request.app.state.use_cases
    return cases


def _caller_with(scope: str) -> Callable[[Request], KeyOwner]:
    def caller(
        request: Request,
        _key: Annotated[Any, Security(_bearer)] = None,
        _peer: Annotated[Any, Security(_user_info)] = None,
    ) -> KeyOwner:
        owner: KeyOwner = request.scope["caller"]
        require(owner, scope)
        return owner

    return caller


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a caller's hands go: `tenant` is the only one whose things may be seen or moved, None for everybody's."""

    caller: KeyOwner
    tenant: int | None

    @property
    def name(self) -> str:
        """Who it is, for records that are kept."""
        key = self.caller.name or (f"key {self.caller.id}" if self.caller.id else "nameless user")
        return f"{key} of tenant {self.caller.tenant_id}"


def _reach_with(scope: str) -> Callable[[Request], Reach]:
    """The scope `operate` reaches all tenants; any other key needs `scope` and reaches its own."""

    def reach(
        request: Request,
        _key: Annotated[Any, Security(_bearer)] = None,
        _peer: Annotated[Any, Security(_user_info)] = None,
    ) -> Reach:
        owner: KeyOwner = request.scope["caller"]
        if "operate" in owner.scopes:
            return Reach(owner, None)
        require(owner, scope)
        return Reach(owner, owner.tenant_id)

    return reach


def name_of(caller: KeyOwner) -> str:
    """Who it was, for the record."""
    return caller.name or f"key {caller.id}"


def tenant_of(caller: KeyOwner, named: int | None) -> int:
    """The tenant that is meant; raises Problem (403) for another one's."""
    if named is not None and named != caller.tenant_id and "operate" not in caller.scopes:
        raise Problem("forbidden", "Other tenants are for keys with the scope 'operate'.")
    return caller.tenant_id if named is None else named


def number_of(text: str) -> int | None:
    """The number that an id in a path is; None for what is none of ours."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 19):
        return None
    number = int(text)
    return number if number < 2**63 else None


def task_id_of(task_id: str) -> UUID:
    """The task that an address names; raises NotFound."""
    parsed = parse_task_id(task_id)
    if parsed is None:
        raise NotFound("task_unknown", "there is no such task")
    return parsed


Cases = Annotated[UseCases, Depends(_use_cases)]
Submitter = Annotated[KeyOwner, Depends(_caller_with("submit"))]
Reader = Annotated[KeyOwner, Depends(_caller_with("read"))]
Operator = Annotated[KeyOwner, Depends(_caller_with("operate"))]
Admin = Annotated[KeyOwner, Depends(_caller_with("admin"))]
Seeing = Annotated[Reach, Depends(_reach_with("read"))]
Moving = Annotated[Reach, Depends(_reach_with("admin"))]
TaskId = Annotated[UUID, Depends(task_id_of)]
