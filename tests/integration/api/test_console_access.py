"""Who may do what in the console: every route of it, with the scopes that it needs."""

from __future__ import annotations

from typing import Any, Final

import pytest

from services.api.console.app import routes_of
from services.api.console.rendering import MENU
from tests.support.api import Api, Tenant
from tests.support.console import browser, text_of

pytestmark = pytest.mark.asyncio(loop_scope="package")

_OPERATE: Final = frozenset({"operate"})
_SEE: Final = frozenset({"read"}) | _OPERATE
_CANCEL: Final = frozenset({"submit"}) | _OPERATE
_REPLAY: Final = frozenset({"admin"}) | _OPERATE
#: Every route: one of these scopes is needed; none: whoever is signed in may.
ROUTES: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("POST", "/console/sign-out"): frozenset(),
    ("POST", "/console/theme"): frozenset(),
    ("GET", "/console"): _SEE,
    ("GET", "/console/live"): _SEE,
    ("GET", "/console/plots"): _SEE,
    ("POST", "/console/pause-all"): _OPERATE,
    ("GET", "/console/tasks"): _SEE,
    ("GET", "/console/tasks/live"): _SEE,
    ("GET", "/console/tasks/cancel"): _CANCEL,
    ("POST", "/console/tasks/cancel"): _CANCEL,
    ("GET", "/console/tasks/{task_id}"): _SEE,
    ("GET", "/console/tasks/{task_id}/live"): _SEE,
    ("GET", "/console/tasks/{task_id}/result/{index}"): _SEE,
    ("GET", "/console/tasks/{task_id}/text/{index}"): _SEE,
    ("POST", "/console/tasks/{task_id}/cancel"): _CANCEL,
    ("GET", "/console/models"): _SEE,
    ("GET", "/console/models/live"): _SEE,
    ("GET", "/console/model"): _SEE,
    ("GET", "/console/model/live"): _SEE,
    ("POST", "/console/model/pause"): _OPERATE,
    ("GET", "/console/dead"): _SEE,
    ("GET", "/console/dead/order"): _REPLAY,
    ("POST", "/console/dead/order"): _REPLAY,
    ("GET", "/console/dead/{kind}/{id}"): _SEE,
    ("POST", "/console/dead/message/{id}/mended"): _OPERATE,
    ("GET", "/console/replays"): _SEE,
    ("GET", "/console/replays/{id}"): _SEE,
    ("GET", "/console/replays/{id}/live"): _SEE,
    ("GET", "/console/replays/{id}/items"): _SEE,
    ("POST", "/console/replays/{id}/steer"): _REPLAY,
    ("GET", "/console/tenants"): _OPERATE,
    ("GET", "/console/tenants/{id}"): _OPERATE,
    ("POST", "/console/tenants/{id}/weight"): _OPERATE,
    ("POST", "/console/tenants/{id}/pause"): _OPERATE,
    ("POST", "/console/tenants/{id}/limit"): _OPERATE,
    ("GET", "/console/audit"): _OPERATE,
    ("POST", "/console/audit"): _OPERATE,
    ("GET", "/console/outbox"): _OPERATE,
    ("GET", "/console/outbox/live"): _OPERATE,
    ("POST", "/console/outbox/pause"): _OPERATE,
    ("GET", "/console/executors"): _OPERATE,
    ("GET", "/console/executors/live"): _OPERATE,
    ("POST", "/console/executors/drain"): _OPERATE,
    ("GET", "/console/actions"): _OPERATE,
    ("GET", "/console/settings"): _OPERATE,
}
#: Nobody is signed in there yet.
OPEN: Final = {
    ("GET", "/console/static/{name:path}"), ("GET", "/console/"),
    ("GET", "/console/sign-in"), ("POST", "/console/sign-in"),
}  # fmt: skip
_NAMED: Final = {"task_id": "00000000-0000-7000-8000-000000000000", "index": "0", "kind": "task", "id": "1"}


async def test_the_matrix_is_complete() -> None:
    routes: Any = routes_of
    stated = {(method, route.path) for route in routes(None) for method in route.methods - {"HEAD"}}
    assert stated == set(ROUTES) | OPEN


@pytest.mark.parametrize("scopes", [("read",), ("read", "submit"), ("read", "submit", "admin")], ids=" ".join)
async def test_a_key_without_the_scope_is_refused(api: Api, tenant: Tenant, scopes: tuple[str, ...]) -> None:
    refused = {route: needed for route, needed in ROUTES.items() if needed and not needed & set(scopes)}
    assert refused
    async with browser(api.url) as visitor:
        await visitor.get("/console/sign-in")
        form = {"csrf": visitor.csrf, "key": await api.key(tenant.id, scopes)}
        assert (await visitor.client.post("/console/sign-in", data=form, follow_redirects=False)).status_code == 303
        for (method, path), needed in refused.items():
            answer = await visitor.client.request(method, path.format(**_NAMED))
            assert answer.status_code == 403, (method, path, answer.status_code)
            assert any(scope in text_of(answer.text) for scope in needed), (method, path)


async def test_a_key_that_operates_alone_sees_every_page_of_the_menu(api: Api, tenant: Tenant) -> None:
    async with browser(api.url) as visitor:
        await visitor.sign_in(await api.key(tenant.id, ("operate",)))
        for place in MENU:
            await visitor.get(place.path)


async def test_who_is_not_signed_in_comes_nowhere(api: Api) -> None:
    async with browser(api.url) as visitor:
        for method, path in ROUTES:
            answer = await visitor.client.request(method, path.format(**_NAMED), follow_redirects=False)
            assert answer.status_code in (303, 401), (method, path, answer.status_code)
