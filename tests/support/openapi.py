"""Holds answers against the OpenAPI document: status documented, media type and body as described."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from services.api.app import rest_app

_LARGEST = 200_000  #: checking more takes longer than the test


def assert_described(answer: httpx.Response) -> None:
    """AssertionError or ValidationError when an answer of a known operation is not what the document says."""
    operation = _operation(answer.request.method, answer.request.url.raw_path.decode().partition("?")[0])
    if operation is None:
        return
    path, method = operation
    assert str(answer.status_code) in _document()["paths"][path][method]["responses"], (operation, answer.text[:500])
    if answer.content and len(answer.content) < _LARGEST:
        kind = answer.headers["content-type"]
        if "*/*" in _document()["paths"][path][method]["responses"][str(answer.status_code)]["content"]:
            return  # a file is whatever it is
        _validator(path, method, str(answer.status_code), kind).validate(answer.json())


@cache
def _document() -> dict[str, Any]:
    return rest_app().openapi()


@cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    # Literal ones first, then longer ones: a model's name may hold slashes, and ends before what is asked of it.
    paths = sorted(_document()["paths"], key=lambda path: ("{" in path, -len(path)))
    return [
        (re.compile(re.sub(r"\{\w+\}", "[^/]+", path.replace("{name}", ".+").replace("{user}", ".+"))), path)
        for path in paths
    ]


def _operation(method: str, path: str) -> tuple[str, str] | None:
    for template, known in _templates():
        if template.fullmatch(path):
            return (known, method.lower()) if method.lower() in _document()["paths"][known] else None
    return None


@cache
def _validator(path: str, method: str, status: str, kind: str) -> Draft202012Validator:
    schema = _document()["paths"][path][method]["responses"][status]["content"][kind]["schema"]
    return Draft202012Validator({**schema, "components": _document()["components"]})
