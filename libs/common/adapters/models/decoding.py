"""Decoding of compressed answers, never more than a piece at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from libs.common.domain.model_errors import ModelError

PIECE_BYTES: Final = 64 * 1024  #: the most that one step unpacks, whatever was packed into it

_GZIP: Final = 16 + zlib.MAX_WBITS
#: What servers write where nothing is packed: charsets, and what object stores keep of how an object was uploaded.
_PLAIN: Final = frozenset({"", "identity", "none", "binary", "utf-8", "utf8", "aws-chunked"})


class Decoder(Protocol):
    """Takes a body as it comes over the wire and gives it as it was meant."""

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        """The pieces that this chunk completes, at most PIECE_BYTES each. Raises ModelError `bad_answer`."""

    def finish(self) -> None:
        """The body is over. Raises ModelError `bad_answer` when it was cut."""


def decoder_for(encodings: Sequence[str]) -> Decoder | None:
    """What the Content-Encoding lines of an answer ask for, None for plain ones.

    We ask for plain answers; one that is compressed nevertheless is taken if it is simply so. Raises ModelError.
    """
    names = [name.strip().lower() for line in encodings for name in line.split(",")]
    names = [name for name in names if name not in _PLAIN]
    if not names:
        return None
    if len(names) > 1:
        raise _bad("is encoded more than once")
    if names[0] in ("gzip", "x-gzip"):
        return _Gzip()
    if names[0] == "deflate":
        return _Deflate()
    raise _bad("has an encoding that was not asked for")


class _Gzip:
    """gzip, several members after each other included."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP)
        self._begun = False

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        rest = chunk
        while rest:
            if self._inflate.eof:
                rest = rest.lstrip(b"\0")  # padding between and behind members
                if not rest:
                    return
                self._inflate = zlib.decompressobj(_GZIP)
            self._begun = True
            yield from _pieces(self._inflate, rest)
            rest = self._inflate.unused_data

    def finish(self) -> None:
        if self._begun and not self._inflate.eof:
            raise _bad("ends in the middle of its compressed data")


class _Deflate:
    """zlib as the standard wants it, or bare deflate as many servers send it."""

    def __init__(self) -> None:
        self._inflate: zlib._Decompress | None = None

    def decode(self, chunk: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            wrapped = chunk[0] & 0x0F == 8 and chunk[0] >> 4 <= 7
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        yield from _pieces(self._inflate, chunk)
        if self._inflate.unused_data:
            raise _bad("goes on behind its compressed data")

    def finish(self) -> None:
        if self._inflate is not None and not self._inflate.eof:
            raise _bad("ends in the middle of its compressed data")


def _pieces(inflate: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
    try:
        while chunk:
            piece = inflate.decompress(chunk, PIECE_BYTES)
            if piece:
                yield piece
            chunk = inflate.unconsumed_tail
        while not inflate.eof and (piece := inflate.decompress(b"", PIECE_BYTES)):
            yield piece
    except zlib.error:
        raise _bad("is not the compressed data that it claims to be") from None


def _bad(what: str) -> ModelError:
    return ModelError("bad_answer", f"the model's answer {what}", retryable=False)
