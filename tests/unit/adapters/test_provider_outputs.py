"""What a job brought, as files."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.models.provider_answers import job_id, percent, progress_in, segment
from libs.common.adapters.models.provider_outputs import (
    ESCAPES_BY_HAND,
    OUTPUTS_LIMIT,
    BadOutput,
    file_of,
    is_file,
    outputs_of,
)
from libs.common.domain.model_errors import ModelError
from libs.common.ports_jobs import JobOutput

A, B = "https://files/a.png", "http://files/b.png?x=1"
DATA = "data:image/png;base64,iVBORw=="


def link(url: str) -> JobOutput:
    return JobOutput(url=url)


def shown(outputs: tuple[JobOutput, ...]) -> list[Any]:
    """Links as they are, content as what it is."""
    return [
        output.url
        or (json.loads(output.content or b"") if output.content_type == "application/json" else output.content)
        for output in outputs
    ]


@pytest.mark.parametrize(
    ("value", "files"),
    [
        (None, []), ("", []), ([], []), ({}, []),
        (A, [A]),
        ([A, B], [A, B]),
        ({"image": A, "masks": [B, A], "none": None}, [A, B, A]),
        ([[A], [B]], [A, B]),
        (DATA, [b"\x89PNG"]),
        ("data:text/plain,a%20b", [b"a b"]),
        ("data:;base64,aGk", [b"hi"]),
        ("hello", [b"hello"]),
        ("see https://files/a.png", [b"see https://files/a.png"]),
        (["Hel", "lo ", A], [["Hel", "lo ", A]]),
        (["Hel", "lo"], [["Hel", "lo"]]),
        (7, [7]), (False, [False]), (0, [0]),
        ({"score": 0.5}, [{"score": 0.5}]),
        ({"image": A, "seed": 7, "tags": ["x", A]}, [A, {"image": {"file": 0}, "seed": 7, "tags": ["x", A]}]),
        ("file:///etc/passwd", [b"file:///etc/passwd"]),
        ("data: this is text", [b"data: this is text"]),
        ("data:text/plain;,this is text", [b"data:text/plain;,this is text"]),
    ],
)  # fmt: skip
def test_what_is_a_file_and_what_is_text(value: Any, files: list[Any]) -> None:
    assert shown(outputs_of(value)) == files


def test_content_keeps_the_type_that_it_claims() -> None:
    assert [o.content_type for o in outputs_of([DATA, "data:text/html;charset=utf-8,x"])] == ["image/png", "text/html"]
    assert outputs_of("hello")[0].content_type == "text/plain"
    assert outputs_of({"a": 1})[0].content_type == "application/json"


def test_streamed_text_is_joined_where_that_is_wished() -> None:
    assert shown(outputs_of(["Hel", "lo ", A], join_text=True)) == [f"Hello {A}".encode()]
    assert shown(outputs_of([A, {"x": 1}], join_text=True)) == [A, [{"file": 0}, {"x": 1}]]


@pytest.mark.parametrize("value", ["data:image/png;base64,***", "data:image/png;base64,a", [A, "data:;base64,====x"]])
def test_data_that_cannot_be_decoded_is_said(value: Any) -> None:
    with pytest.raises(BadOutput):
        outputs_of(value)


@pytest.mark.parametrize(
    "value",
    [
        "data:image/png" + ";a=" * 1_000_000 + ",x",
        "data:text/plain," + "%41" * 1_000_000,
        "data:text/plain;base64," + "QUFB" * 700_000,
        "data:text/plain;base64," + "%51" * 1_000_000,
        "data:text/plain;base64," + "Q U F B " * 300_000,
        "data:text/plain," + "=" * 3_000_000 + "%41" * (ESCAPES_BY_HAND + 1),
    ],
    ids=["parameters", "escapes", "base64", "escaped base64", "spaces in base64", "equals signs beside escapes"],
)
def test_no_data_url_costs_many_times_its_size(value: str) -> None:
    """Of 60 MB in an answer, parameters took 10 GB of memory, and escapes 7 s in which the loop stood still."""
    tracemalloc.start()
    try:
        assert len(outputs_of(value)) == 1
        assert tracemalloc.get_traced_memory()[1] < 8 * len(value)
    finally:
        tracemalloc.stop()


def test_so_much_may_stand_before_the_comma_of_a_data_url() -> None:
    head = "data:text/plain;name="
    longest = head + "a" * (512 - len(head))
    assert is_file(longest + ",x")
    assert not is_file(longest + "a,x")


@given(
    st.lists(st.sampled_from(["%25", "%3D", "%3d", "%", *"=2345dDaAfG_ \t\r\n\xff\0"]), max_size=20).map("".join),
    st.integers(0, 1),
)
def test_escapes_are_read_alike_however_many_there_are(data: str, many: int) -> None:
    """Where there are many, a machine has made them: then one that is none is an error."""
    data += "%20" * ESCAPES_BY_HAND * many
    valid = re.search("%(?![0-9A-Fa-f]{2})", data) is None
    if many and not valid:
        with pytest.raises(BadOutput):
            file_of(f"data:,{data}")
    else:
        assert file_of(f"data:,{data}").content == unquote_to_bytes(data)


def test_too_many_files_are_refused() -> None:
    assert len(outputs_of([A] * OUTPUTS_LIMIT)) == OUTPUTS_LIMIT
    with pytest.raises(BadOutput) as refused:
        outputs_of([A] * (OUTPUTS_LIMIT + 1))
    assert refused.value.code == "too_many_outputs"


def test_what_is_nested_too_deeply_is_json() -> None:
    value: Any = A
    for _ in range(40):
        value = [value]
    [output] = outputs_of(value)
    assert output.content_type == "application/json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.sampled_from([A, DATA]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(JSON)
def test_every_output_is_a_link_or_content(value: Any) -> None:
    try:
        outputs = outputs_of(value)
    except BadOutput:
        return
    assert all(bool(output.url) != (output.content is not None) for output in outputs)


@pytest.mark.parametrize(
    ("value", "share"),
    [(50, 50.0), ("50%", 50.0), (150, 100.0), (-1, 0.0), (True, None), ("x", None), (None, None), (float("nan"), None)],
)
def test_percent(value: Any, share: float | None) -> None:
    assert percent(value) == share
    assert percent(0.25, full=1) == 25.0


@pytest.mark.parametrize(
    ("logs", "share"),
    [
        ("", None), (None, None), (7, None), ("50 %", None),
        ("  0%|          | 0/40\n 40%|████      | 16/40 [00:01<00:02]\nsaving", 40.0),
        ("\r 10%|# | 1/10\r 20%|## | 2/10", 20.0),
        ("999%|# | 1/10", 100.0),
    ],
)  # fmt: skip
def test_progress_bars_in_logs(logs: Any, share: float | None) -> None:
    assert progress_in(logs) == share


@pytest.mark.parametrize("value", ["", None, [], {}, True, 1.5, ".", "..", "a\nb", "x" * 513, "\ud800"])
def test_ids_that_are_none(value: Any) -> None:
    with pytest.raises(ModelError):
        job_id(value)


def test_ids_keep_their_place_in_a_path() -> None:
    assert (job_id(17), segment(job_id("a/b?c#d%"))) == ("17", "a%2Fb%3Fc%23d%25")


@pytest.mark.parametrize("begin", ["[", '{"a":'])
def test_an_output_nested_too_deeply_is_a_bad_one(begin: str) -> None:
    end = "]" if begin == "[" else "}"
    with pytest.raises(BadOutput):
        outputs_of(orjson.loads(begin * 600 + "1" + end * 600))
