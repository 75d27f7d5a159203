"""base_url and route can only ever lead to base_url's own host."""

from __future__ import annotations

import json
import tracemalloc
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from libs.common.domain.endpoint import (
    Endpoint,
    InvalidEndpoint,
    InvalidQuery,
    follow,
    join_endpoint,
    parse_endpoint,
    with_query,
)


@pytest.mark.parametrize(
    ("base_url", "route", "expected"),
    [
        ("http://model", "", "http://model/"),
        ("http://model/", "", "http://model/"),
        ("http://model", "v1/run", "http://model/v1/run"),
        ("http://model/", "/v1/run", "http://model/v1/run"),
        ("http://model/a//", "//v1/run/", "http://model/a/v1/run/"),
        ("http://model/a", "/", "http://model/a/"),
        ("http://model", "run?x=1&y=%20", "http://model/run?x=1&y=%20"),
        ("http://model/a?x=1", "", "http://model/a?x=1"),
        (" https://Model.Example:8443/A ", " b ", "https://model.example:8443/A/b"),
        ("http://model", "@evil", "http://model/@evil"),
        ("http://model", ".evil.example", "http://model/.evil.example"),
        ("http://model", ":99@evil", "http://model/:99@evil"),
        ("http://model", "//evil/x", "http://model/evil/x"),
        ("http://model", "\u00fcber", "http://model/%C3%BCber"),
        ("http://b\u00fccher.example", "", "http://xn--bcher-kva.example/"),
        ("http://127.1", "", "http://127.0.0.1/"),
        ("http://2130706433", "", "http://127.0.0.1/"),
        ("http://0x7f.0.0.1", "", "http://127.0.0.1/"),
        ("http://0177.0.0.1", "", "http://127.0.0.1/"),
        ("http://\uff11\uff12\uff17.0.0.1", "", "http://127.0.0.1/"),
        ("http://[::FFFF:127.0.0.1]:80", "", "http://[::ffff:127.0.0.1]:80/"),
        ("http://my_model.svc.", "", "http://my_model.svc./"),
    ],
)
def test_joining(base_url: str, route: str, expected: str) -> None:
    assert join_endpoint(base_url, route).url == expected


