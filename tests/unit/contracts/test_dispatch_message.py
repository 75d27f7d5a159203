"""Claim checks: read back as written, and nothing else is read."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as some

from libs.common.contracts.dispatch_message import DispatchMessage, MalformedMessage, decode
from libs.common.contracts.topics import model_topic, partition_of

big = some.integers(-(2**63), 2**63 - 1)


@given(some.builds(DispatchMessage, big, some.integers(0, 2**31 - 1), big, big, big, big, big, big))
def test_what_was_encoded_is_decoded(message: DispatchMessage) -> None:
    assert decode(message.encode()) == message


@given(some.binary(max_size=200))
def test_any_other_bytes_are_malformed_and_nothing_worse(value: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(value)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": "1"},
        {"lease": None},
        {"lease": "7"},
        {"lease": 1.5},
        {"task": True},
        {"task": 2**63},
        {"lane": -1},
    ],
)
def test_a_field_out_of_shape_is_malformed(change: dict[str, object]) -> None:
    body = orjson.loads(DispatchMessage(1, 2, 3, 4, 5, 6, 0, 8).encode()) | change
    with pytest.raises(MalformedMessage):
        decode(orjson.dumps(body))


def test_a_record_without_a_version_is_said_to_have_none() -> None:
    with pytest.raises(MalformedMessage, match="has no schema version"):
        decode(b'{"no": "task"}')


def test_tombstones_and_giants_are_malformed() -> None:
    for value in (None, b"{" * 5_000):
        with pytest.raises(MalformedMessage):
            decode(value)


@pytest.mark.parametrize("name", ["GPT 4/o", "..", "", "日本語", "a" * 300, "x\u202ey"])
def test_topics_are_safe_and_unique_whatever_the_name(name: str) -> None:
    topic = model_topic("sluiceway", 7, name)
    assert topic.startswith("sluiceway.model.7-")
    assert len(topic) <= 249
    assert all(character.isascii() and (character.isalnum() or character in "._-") for character in topic)


def test_a_partition_is_always_one_of_the_topic() -> None:
    assert {partition_of(task, 4) for task in range(-8, 9)} == {0, 1, 2, 3}
