"""What is read of providers' answers: never more than this process can look through beside everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from libs.common.adapters.models.provider_answers import VALUES_LIMIT, document, read_json, refusal, text
from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobAnswer, JobCall


@pytest.mark.parametrize(("value", "signs"), [(b"0", 1), (b"[]", 2), (b"{}", 2), (b'{"a":[0]}', 3)])
def test_an_answer_has_so_many_values_at_most(value: bytes, signs: int) -> None:
    most = VALUES_LIMIT // signs
    assert len(document(JobAnswer(200, {}, b"[" + b",".join([value] * most) + b"]"))) == most
    with pytest.raises(ModelError) as refused:
        document(JobAnswer(200, {}, b"[" + b",".join([value] * (most + 2)) + b"]"))
    assert (refused.value.code, refused.value.retryable) == ("answer_too_large", False)


def test_what_is_no_json_may_be_better_next_time() -> None:
    with pytest.raises(ModelError) as refused:
        document(JobAnswer(200, {}, b"<html>"))
    assert (refused.value.code, refused.value.retryable) == ("bad_answer", True)


@pytest.mark.parametrize("begin", ["[", '{"error":', '{"detail":['])
def test_an_error_nested_too_deeply_is_an_error_without_words(begin: str) -> None:
    body = (
        begin * 400 + "1" + "".join("]" if sign == "[" else "}" for sign in reversed(begin * 400) if sign in "[{")
    ).encode()
    call = JobCall("key", "https://provider", "", {}, b"", (), 5.0)
    refused = refusal(call, JobAnswer(400, {}, body))
    assert (refused.code, refused.retryable, refused.answered) == ("model_http_400", False, True)
    assert text(call, read_json(body)) == ""


def test_a_secret_as_long_as_a_header_may_be_is_masked_in_text() -> None:
    secret = "Q" * 8_000
    call = JobCall("key", "https://provider", "", {}, b"", headers=(("X-Key", secret),))
    refused = refusal(call, JobAnswer(401, {}, b"no such key: " + b"e" * 300 + secret.encode() + b"."))
    assert "Q" not in refused.message


@pytest.mark.parametrize(
    ("loc", "words"),
    [(["body", "input", 0], "input.0: bad"), (7, "bad"), (1.5, "bad"), (True, "bad"), ("line 3", "bad"), ({}, "bad")],
)
def test_a_place_of_a_mistake_is_named_where_it_is_one(loc: Any, words: str) -> None:
    body = json.dumps({"detail": [{"loc": loc, "msg": "bad"}]}).encode()
    refused = refusal(JobCall("key", "https://provider", "", {}, b""), JobAnswer(422, {}, body))
    assert (refused.message, refused.answered) == (f"the model answered 422: {words}", True)