@pytest.mark.parametrize("host", ["\ufdfa" * 4_000, "\ufdfa." * 120, "\u00e9" * 64, "\u00e9\u3002" * 127])
def test_a_host_that_is_too_long_is_not_spelt_out(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """To spell out the first took 0.2 s of a process's only loop; a job's output may be a thousand links."""
    looked_at: list[str] = []

    def look(label: str) -> str:
        looked_at.append(label)
        return label

    monkeypatch.setattr("encodings.idna.nameprep", look)
    with pytest.raises(InvalidEndpoint) as refused:
        parse_endpoint(f"http://{host}/")
    assert (refused.value.code, looked_at) == ("endpoint_host", [])


def test_a_host_counts_as_it_is_composed() -> None:
    assert parse_endpoint("http://" + "e\u0301" * 40).host.startswith("xn--")


@pytest.mark.parametrize(
    ("base_url", "route", "code"),
    [
        ("", "", "endpoint_scheme"),
        ("model", "", "endpoint_scheme"),
        ("//model", "", "endpoint_scheme"),
        ("file:///etc/passwd", "", "endpoint_scheme"),
        ("gopher://model", "", "endpoint_scheme"),
        ("http://", "x", "endpoint_host"),
        ("http:///path", "", "endpoint_host"),
        ("http://user@model", "", "endpoint_user_info"),
        ("http://user:pw@model", "", "endpoint_user_info"),
        ("http://model\\@evil", "", "endpoint_characters"),
        ("http://mo del", "", "endpoint_characters"),
        ("http://model/\r\nX: y", "", "endpoint_characters"),
        ("http://model", "a b", "endpoint_characters"),
        ("http://model", "a\ud800", "endpoint_characters"),
        ("http://model#x", "", "endpoint_fragment"),
        ("http://model#", "@evil", "endpoint_fragment"),
        ("http://model", "a#b", "endpoint_fragment"),
        ("http://model?x=", "@evil", "endpoint_query"),
        ("http://model:", "80", "endpoint_port"),
        ("http://model:0", "", "endpoint_port"),
        ("http://model:99999", "", "endpoint_unreadable"),
        ("http://model:x", "", "endpoint_unreadable"),
        ("http://[::1", "", "endpoint_host"),
        ("http://[::1]evil.example", "", "endpoint_host"),
        ("http://x[::1]", "", "endpoint_host"),
        ("http://a]b", "", "endpoint_host"),
        ("http://[fe80::1%25eth0]", "", "endpoint_host"),
        ("http://ex%61mple", "", "endpoint_host"),
        ("http://a..b", "", "endpoint_host"),
        ("http://-model-", "", "endpoint_host"),
        ("http://1.2.3.4.5", "", "endpoint_host"),
        ("http://999.1.1.1", "", "endpoint_host"),
        ("http://" + "a" * 64, "", "endpoint_host"),
        ("http://" + "a." * 200, "", "endpoint_host"),
        ("http://model/" + "x" * 5_000, "", "endpoint_long"),
    ],
)
def test_what_is_no_address_of_a_model(base_url: str, route: str, code: str) -> None:
    with pytest.raises(InvalidEndpoint) as refusal:
        join_endpoint(base_url, route)
    assert refusal.value.code == code
    assert refusal.value.field == ("/route" if code == "endpoint_query" or _fine(base_url) else "/base_url")
    assert "pw" not in refusal.value.message


def _fine(base_url: str) -> bool:
    try:
        parse_endpoint(base_url)
    except InvalidEndpoint:
        return False
    return True


_BASES = ["http://model", "https://model.example:8443/v1/", "http://10.0.0.1:8000", "http://[2001:db8::1]/x"]
_TRICKY = st.text(alphabet=st.sampled_from(list("/@.:#?\\%[]evil 0a-_\t\u3002\uff0f\u00e9")), max_size=30)


@given(st.sampled_from(_BASES), st.one_of(st.text(max_size=40), _TRICKY))
def test_no_route_leads_to_another_host_for_any_reader(base_url: str, route: str) -> None:
    base = parse_endpoint(base_url)
    try:
        joined = join_endpoint(base_url, route)
    except InvalidEndpoint:
        return
    assert joined.origin == base.origin
    seen = urlsplit(joined.url)
    assert (seen.scheme, seen.hostname, seen.port or joined.port) == (base.scheme, base.host, base.port)
    sent = URL(joined.url, encoded=True)
    assert (sent.scheme, sent.raw_host, sent.port) == (base.scheme, base.host, base.port)
    assert joined.url.isascii()
    assert not set(joined.url) & set(" \t\r\n\\#")


@given(st.one_of(st.text(), _TRICKY.map(lambda text: f"http://{text}")))
def test_whatever_is_accepted_is_read_the_same_way_by_the_client(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except InvalidEndpoint:
        return
    sent = URL(endpoint.url, encoded=True)
    assert (sent.scheme, sent.raw_host, sent.port) == (endpoint.scheme, endpoint.host, endpoint.port)


# redirects


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/b", "http://model:81/b"),
        ("b?x=1#y", "http://model:81/a/b?x=1"),
        ("//other/b", "http://other/b"),
        ("https://model:81/", "https://model:81/"),
        ("", "http://model:81/a/run"),
    ],
)
def test_following(location: str, expected: str) -> None:
    assert follow(parse_endpoint("http://model:81/a/run"), location).url == expected


@pytest.mark.parametrize("location", ["javascript:alert(1)", "file:///x", "http://[", "http://u@h/", "http://a b/"])
def test_redirects_that_lead_nowhere(location: str) -> None:
    with pytest.raises(InvalidEndpoint):
        follow(parse_endpoint("http://model"), location)


