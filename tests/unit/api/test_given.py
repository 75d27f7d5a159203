"""What the old routes take for what."""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from typing import Any

import pytest
from hypothesis import given as given_by
from hypothesis import strategies as st

from services.api.legacy import given as given_module
from services.api.legacy.decoding import decode
from services.api.legacy.given import Given, Page
from services.api.problems import Problem

JSON = {b"content-type": b"application/json"}
FORM = {b"content-type": b"application/x-www-form-urlencoded"}
PARTS = (
    b'--x\r\nContent-Disposition: form-data; name="model_name"\r\n\r\nm\r\n'
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nignored\r\n--x--\r\n'
)


def given(**members: Any) -> Given:
    return Given({name.lower(): value for name, value in members.items()})


@pytest.mark.parametrize(
    ("query", "headers", "body"),
    [
        (b"", JSON, b'{"modelName":"m"}'),
        (b"", JSON, b'{"model_name":"m","x":1}'),
        (b"", JSON, b'{"MODEL-NAME":"m","Model Name":"m"}'),
        (b"", {}, b' {"ModelName":"m"}'),
        (b"", FORM, b'{"modelname":"m"}'),
        (b"", {b"content-type": b"text/plain"}, b'{"modelname":"m"}'),
        (b"", FORM, b"model_name=m"),
        (b"", {}, b"Model%20Name=m"),
        (b"modelName=m", JSON, b""),
        (b"modelName=x&modelName=m", {}, b"\r\n"),
        (b"modelName=x", JSON, b'{"modelName":"m"}'),
        (b"", {b"content-type": b"multipart/form-data; boundary=x"}, PARTS),
    ],
    ids=repr,
)
async def test_names_are_found_however_they_are_written(query: bytes, headers: dict[bytes, bytes], body: bytes) -> None:
    assert (await decode(query, headers, body)).text("modelName", 10) == "m"


