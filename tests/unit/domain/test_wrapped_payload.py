"""Paths to payloads, and credentials beside them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.errors import Invalid
from libs.common.domain.wrapped_payload import find_credentials, parse_path


@pytest.mark.parametrize(
    ("text", "path"),
    [("body", ["body"]), ("request.body", ["request", "body"]), ("/request/0/a~1b~0", ["request", "0", "a/b~"])],
)
def test_both_ways_to_write_a_path(text: str, path: list[str]) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["", ".", "a..b", "/", "/a//b", "a."])
def test_paths_with_empty_names_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_path(text)


@pytest.mark.parametrize(
    ("wrapper", "found"),
    [
        ({"Authorization": "Bearer x", "X-User-Info": "u"}, ("Bearer x", "u")),
        (
            {"headers": {"authorization": ["Bearer x", "y"], "x_user_info": {"tenantId": 7}}},
            ("Bearer x", '{"tenantId":7}'),
        ),
        ({"a": [{"xUserInfo": "u"}]}, ("", "u")),
        ({"deep": {"authorization": "inner"}, "AUTHORIZATION": "outer"}, ("outer", "")),
        ({"authorization": "line\r\nbreak"}, ("", "")),
        ({"authorization": None, "note": "authorization"}, ("", "")),
        (None, ("", "")),
        ("text", ("", "")),
    ],
)
def test_credentials_are_found_in_any_spelling(wrapper: Any, found: tuple[str, str]) -> None:
    assert tuple(find_credentials(wrapper)) == found


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_wrapper_breaks_the_search(wrapper: Any) -> None:
    find_credentials(wrapper)
