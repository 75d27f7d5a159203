"""What the HTTP file service may answer to an upload."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.foreign_text import Cleaner
from libs.common.adapters.object_storage.upload_answer import ANSWER_BYTES, NotAccepted, read_answer
from libs.common.domain.model_errors import UploadFailed
from libs.common.domain.output import StagedFile, StoredFile

_STAGED = StagedFile("local:x", 64, bytes(32), "png", "image/png")
_URL = "https://oss.example/a/b.png"


def _read(answer: Any) -> StoredFile:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_answer(body, _STAGED, "asynch_1_x.png", Cleaner.of(["sk-canary"]))


@pytest.mark.parametrize(
    "answer",
    [
        {"fileURL": _URL, "fileName": "b.png", "fileSize": 64, "fileFormat": "png"},
        {"FILEURL": f" {_URL} ", "filename": "b.png", "FileSize": "64", "fileformat": ".PNG", "more": [1]},
        {"code": 0, "message": "OK", "data": {"fileURL": _URL, "fileName": "b.png"}},
        {"Code": "0", "Message": "OK", "Data": {"FileUrl": _URL, "fileName": "b.png", "fileSize": -1}},
        {"code": None, "fileURL": _URL, "fileName": "b.png", "fileSize": None, "fileFormat": "../../x"},
        {"code": 0, "fileURL": _URL, "fileName": "b.png", "data": {"fileURL": "http://other"}},
    ],
)
def test_bare_and_wrapped_answers(answer: dict[str, Any]) -> None:
    assert _read(answer) == StoredFile(_URL, "png", 64, bytes(32), "b.png")


def test_what_the_service_says_of_size_and_type_counts() -> None:
    stored = _read({"fileURL": _URL, "fileSize": 70, "fileFormat": "jpg"})
    assert (stored.size, stored.file_type, stored.name) == (70, "jpg", "asynch_1_x.png")


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, "9" * 19, "1" * 40, 10**30, 1.5, True, "-1", "x", [], {}])
def test_a_size_that_cannot_be_kept_is_none(size: Any) -> None:
    assert _read({"fileURL": _URL, "fileSize": size}).size == 64


@pytest.mark.parametrize(
    "url",
    [
        *("", " ", None, 7, [], {}, "b.png", "/a/b.png", "//host/b.png", "javascript:alert(1)", "file:///x"),
        *("ftp://h/x", "http://", "http://[", "https://h/\u0000", "https://h/a b", "https://h/\ud800"),
        "https://h/" + "x" * 10_000,
    ],
)
def test_an_unusable_address_is_a_failure(url: Any) -> None:
    for answer in ({"fileURL": url}, {"code": 0, "data": {"fileURL": url}}):
        with pytest.raises(UploadFailed) as failure:
            _read(answer)
        assert (failure.value.code, failure.value.retryable) == ("upload_answer", True)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"OK", b"<html>", b"[]", b"null", b'"x"', {}),
        *({"code": 0, "data": None}, {"code": 0, "data": [1]}, {"code": True}, {"code": -1, "fileURL": _URL}),
        {"code": 500, "message": "x", "data": {"fileURL": _URL}},
    ],
)
def test_an_answer_without_a_file_is_a_failure(answer: Any) -> None:
    with pytest.raises(UploadFailed) as failure:
        _read(answer)
    assert failure.value.retryable


@pytest.mark.parametrize("begin", [b'{"code":', b'{"code":1,"message":', b'{"code":1,"data":', b'{"fileURL":'])
def test_an_answer_nested_too_deeply_is_a_failure(begin: bytes) -> None:
    """The task said that something unexpected had befallen it, and the log held a traceback for each try."""
    with pytest.raises(UploadFailed) as failed:
        _read(begin + b"[" * 1_000 + b"]" * 1_000 + b"}")
    assert failed.value.retryable


def test_an_endless_answer_is_a_failure() -> None:
    with pytest.raises(UploadFailed, match="too long"):
        _read(b" " * (ANSWER_BYTES + 1))


@pytest.mark.parametrize("code", [401, 403, "401", 40100, 40301])
def test_wrapped_refusals_of_the_credentials(code: int | str) -> None:
    with pytest.raises(NotAccepted):
        _read({"code": code, "message": "token expired", "data": None})


def test_messages_show_no_credentials() -> None:
    with pytest.raises(UploadFailed) as failure:
        _read({"code": 9, "message": "bad \x00 token sk-canary"})
    assert failure.value.message == "the file service refused the upload with code 9: bad   token ***"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["code", "data", "fileURL", "fileSize", "fileName", "message", "x"]), inner)
    ),
    max_leaves=8,
)


@given(_JSON)
def test_any_answer_is_read_or_refused(answer: Any) -> None:
    try:
        stored = _read(answer)
    except (UploadFailed, NotAccepted):
        return
    assert stored.url.startswith(("http://", "https://"))
    assert stored.size > 0