@pytest.mark.parametrize(
    ("url", "origin", "shown"),
    [
        ("http://model/a?secret=1", "http://model", "http://model/a"),
        ("http://model:80/", "http://model", "http://model:80/"),
        ("https://model:80/", "https://model:80", "https://model:80/"),
        ("https://[::1]/", "https://[::1]", "https://[::1]/"),
    ],
)
def test_what_errors_show_of_an_address(url: str, origin: str, shown: str) -> None:
    endpoint = parse_endpoint(url)
    assert (endpoint.origin, endpoint.shown) == (origin, shown)


def test_default_ports_are_the_same_origin() -> None:
    assert parse_endpoint("http://m").origin == parse_endpoint("http://m:80").origin
    assert parse_endpoint("http://m").origin != parse_endpoint("https://m").origin
    assert isinstance(parse_endpoint("http://m"), Endpoint)


# queries


@pytest.mark.parametrize(
    ("url", "payload", "expected"),
    [
        ("http://m/", b"", "http://m/"),
        ("http://m/", b" \n", "http://m/"),
        ("http://m/", b"{}", "http://m/"),
        ("http://m/?k=1", b"{ }", "http://m/?k=1"),
        ("http://m/?k=1", b" null", "http://m/?k=1"),  # what clients send that have no payload
        ("http://m/", b'""', "http://m/"),
        ("http://m/?k=1", b'{"a":"b"}', "http://m/?k=1&a=b"),
        ("http://m/", b'{"a":1.0,"b":1e2,"c":-0,"d":12345678901234567890}', "a=1.0&b=1e2&c=-0&d=12345678901234567890"),
        ("http://m/", b'{"a":true,"b":false,"c":null}', "a=true&b=false"),
        ("http://m/", b'{"a":"x y&z=\\u00fc\\n"}', "a=x%20y%26z%3D%C3%BC%0A"),
        ("http://m/", b'{"a":"","":"b"}', "a=&=b"),
        ("http://m/", b'{"a":{"k" : [1.0, "x  y", {}]}}', 'a={"k":[1.0,"x  y",{}]}'),
        ("http://m/", b'{"a":"\\"  q"}', 'a="  q'),
        ("http://m/", b' { "a" : 1 ,\n "a" : 2 } ', "a=1&a=2"),
    ],
)
def test_a_payload_as_a_query(url: str, payload: bytes, expected: str) -> None:
    joined = with_query(url, payload)
    if expected.startswith("http"):
        assert joined == expected
    else:
        query = joined.partition("?")[2]
        assert query == expected or parse_qsl(query, keep_blank_values=True) == [tuple(expected.split("=", 1))]


@pytest.mark.parametrize(
    "payload",
    [
        *(b"[]", b"1", b'"x"', b"false", b"{", b"{}{}", b"nonsense", b"\xff", b"\xef\xbb\xbf{}"),
        *(b'{"a":NaN}', b'{"a":Infinity}', b'{"a":"\\ud800"}', b'{"\\ud800":1}'),
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_cannot_be_a_query(payload: bytes) -> None:
    with pytest.raises(InvalidQuery) as refusal:
        with_query("http://m/", payload)
    assert len(str(refusal.value)) < 80


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _JSON, max_size=5), st.booleans())
def test_every_object_arrives_as_it_was(members: dict[str, object], spread: bool) -> None:
    payload = json.dumps(members, indent=2 if spread else None).encode()
    query = with_query("http://m/", payload).partition("?")[2]
    arrived = dict(parse_qsl(query, keep_blank_values=True, encoding="utf-8"))
    kept = {name: value for name, value in members.items() if value is not None}
    assert arrived.keys() == kept.keys()
    for name, value in kept.items():
        assert arrived[name] == value if isinstance(value, str) else json.loads(arrived[name]) == value


@pytest.mark.parametrize("text", ["x" * 300_000, '"' * 150_000], ids=["plain", "escapes"])
def test_a_long_text_inside_of_a_value_costs_no_hundred_times_its_size(text: str) -> None:
    payload = json.dumps({"a": [text]}).encode()
    tracemalloc.start()
    try:
        url = with_query("http://m/", payload)
        assert tracemalloc.get_traced_memory()[1] < 30 * len(payload)
    finally:
        tracemalloc.stop()
    assert dict(parse_qsl(urlsplit(url).query)) == {"a": json.dumps([text])}
