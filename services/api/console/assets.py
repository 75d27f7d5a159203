"""Style sheet, scripts and icons: from this package, named by their content so that browsers may keep them."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

KINDS: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "vendor/htmx-4.0.1.min.js": "text/javascript; charset=utf-8",
    "vendor/htmx-sse-4.0.1.min.js": "text/javascript; charset=utf-8",
    "vendor/uplot-1.6.32.min.js": "text/javascript; charset=utf-8",
    "vendor/uplot-1.6.32.min.css": "text/css; charset=utf-8",
}


async def asset(request: Request) -> Response:
    """One file; for ever when it was asked for by its content."""
    name = request.path_params["name"]
    if name not in KINDS:
        raise HTTPException(404)
    content, tag = _packed(name)
    lasting = request.query_params.get("v") == tag
    headers = {
        "Content-Type": KINDS[name],
        "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache",
        "ETag": f'"{tag}"',
        "X-Content-Type-Options": "nosniff",
    }
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


def asset_url(name: str) -> str:
    """The address of a file, which changes with its content."""
    return f"/console/static/{name}?v={_packed(name)[1]}"


@cache
def _packed(name: str) -> tuple[bytes, str]:
    content = resources.files("services.api.console").joinpath("static", *name.split("/")).read_bytes()
    return content, sha256(content).hexdigest()[:16]
