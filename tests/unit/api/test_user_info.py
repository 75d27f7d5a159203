"""X-User-Info in every way that gateways write it, and what is none."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from services.api.user_info import Named, UnreadableUserInfo, UserInfoReader

READER = UserInfoReader(["tenantId", "tenant_id", "tenantID"], ["userName", "user_name", "username", "name"])
INFO = {"tenantId": 7, "userName": "Ann Lee 李+1"}
ASCII = json.dumps(INFO)
RAW = json.dumps(INFO, ensure_ascii=False)


@pytest.mark.parametrize(
    "header",
    [
        ASCII.encode(),
        RAW.encode(),
        f"  {RAW} ".encode(),
        quote(RAW).encode(),
        quote(RAW, safe="{}:,").encode(),
        quote_plus(RAW).encode(),
        base64.b64encode(RAW.encode()),
        base64.b64encode(RAW.encode()).rstrip(b"="),
        base64.urlsafe_b64encode(RAW.encode()),
        quote(base64.b64encode(RAW.encode()).decode()).encode(),
    ],
    ids=repr,
)
def test_each_way_of_writing_it_says_the_same(header: bytes) -> None:
    assert READER.read(header) == Named(7, "Ann Lee 李+1")


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ({"tenantId": "7", "userName": "a"}, Named(7, "a")),
        ({"tenant_id": 7, "user_name": "a"}, Named(7, "a")),
        ({"tenantID": 7, "username": "a"}, Named(7, "a")),
        ({"tenantId": 0, "name": "a"}, Named(0, "a")),
        ({"tenantId": -1, "userName": 12}, Named(-1, "12")),
        ({"tenantId": str(-(2**63))}, Named(-(2**63), "")),
        ({"tenantId": 2**63 - 1, "userName": None}, Named(2**63 - 1, "")),
        ({"tenantId": None, "tenant_id": 5, "tenantID": 6}, Named(5, "")),
        ({"tenantId": 1, "roles": [{"x": 1}], "userName": "a%20b"}, Named(1, "a%20b")),
    ],
)
def test_names_and_kinds_of_its_fields(info: dict[str, Any], named: Named) -> None:
    assert READER.read(json.dumps(info).encode()) == named


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b"7", b"null", b"tenantId=7", b"\xff\xfe", b"{}", b"%7B", b"====", b"e30=",
        b'{"userName":"a"}', b'{"tenantId":null}', b'{"tenantId":""}', b'{"tenantId":"x"}', b'{"tenantId":1.5}',
        b'{"tenantId":true}', b'{"tenantId":[7]}', b'{"tenantId":9223372036854775808}', b'{"tenantId":" 7"}',
        b'{"tenantId":7,"tenantId":8}', b'{"tenantId":7,"userName":["a"]}', b'{"tenantId":7,"userName":"\\u0000"}',
        b'{"tenantId":7,"userName":"\\ud800"}', b'{"tenantId":7,"userName":"' + b"x" * 257 + b'"}', b"[" * 9_000,
        b'{"tenantId":NaN}',
    ],
    ids=lambda header: repr(header[:40]),
)  # fmt: skip
def test_what_names_no_tenant_is_unreadable_and_is_not_repeated(header: bytes) -> None:
    with pytest.raises(UnreadableUserInfo) as caught:
        READER.read(header)
    assert "xxx" not in str(caught.value)


def test_the_names_are_a_setting() -> None:
    reader = UserInfoReader(["org"], ["login"])
    assert reader.read(b'{"org":3,"login":"a","tenantId":4}') == Named(3, "a")
    with pytest.raises(UnreadableUserInfo, match="org"):
        reader.read(b'{"tenantId":4}')
