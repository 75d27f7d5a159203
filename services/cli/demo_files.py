"""Opening what the sample models made, as a program that uses it would: all of it, not only its first bytes."""

from __future__ import annotations

import io
import wave
import zlib
from typing import Final

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
#: Samples of a pixel, by the colour type of the PNG specification.
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def opened_sound(content: bytes) -> str:
    """Format and length of a WAV file; raises ValueError when it is none, or cut off."""
    try:
        with wave.open(io.BytesIO(content)) as sound:
            frames, rate = sound.getnframes(), sound.getframerate()
            whole = frames * sound.getnchannels() * sound.getsampwidth()
            read = len(sound.readframes(frames))
    except (wave.Error, EOFError) as error:
        raise ValueError(f"no WAV file: {error}") from error
    if not frames or read != whole:
        raise ValueError(f"a WAV file of {frames} frames has {read} bytes of sound")
    return f"wav {frames / rate:.1f} s"


def opened_picture(content: bytes) -> str:
    """Format and size of a PNG file that is not interlaced; raises ValueError when it is none, or damaged."""
    if not content.startswith(_SIGNATURE):
        raise ValueError("no PNG file")
    chunks = _chunks(content)
    header = chunks.get(b"IHDR", b"")
    if len(header) != 13 or header[9] not in _SAMPLES or b"IEND" not in chunks:
        raise ValueError("a PNG file without a header or an end")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    line = 1 + -(-width * _SAMPLES[header[9]] * header[8] // 8)  # each line begins with the number of its filter
    try:
        pixels = len(zlib.decompress(chunks.get(b"IDAT", b"")))
    except zlib.error as error:
        raise ValueError(f"a PNG file whose pixels are damaged: {error}") from error
    if not pixels or pixels != line * height:
        raise ValueError(f"a PNG file of {width}x{height} has {pixels} bytes of pixels")
    return f"png {width}x{height}"


def _chunks(content: bytes) -> dict[bytes, bytes]:
    """What the chunks hold, by type; several of a type are put together."""
    found: dict[bytes, bytes] = {}
    at = len(_SIGNATURE)
    while at < len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if zlib.crc32(content[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError("a PNG file with a damaged chunk")
        kind = content[at + 4 : at + 8]
        found[kind] = found.get(kind, b"") + content[at + 8 : end]
        at = end + 4
    return found
