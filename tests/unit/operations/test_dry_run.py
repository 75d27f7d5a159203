"""The dry run shows what the executor's own adapters would send and read, and sends nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from libs.common.domain.errors import Invalid
from libs.common.domain.model_errors import ModelError
from libs.common.operations.dry_run import SAMPLE_CALLBACK, SAMPLE_JOB, SAMPLE_KEY, DryModel, dry_run

SECRET = "sk-0123456789"
SUBMIT_POLL: dict[str, Any] = {
    "base_url": "https://api.example/v2",
    "api_key": f'Authorization:"Bearer {SECRET}"',
    "adapter": "submit-poll",
    "adapter_config": {
        "submit": {"path": "jobs/{{payload.kind}}", "body": {"text": "{{payload.text}}", "ref": "{{intent_key}}"}},
        "job_id": "id",
        "poll": {"path": "jobs/{{job_id}}"},
        "status": "state",
        "statuses": {"processing": ["RUN"], "succeeded": ["DONE"], "failed": ["ERR"]},
        "percent": "percent",
        "result": {"path": "jobs/{{job_id}}/result"},
        "outputs": "files",
        "error": "why",
    },
}
PAYLOAD = b'{"text": "a cat", "kind": "x/y"}'


async def steps_of(fields: dict[str, Any], payload: bytes, *answers: Any) -> list[dict[str, Any]]:
    """The steps; whatever they show, they show no secret."""
    shown = await dry_run(DryModel.of(fields), payload, answers)
    assert SECRET not in json.dumps(shown)
    steps: list[dict[str, Any]] = shown["steps"]
    return steps


async def test_without_answers_every_request_is_shown() -> None:
    submit, poll, find, cancel = await steps_of(SUBMIT_POLL, PAYLOAD)
    [exchange] = submit["exchanges"]
    assert exchange == {
        "request": {
            "method": "POST",
            "url": "https://api.example/v2/jobs/x%2Fy",
            "headers": {
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": "sluiceway",
                "Content-Type": "application/json",
                "Authorization": "***",
            },
            "body": {"text": "a cat", "ref": SAMPLE_KEY},
        }
    }
    assert "means" not in submit
    assert poll["exchanges"][0]["request"]["url"] == f"https://api.example/v2/jobs/{SAMPLE_JOB}"
    assert (find["exchanges"], find["not_offered"]) == ([], "this model's configuration has no find")
    assert cancel["exchanges"] == []


async def test_with_answers_their_meaning_is_shown() -> None:
    answers = [
        {"http_status": 202, "body": {"id": 7}},
        {"state": "RUN", "percent": 12},
        {"http_status": 503, "headers": {"retry-after": "9"}, "body": "<html>away"},
        {"state": "DONE"},
        {"files": ["https://f/1", "data:text/plain,hello"]},
    ]
    steps = await steps_of(SUBMIT_POLL, PAYLOAD, *answers)
    assert [step["step"] for step in steps] == [
        "submit", "poll", "poll", "poll", "find a job whose answer was lost", "cancel",
    ]  # fmt: skip
    assert steps[0]["means"] == {"status": "queued", "provider_id": "7", "unit_progress": None, "message": ""}
    assert steps[1]["means"]["unit_progress"] == 12.0
    assert steps[2]["error"]["code"] == "model_http_503"
    assert steps[2]["error"]["retry_after"] == 9.0
    assert steps[3]["means"]["outputs"] == [
        {"url": "https://f/1"},
        {"content_type": "text/plain", "size": 5, "begins": "hello"},
    ]
    assert [exchange["request"]["url"] for exchange in steps[3]["exchanges"]] == [
        "https://api.example/v2/jobs/7",
        "https://api.example/v2/jobs/7/result",
    ]


async def test_an_answer_that_says_no_is_shown_as_what_the_task_would_say() -> None:
    steps = await steps_of(SUBMIT_POLL, PAYLOAD, {"http_status": 422, "body": {"detail": f"no {SECRET}"}})
    assert steps[0]["error"]["message"] == "the model answered 422: no ***"
    steps = await steps_of(SUBMIT_POLL, b'{"text": "no kind"}')
    assert (steps[0]["error"]["code"], steps[0]["exchanges"]) == ("bad_payload", [])


async def test_every_adapter_can_be_tried() -> None:
    base = {"base_url": "http://127.0.0.1:5000", "api_key": f"X-Key:{SECRET}"}
    [call] = await steps_of({**base, "route": "run"}, b'{"n": 1}')
    assert call["exchanges"][0]["request"]["body"] == {"n": 1}
    [call] = await steps_of({**base, "http_method": "GET"}, b'{"n": 1}')
    assert call["exchanges"][0]["request"]["url"] == "http://127.0.0.1:5000/?n=1"
    submit, *_ = await steps_of({**base, "adapter": "cog", "adapter_config": {"answer": "callback"}}, b'{"n": 1}')
    request = submit["exchanges"][0]["request"]
    assert (request["method"], request["headers"]["Prefer"]) == ("PUT", "respond-async")
    assert request["body"]["webhook"] == SAMPLE_CALLBACK
    replicate = {**base, "adapter": "replicate"}
    submit, poll, find, cancel = await steps_of(replicate, b'{"n": 1}', {"id": "a", "status": "starting"})
    assert submit["means"]["status"] == "queued"
    assert poll["exchanges"][0]["request"]["url"].endswith("/v1/predictions/a")
    assert "created_after=" in find["exchanges"][0]["request"]["url"]
    assert cancel["exchanges"][0]["request"]["url"].endswith("/a/cancel")


async def test_a_key_that_the_api_masks_is_said_to_be_missing() -> None:
    shown = await dry_run(DryModel.of({"base_url": "http://x", "api_key": "********"}), b"{}")
    assert "masked" in shown["headers_missing"]
    assert "headers_missing" not in await dry_run(DryModel.of({"base_url": "http://x"}), b"{}")


async def test_a_model_that_could_not_be_saved_is_refused() -> None:
    for fields in (
        {},
        {"base_url": 5},
        {"base_url": "http://x", "adapter": "nobody"},
        {"base_url": "http://x", "adapter_config": []},
        {**SUBMIT_POLL, "adapter_config": {}},
        {"base_url": "http://x", "api_key": "Host:x"},
    ):
        with pytest.raises((Invalid, ModelError)):
            await dry_run(DryModel.of(fields), b"{}")
