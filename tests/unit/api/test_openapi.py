"""The OpenAPI document: current, complete, with an example for everything that is sent or answered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from libs.common.runtime.health import Health
from services.api.app import rest_app
from services.api.legacy import envelope
from services.api.problems import CODES, TYPE_PREFIX

SCHEMA = Path(__file__).parents[3] / "schemas" / "openapi.json"
DOCUMENT = rest_app().openapi()
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method.upper()} {path}")
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
#: Providers have no key, but a token in the address.
KEYLESS = {"/v1/callbacks/{token}"}
NEW = [operation for operation in OPERATIONS if str(operation.values[0]).startswith("/v1/")]
OLD = [operation for operation in OPERATIONS if operation not in NEW]


def test_the_file_is_current() -> None:
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(DOCUMENT)), (
        "run: python -m services.api.openapi > schemas/openapi.json"
    )


def test_it_is_openapi_3_1_without_leftovers() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    text = json.dumps(DOCUMENT)
    assert "HTTPValidationError" not in text
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert referred == set(DOCUMENT["components"]["schemas"])


def valid(schema: dict[str, Any], value: Any) -> None:
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def examples(media: dict[str, Any]) -> Iterator[Any]:
    if "example" in media:
        yield media["example"]
    for example in media.get("examples", {}).values():
        yield example["value"]


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_everything_has_a_text_and_valid_examples(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]
    assert operation["security"] == ([] if path in KEYLESS else [{"ApiKey": []}, {"UserInfo": []}])
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    answers = [answer for answer in operation["responses"].values() if "content" in answer]
    for body in bodies + answers:
        for media in body["content"].values():
            shown = list(examples(media))
            assert shown
            for example in shown:
                valid(media["schema"], example)


@pytest.mark.parametrize(("path", "method", "operation"), NEW)
def test_every_problem_is_documented_with_its_code(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    assert {"500", "503"} <= set(responses)
    assert ({"401", "403"} <= set(responses)) == (path not in KEYLESS)
    assert ("422" in responses) == (method == "post" and path == "/v1/tasks")
    if "{" in path and method != "put":  # a PUT makes what is not there
        assert "404" in responses
    if "requestBody" in operation:
        assert {"400", "413", "415"} <= set(responses)
    for status, answer in responses.items():
        if int(status) < 400:
            continue
        assert list(answer["content"]) == ["application/problem+json"]
        for code, example in answer["content"]["application/problem+json"]["examples"].items():
            assert CODES[code].status == int(status)
            assert example["value"]["type"] == TYPE_PREFIX + code
        if status in ("429", "503"):
            assert "Retry-After" in answer["headers"]


@pytest.mark.parametrize(("path", "method", "operation"), OLD)
def test_every_refusal_of_the_old_routes_is_documented_with_its_code(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    assert {"400", "401", "403", "500", "503"} <= set(operation["responses"])
    for status, answer in operation["responses"].items():
        if status == "200":
            continue
        for code, example in answer["content"]["application/json"]["examples"].items():
            assert code.startswith(status)
            assert example["value"] == {"code": int(code), "message": envelope.CODES[int(code)], "data": None}
        if status in ("429", "503"):
            assert "Retry-After" in answer["headers"]


def test_every_code_is_documented_somewhere() -> None:
    text = json.dumps(DOCUMENT["paths"])
    routing = {"method_not_allowed"}  # of no operation
    assert {code for code in CODES if f"`{code}`" not in text} == routing
    assert {code for code in envelope.CODES if f"`{code}`" not in text} == {40_000, 405}


@pytest.fixture
async def browser() -> httpx.AsyncClient:
    app = rest_app()
    app.state.health = Health("api")

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "trace": "00-" + "1" * 32 + "-" + "1" * 16 + "-00"}, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app=traced), base_url="http://api")


async def test_the_docs_page_needs_nobody_else(browser: httpx.AsyncClient) -> None:
    page = await browser.get("/docs")
    assert page.status_code == 200
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "<script>" not in page.text
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        answer = await browser.get(f"/{asset}")
        assert answer.status_code == 200, asset
        assert answer.content
    kinds = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "start.js": "text/javascript"}
    for name, kind in kinds.items():
        assert (await browser.get(f"/docs/{name}")).headers["content-type"].startswith(kind)
    assert (await browser.get("/openapi.json")).json() == json.loads(SCHEMA.read_text())


@pytest.mark.parametrize("path", ["/docs/nothing", "/docs/..%2f..%2fetc%2fpasswd", "/nothing", "/docs/", "/redoc"])
async def test_there_is_nothing_else(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"


async def test_probes_and_metrics_are_on_the_same_port(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/livez")).status_code == 200
    assert (await browser.get("/startupz")).status_code == 503
    assert (await browser.get("/readyz")).status_code == 503
    metrics = await browser.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert (await browser.head("/livez")).status_code == 200
