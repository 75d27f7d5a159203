"""What is read of providers' answers: never more than this process can look through beside everything else."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from libs.common.adapters.models import replicate, submit_poll
from libs.common.adapters.models.provider_answers import VALUES_LIMIT, document, read_json, refusal, text
from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobAdapter, JobAnswer, JobCall, JobHttp


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


@pytest.mark.parametrize("words", ["detail", "error"])
def test_a_place_that_is_nested_is_none(words: str) -> None:
    """Written down it took a second of the loop, or ended in a RecursionError that went for the adapter's own."""
    nested: Any = []
    for _ in range(1_000):
        nested = [nested]
    body = b'{"%b":[{"loc":["a",%b],"msg":"bad"}]}' % (words.encode(), b"[" * 1_000 + b"]" * 1_000)
    call = JobCall("key", "https://provider", "", {}, b"")
    assert refusal(call, JobAnswer(422, {}, body)).message == "the model answered 422: a: bad"
    assert text(call, [{"loc": ["a", nested], "msg": "bad"}]) == "a: bad"


def test_words_in_many_lists_are_cut_in_each() -> None:
    """Every list around 60 MB copied them all, for two seconds in which the loop stood still."""
    words: Any = "w" * 4_000_000
    for _ in range(20):
        words = [words, "and"]
    call = JobCall("key", "https://provider", "", {}, b"")
    body = json.dumps({"error": words}).encode()
    tracemalloc.start()
    try:
        assert text(call, words) == "w" * 500
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert refusal(call, JobAnswer(400, {}, body)).message.endswith("w" * 450)


def test_of_a_place_of_a_mistake_only_the_first_parts_are_named() -> None:
    mistake = {"loc": ["body", *range(100_000)], "msg": "bad"}
    said = text(JobCall("key", "https://provider", "", {}, b""), [mistake])
    assert said == ".".join(map(str, range(31))) + ": bad"


class _Telling:
    """A provider whose answers are read already."""

    async def send(self, call: JobCall, method: str, path: str, **more: Any) -> JobAnswer:
        return JobAnswer(200, {}, b"")


_POLLED = {
    "job_id": "id",
    "poll": {"path": "/{{job_id}}"},
    "status": "status",
    "statuses": {"succeeded": ["done"], "failed": ["failed"]},
    "outputs": "output",
    "error": "error",
    "message": "message",
}


@pytest.mark.parametrize(("module", "kind", "config"), [
    (replicate, replicate.Replicate, {}), (submit_poll, submit_poll.SubmitPoll, _POLLED),
])  # fmt: skip
@pytest.mark.parametrize(
    "said",
    [{"status": "\x7f" * 4_000_000}, {"status": "failed", "error": "\xdf" * 4_000_000}],
    ids=["status", "error"],
)
async def test_words_of_megabytes_are_cut_before_anything_is_made_of_them(
    monkeypatch: pytest.MonkeyPatch, module: Any, kind: type[Any], config: dict[str, Any], said: dict[str, str]
) -> None:
    """A status of 60 MB was written down whole, each sign as four: the loop stood still for a second."""
    told = {"id": "job", **said}
    monkeypatch.setattr(module, "document", lambda _answer: told)
    http: JobHttp = _Telling()
    adapter: JobAdapter = kind(http)
    call = JobCall("key", "https://provider", "", config, b"")
    await adapter.get(call, "job")
    tracemalloc.start()
    try:
        report = await adapter.get(call, "job")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert report.message[:14] in ("unknown status", "\xdf" * 14)