@pytest.mark.parametrize(
    ("query", "headers", "body", "code"),
    [
        (b"", JSON, b"{", "bad_json"), (b"", JSON, b"[]", "invalid"), (b"", JSON, b"5", "invalid"),
        (b"", {}, b"[" * 1_000_000, "bad_json"), (b"", JSON, b'{"a":1,"a":1}', "bad_json"),
        (b"", JSON, b'{"modelName":"m","model_name":"n"}', "invalid"), (b"", JSON, b'{"a":"\\ud800"}', "bad_json"),
        (b"", JSON, b"hello", "bad_json"), (b"", FORM, b"a=%ff", "invalid"), (b"a=\xff", {}, b"", "invalid"),
        (b"&".join([b"a=1"] * 5_000), {}, b"", "invalid"), (b"a=1&a[b]=2", {}, b"", "invalid"),
        (b"a[b]=2&a=1", {}, b"", "invalid"),
        (b"", {b"content-type": b"application/xml"}, b"<a/>", "unsupported_media_type"),
        (b"", {b"content-type": b"multipart/form-data"}, PARTS, "invalid"),
        (b"", {b"content-type": b"multipart/form-data; boundary=y"}, PARTS, "invalid"),
        (b"", {b"content-type": b"multipart/form-data; boundary*=undefined'x'y"}, PARTS, "invalid"),
        (b"", {b"content-type": b"multipart/form-data; boundary=x"}, PARTS.replace(b"m\r", b"\xff\r"), "invalid"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
async def test_what_cannot_be_read(query: bytes, headers: dict[bytes, bytes], body: bytes, code: str) -> None:
    with pytest.raises(Problem) as caught:
        await decode(query, headers, body)
    assert caught.value.code == code


@pytest.mark.parametrize("charset", ["undefined", "idna", "unicode_escape", "utf-7", "latin-1", "nobody's"])
async def test_a_multipart_form_is_utf8_whatever_it_says(charset: str) -> None:
    sent = "grüß \\ud800 +2AA-"
    body = PARTS.replace(b"\r\nm\r", b"\r\n" + sent.encode() + b"\r")
    headers = {b"content-type": f"multipart/form-data; charset={charset}; boundary=x".encode()}
    assert (await decode(b"", headers, body)).text("modelName", 30) == sent


@given_by(st.binary(max_size=40), st.sampled_from([b"boundary", b"name", b"charset", b"name*", b"boundary*0*", b"x"]))
async def test_whatever_a_multipart_form_says_of_itself_is_read_or_refused(junk: bytes, where: bytes) -> None:
    junk = junk.replace(b"\r", b"").replace(b"\n", b"")
    kind = b"multipart/form-data; boundary=x; " + where + b"=" + junk
    body = PARTS.replace(b'name="model_name"', b'name="a"; ' + where + b"=" + junk)
    with suppress(Problem):
        read = await decode(b"", {b"content-type": kind}, body)
        (read.text("a", 100) or "").encode()


@pytest.mark.parametrize("query", [b"requestPayload[a]=1", b"requestPayload.a=1"])
async def test_a_payload_is_no_group_of_fields(query: bytes) -> None:
    with pytest.raises(Problem, match="requestPayload must be JSON"):
        (await decode(query, {}, b"")).payload("requestPayload")


@pytest.mark.parametrize(
    ("query", "body"),
    [
        (b"", b'{"%s":1,"%s":2}' % (b"a" * 9_999, b"A" * 9_999)), (b"", b'{"a\\u0000":1,"A\\u0000":2}'),
        (b"a%00=1&a%00[x]=2", b""), (b"a%00[x]=2&a%00=1", b""),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
async def test_names_are_said_again_in_short_and_printable(query: bytes, body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        await decode(query, JSON, body)
    assert len(caught.value.detail) < 150
    assert caught.value.detail.isprintable()


async def test_long_names_are_not_remembered() -> None:
    name = "n" * 1_000
    before = given_module._remembered.cache_info().currsize
    assert (await decode(f"{name}=1&{name.upper()}2=1".encode(), {}, b"")).text(name, 5) == "1"
    assert given_module._remembered.cache_info().currsize == before


@pytest.mark.parametrize(
    ("value", "number"),
    [(5, 5), ("5", 5), (" -5 ", -5), (5.0, 5), ("5.0", 5), ("", None), (None, None), (str(2**63 - 1), 2**63 - 1)],
)
def test_numbers(value: Any, number: int | None) -> None:
    assert given(n=value).number("n") == number


@pytest.mark.parametrize("value", ["x", "1e3", "1.5", 1.5, True, [1], {}, 2**63, -(2**64), "9" * 19, "9" * 400])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(Problem, match=r"n (must be an integer|is out of range)"):
        given(n=value).number("n")


def test_flags_and_texts() -> None:
    assert [given(f=value).flag("f") for value in (1, "0", True, "FALSE", "", None)] == [
        True, False, True, False, None, None,
    ]  # fmt: skip
    assert given(t=12).text("t", 9) == "12"
    for wrong in (2, "yes", -1, [], {}):
        with pytest.raises(Problem):
            given(f=wrong).flag("f")
    for unfit in (True, [], {}, "x" * 10, "\x00"):
        with pytest.raises(Problem):
            given(t=unfit).text("t", 9)


@pytest.mark.parametrize(
    ("members", "page"),
    [
        ({}, Page(0, 10)), ({"page": {"pageNum": 3, "pageSize": 20}}, Page(40, 20)),
        ({"page": {"page_num": "2", "PageSize": "5"}}, Page(5, 5)), ({"page": '{"pageNum":2}'}, Page(10, 10)),
        ({"pagenum": 2, "pagesize": 7}, Page(7, 7)), ({"page": {"pageNum": 0, "pageSize": -1}}, Page(0, 10)),
        ({"page": {"pageNum": -3, "pageSize": 5_000}}, Page(0, 1_000)), ({"page": None}, Page(0, 10)),
        ({"page": {"pageNum": 10**9, "pageSize": 10**6}}, Page((10**9 - 1) * 1_000, 1_000)),
        ({"page": {"pageNum": 2**63 - 1, "pageSize": 1_000}}, Page(2**63 - 1, 1_000)),
    ],
)  # fmt: skip
def test_pages(members: dict[str, Any], page: Page) -> None:
    assert Given(members).page() == page


async def test_what_lies_inside_a_form() -> None:
    read = await decode(b"page[pageNum]=2&page.pageSize=5&taskIds[]=a&taskIds[]=b", {}, b"")
    assert read.page() == Page(5, 5)
    assert read.texts("taskIds", 5) == ["a", "b"]
    for query in (
        b"taskIds=a&taskIds=b",
        b"taskIds=a,b",
        b"taskIds=%5B%22a%22,%22b%22%5D",
        b"taskIds[0]=a&taskIds[1]=b",
    ):
        assert (await decode(query, {}, b"")).texts("taskIds", 5) == ["a", "b"]


def test_lists() -> None:
    assert given(l=["a", 5]).texts("l", 2) == ["a", "5"]
    assert given().texts("l", 2) is None
    for wrong in ({}, 5, [["a"]], [None], ["a"] * 3, "[a]"):
        with pytest.raises(Problem):
            given(l=wrong).texts("l", 2)


def test_days() -> None:
    assert given(d="2026-02-28").day("d") == date(2026, 2, 28)
    assert given(d="").day("d") is None
    for wrong in ("2026-02-30", "2026-2-3", "20260203", "today", 20260203, "2026-02-28T00:00:00"):
        with pytest.raises(Problem, match="YYYY-MM-DD"):
            given(d=wrong).day("d")


@pytest.mark.parametrize(
    ("headers", "body", "payload"),
    [
        (JSON, b'{"requestPayload":{"b": 1.0, "a":1e2}}', b'{"b": 1.0, "a":1e2}'),
        (JSON, b'{"request_payload":"x"}', b'"x"'),
        (JSON, b'{"requestPayload":null}', b""),
        (JSON, b"{}", b""),
        (FORM, b"requestPayload=%7B%22a%22:1.0%7D", b'{"a":1.0}'),
        (FORM, b"requestPayload=hello", b'"hello"'),
        (FORM, b"requestPayload=", b""),
    ],
)
async def test_a_payload_keeps_its_spelling(headers: dict[bytes, bytes], body: bytes, payload: bytes) -> None:
    assert (await decode(b"", headers, body)).payload("requestPayload") == payload
