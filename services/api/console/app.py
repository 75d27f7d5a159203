"""The console as an ASGI application: its routes, and what it answers when something goes wrong."""

from __future__ import annotations

from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from libs.common.domain.errors import SluicewayError
from libs.common.runtime.logging import get_logger
from services.api.answers import Begun
from services.api.bodies import ClientGone
from services.api.console.assets import asset
from services.api.console.live import is_live, not_now
from services.api.console.pages import (
    actions,
    audit,
    dead,
    fleet,
    models,
    outbox,
    overview,
    replays,
    result,
    settings,
    signing,
    task,
    tasks,
    tenants,
)
from services.api.console.rendering import outside, page
from services.api.console.sessions import SEEING
from services.api.console.tools import SignInNeeded, Tools, done, enter, shown
from services.api.console.visit import CANCELING, REPLAYING
from services.api.problems import problem_of
from services.api.tracing import trace_id_of

log = get_logger()

PREFIX: Final = "/console"


class Console:
    """Everything under /console."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._router = Router(routes_of(tools), redirect_slashes=False)

    @staticmethod
    def owns(path: str) -> bool:
        """Whether a path is one of the console's."""
        return path == PREFIX or path.startswith(PREFIX + "/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # without one, the router itself answers what it does not know
        begun = Begun(send)
        try:
            await self._router(scope, receive, begun)
        except ClientGone:
            raise
        except Exception as error:
            if begun.yes:
                raise
            request = Request(scope, receive)
            await (await _refusal(self._tools, request, error))(scope, receive, send)


def routes_of(tools: Tools) -> list[Route]:
    """All that there is, and who may."""
    return [
        Route(f"{PREFIX}/static/{{name:path}}", asset, methods=["GET"]),
        Route(signing.SIGN_IN, partial(signing.sign_in_page, tools), methods=["GET"]),
        Route(signing.SIGN_IN, partial(signing.sign_in, tools), methods=["POST"]),
        done(tools, f"{PREFIX}/sign-out", signing.sign_out),
        done(tools, f"{PREFIX}/theme", signing.choose_theme),
        shown(tools, PREFIX, overview.show, *SEEING),
        Route(f"{PREFIX}/", _without_slash, methods=["GET"]),
        shown(tools, f"{PREFIX}/live", overview.live, *SEEING),
        shown(tools, f"{PREFIX}/plots", overview.plots, *SEEING),
        done(tools, f"{PREFIX}/pause-all", models.pause_all, "operate"),
        shown(tools, f"{PREFIX}/tasks", tasks.show, *SEEING),
        shown(tools, f"{PREFIX}/tasks/live", tasks.live, *SEEING),
        shown(tools, f"{PREFIX}/tasks/cancel", tasks.ask_cancel, *CANCELING),
        done(tools, f"{PREFIX}/tasks/cancel", tasks.cancel, *CANCELING),
        shown(tools, f"{PREFIX}/tasks/{{task_id}}", task.show, *SEEING),
        shown(tools, f"{PREFIX}/tasks/{{task_id}}/live", task.live, *SEEING),
        shown(tools, f"{PREFIX}/tasks/{{task_id}}/result/{{index}}", result.media, *SEEING),
        shown(tools, f"{PREFIX}/tasks/{{task_id}}/text/{{index}}", result.text, *SEEING),
        done(tools, f"{PREFIX}/tasks/{{task_id}}/cancel", task.cancel, *CANCELING),
        shown(tools, f"{PREFIX}/models", models.show, *SEEING),
        shown(tools, f"{PREFIX}/models/live", models.live, *SEEING),
        shown(tools, f"{PREFIX}/model", models.show_one, *SEEING),
        shown(tools, f"{PREFIX}/model/live", models.live_one, *SEEING),
        done(tools, f"{PREFIX}/model/pause", models.pause, "operate"),
        shown(tools, f"{PREFIX}/dead", dead.show, *SEEING),
        shown(tools, f"{PREFIX}/dead/order", dead.ask, *REPLAYING),
        done(tools, f"{PREFIX}/dead/order", dead.order, *REPLAYING),
        shown(tools, f"{PREFIX}/dead/{{kind}}/{{id}}", dead.show_one, *SEEING),
        done(tools, f"{PREFIX}/dead/message/{{id}}/mended", dead.mend, "operate", most=dead.MENDED_FORM_BYTES),
        shown(tools, f"{PREFIX}/replays", replays.show, *SEEING),
        shown(tools, f"{PREFIX}/replays/{{id}}", replays.show_one, *SEEING),
        shown(tools, f"{PREFIX}/replays/{{id}}/live", replays.live, *SEEING),
        shown(tools, f"{PREFIX}/replays/{{id}}/items", replays.items, *SEEING),
        done(tools, f"{PREFIX}/replays/{{id}}/steer", replays.steer, *REPLAYING),
        shown(tools, f"{PREFIX}/tenants", tenants.show, "operate"),
        shown(tools, f"{PREFIX}/tenants/{{id}}", tenants.show_one, "operate"),
        done(tools, f"{PREFIX}/tenants/{{id}}/weight", tenants.weigh, "operate"),
        done(tools, f"{PREFIX}/tenants/{{id}}/pause", tenants.pause, "operate"),
        done(tools, f"{PREFIX}/tenants/{{id}}/limit", tenants.limit, "operate"),
        shown(tools, f"{PREFIX}/audit", audit.show, "operate"),
        done(tools, f"{PREFIX}/audit", audit.run, "operate"),
        shown(tools, f"{PREFIX}/outbox", outbox.show, "operate"),
        shown(tools, f"{PREFIX}/outbox/live", outbox.live, "operate"),
        done(tools, f"{PREFIX}/outbox/pause", outbox.pause, "operate"),
        shown(tools, f"{PREFIX}/executors", fleet.show, "operate"),
        shown(tools, f"{PREFIX}/executors/live", fleet.live, "operate"),
        done(tools, f"{PREFIX}/executors/drain", fleet.drain, "operate"),
        shown(tools, f"{PREFIX}/actions", actions.show, "operate"),
        shown(tools, f"{PREFIX}/settings", settings.show, "operate"),
    ]


async def _without_slash(_: Request) -> Response:
    """To the overview: people type both."""
    return RedirectResponse(PREFIX, 303)


async def _refusal(tools: Tools, request: Request, error: Exception) -> Response:
    """The page of a problem: what went wrong, what to do, and what to quote when it is ours."""
    if isinstance(error, SignInNeeded):
        return signing.to_sign_in(request)
    problem = problem_of(error)
    if problem.status_code == 503 and is_live(request.url.path):
        return not_now((problem.headers or {}).get("Retry-After", "5"))
    trace_id = trace_id_of(request.scope["trace"])
    if problem.code == "internal":
        log.error("request.failed", path=request.url.path, trace_id=trace_id, exc_info=error)
    values = {"problem": problem.body(trace_id)}
    try:
        visit = await enter(tools, request, ())
    except (SignInNeeded, SluicewayError):
        answer = outside(request, "problem_outside.html", status=problem.status_code, **values)
    else:
        answer = page(visit, "problem.html", status=problem.status_code, **values)
    answer.headers.update(problem.headers or {})
    return answer
