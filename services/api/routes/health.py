"""/livez, /readyz, /startupz, /metrics: on the API's own port."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from libs.common.runtime.health import PROBE_PATHS, Health

router = APIRouter(include_in_schema=False)


async def probe(request: Request) -> Response:
    """What this process says about itself."""
    health: Health = request.app.state.health
    answer = await health.probe(request.url.path)
    headers = {"Cache-Control": "no-store", "Content-Type": answer.content_type}
    return Response(answer.body, answer.status, headers)


for path in PROBE_PATHS:
    router.add_api_route(path, probe, methods=["GET", "HEAD"])
