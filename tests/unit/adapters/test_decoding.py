"""Unpacking of compressed answers: everything comes out as it went in, in pieces that stay small."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from libs.common.adapters.models.decoding import PIECE_BYTES, decoder_for
from libs.common.adapters.models.exchange import body_of
from libs.common.domain.model_errors import ModelError
from tests.support.misbehaving_model import bare_deflate, gzip_bomb


def _unpacked(encoding: str, packed: bytes, size: int) -> bytes:
    decoder = decoder_for([encoding])
    assert decoder is not None
    pieces = [piece for place in range(0, len(packed), size) for piece in decoder.decode(packed[place : place + size])]
    decoder.finish()
    assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@given(st.lists(st.binary(max_size=3_000), max_size=4), st.integers(1, 200), st.integers(0, 20))
def test_gzip_in_any_chunks_and_members(parts: list[bytes], size: int, padding: int) -> None:
    packed = b"".join(map(gzip.compress, parts)) + bytes(padding if parts else 0)
    assert _unpacked("gzip", packed, size) == b"".join(parts)


def test_what_is_packed_beside_a_name_that_says_nothing_is_unpacked() -> None:
    assert _unpacked("gzip,aws-chunked", gzip.compress(b"x" * 100), 50) == b"x" * 100


@given(st.binary(max_size=3_000), st.integers(1, 200))
def test_deflate_with_and_without_its_wrapper(body: bytes, size: int) -> None:
    assert _unpacked("deflate", zlib.compress(body), size) == body
    assert _unpacked("Deflate", bare_deflate(body), size) == body


def test_a_bomb_comes_in_small_pieces() -> None:
    packed = gzip_bomb(20)
    assert len(packed) < 25_000
    assert len(_unpacked("gzip", packed, len(packed))) == 20 * 2**20


class _Arrived:
    """A response whose whole body is there already."""

    content_length = None

    def __init__(self, body: bytes) -> None:
        self.headers = CIMultiDict({"Content-Encoding": "gzip"})
        self.content = self
        self._left = [body]

    async def readany(self) -> bytes:
        return self._left.pop() if self._left else b""


@pytest.mark.parametrize(
    ("body", "size"),
    [(gzip_bomb(20), 20 * 2**20), (gzip.compress(b"") * 60_000, 0)],
    ids=["much in it", "nothing in it"],
)
async def test_others_get_their_turns_while_a_bomb_is_unpacked(body: bytes, size: int) -> None:
    """65 kB that arrive at once became 64 MB in one go, for which all other calls waited. What of a chunk was behind a
    packing was copied for each: a megabyte of empty ones took 0.8 s."""
    turns, over, unpacked = 0, False, 0

    async def others() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(others())
    response: Any = _Arrived(body)
    async for piece in body_of(response, 2**25):
        unpacked += len(piece)
    before, over = turns, True
    await beside
    assert (unpacked, before >= 15) == (size, True)


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_noise_is_unpacked_or_refused(noise: bytes, encoding: str) -> None:
    decoder = decoder_for([encoding])
    assert decoder is not None
    try:
        list(decoder.decode(noise))
        decoder.finish()
    except ModelError as error:
        assert error.code == "bad_answer"  # noqa: PT017  either end is fine


@pytest.mark.parametrize(
    "lines", [[], [""], ["identity"], ["identity, identity"], [" , "], ["UTF-8"], ["aws-chunked"], ["none"], ["binary"]]
)
def test_plain_answers_need_no_decoder(lines: list[str]) -> None:
    assert decoder_for(lines) is None


@pytest.mark.parametrize("lines", [["br"], ["gzip, br"], ["gzip", "gzip"], ["gzip," * 10 + "gzip"], ["zstd"], ["x"]])
def test_other_encodings_are_refused(lines: list[str]) -> None:
    with pytest.raises(ModelError) as refusal:
        decoder_for(lines)
    assert (refusal.value.code, refusal.value.retryable) == ("bad_answer", False)
