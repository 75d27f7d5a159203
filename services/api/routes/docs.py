"""/docs and /openapi.json: everything a browser needs comes from this process."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Final

from fastapi import APIRouter, HTTPException, Request, Response

from services.api.answers import JsonAnswer

router = APIRouter(include_in_schema=False)

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": _POLICY}
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sluiceway API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<style>html.dark-mode .swagger-ui :is(.examples-select__section-label, .header-col) { color: #e4e6e6 }</style>
</head>
<body>
<div id="api"><p>The same as a file: <a href="openapi.json">openapi.json</a></p></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = """const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_KINDS: Final = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}


@router.get("/openapi.json")
async def document(request: Request) -> Any:
    """The OpenAPI document."""
    return JsonAnswer(request.app.openapi(), headers={"X-Content-Type-Options": "nosniff"})


@router.get("/docs")
async def page() -> Response:
    """The document, to read and to try."""
    return Response(_PAGE, media_type="text/html", headers=_HEADERS)


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """A part of the page."""
    if name == "start.js":
        return Response(_START, media_type="text/javascript", headers=_HEADERS)
    if name not in _KINDS:
        raise HTTPException(404)
    headers = {**_HEADERS, "Content-Type": _KINDS[name], "Cache-Control": "public, max-age=3600"}
    return Response(_packed(name), headers=headers)


@cache
def _packed(name: str) -> bytes:
    return resources.files("fastapi_swagger").joinpath("resources", name).read_bytes()
