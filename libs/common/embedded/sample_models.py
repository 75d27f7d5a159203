"""Two small model services for demos and first steps: text in, a WAV of tones or a PNG of letters out.

Run alone: `python -m libs.common.embedded.sample_models PORT`. Both do real work on the text; neither is slow unless
`seconds` in the payload asks for it.
"""

from __future__ import annotations

import asyncio
import io
import math
import struct
import sys
import wave
import zlib
from array import array
from typing import Any, Final

from aiohttp import web

from libs.common.runtime.process import die_with_parent

_RATE: Final = 16_000
_TONE_SECONDS: Final = 0.09
_PENTATONIC: Final = (0, 2, 4, 7, 9)
_A3_HERTZ: Final = 220.0
_TEXT_LIMIT: Final = 400
_DELAY_LIMIT: Final = 60.0

#: Letters of five columns, seven dots each, lowest bit on top.
_GLYPHS: Final = {
    "A": "7e1111117e", "B": "7f49494936", "C": "3e41414122", "D": "7f4141221c", "E": "7f49494941", "F": "7f09090901",
    "G": "3e41495932", "H": "7f0808087f", "I": "00417f4100", "J": "2040413f01", "K": "7f08142241", "L": "7f40404040",
    "M": "7f020c027f", "N": "7f0408107f", "O": "3e4141413e", "P": "7f09090906", "Q": "3e4151215e", "R": "7f09192946",
    "S": "2649494932", "T": "01017f0101", "U": "3f4040403f", "V": "1f2040201f", "W": "3f4038403f", "X": "6314081463",
    "Y": "0708700807", "Z": "6151494543", "0": "3e5149453e", "1": "00427f4000", "2": "4261514946", "3": "2141454b31",
    "4": "1814127f10", "5": "2745454539", "6": "3c4a494930", "7": "0171090503", "8": "3649494936", "9": "064949291e",
    ".": "0060600000", ",": "0050300000", "!": "00005f0000", "?": "0201510906", "-": "0808080808", ":": "0036360000",
    "'": "0004030000", "/": "2010080402", "+": "08083e0808",
}  # fmt: skip
_SCALE: Final = 6
_MARGIN: Final = 4
_COLUMNS: Final = 22


def tones(text: str) -> bytes:
    """A mono 16-bit WAV: one soft pentatonic tone for each letter, a rest for anything else."""
    samples = array("h")
    count = int(_RATE * _TONE_SECONDS)
    for character in text[:_TEXT_LIMIT] or " ":
        step = ord(character.lower()) - ord("a")
        hertz = _A3_HERTZ * 2 ** ((_PENTATONIC[step % 5] + 12 * (step // 5 % 3)) / 12) if character.isalnum() else 0.0
        for n in range(count):
            envelope = math.sin(math.pi * n / count) if hertz else 0.0
            samples.append(int(12_000 * envelope * math.sin(2 * math.pi * hertz * n / _RATE)))
    if sys.byteorder == "big":
        samples.byteswap()
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(_RATE)
        sound.writeframes(samples.tobytes())
    return out.getvalue()


def picture(text: str) -> bytes:
    """An 8-bit grey PNG with the text in block letters on a gradient."""
    lines = [text[start : start + _COLUMNS].upper() for start in range(0, min(len(text), _TEXT_LIMIT), _COLUMNS)] or [
        ""
    ]
    width = _SCALE * (6 * max(map(len, lines)) + 2 * _MARGIN)
    height = _SCALE * (9 * len(lines) + 2 * _MARGIN)
    rows = [bytearray(40 + 80 * (x + y) // (width + height) for x in range(width)) for y in range(height)]
    for number, line in enumerate(lines):
        for place, character in enumerate(line):
            columns = bytes.fromhex(_GLYPHS.get(character, "0000000000"))
            _stamp(rows, columns, _SCALE * (_MARGIN + 6 * place), _SCALE * (_MARGIN + 9 * number))
    raw = b"".join(b"\0" + bytes(row) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(raw)) + _chunk(b"IEND", b"")


def _stamp(rows: list[bytearray], columns: bytes, left: int, top: int) -> None:
    for x, column in enumerate(columns):
        for y in range(7):
            if column >> y & 1:
                for row in rows[top + y * _SCALE : top + (y + 1) * _SCALE]:
                    row[left + x * _SCALE : left + (x + 1) * _SCALE] = b"\xf0" * _SCALE


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


async def _answer(request: web.Request, make: Any, content_type: str) -> web.Response:
    body = await request.json()
    if not isinstance(body, dict) or not isinstance(body.get("text"), str):
        return web.json_response({"error": "payload needs a text"}, status=422)
    seconds = body.get("seconds", 0)
    if isinstance(seconds, int | float):
        await asyncio.sleep(min(max(float(seconds), 0.0), _DELAY_LIMIT))
    made = await asyncio.get_running_loop().run_in_executor(None, make, body["text"])
    return web.Response(body=made, content_type=content_type)


async def _speak(request: web.Request) -> web.Response:
    return await _answer(request, tones, "audio/wav")


async def _draw(request: web.Request) -> web.Response:
    return await _answer(request, picture, "image/png")


def application() -> web.Application:
    """POST /speak and POST /draw, each with {"text": ..., "seconds": ...}; GET /healthy answers 204 when up."""

    async def healthy(_: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.add_routes([web.post("/speak", _speak), web.post("/draw", _draw), web.get("/healthy", healthy)])
    return app


def main() -> None:
    """Serve on the port that is named, until told to end; as a demo's, until that is gone."""
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        sys.exit("usage: python -m libs.common.embedded.sample_models PORT")
    die_with_parent()
    try:
        web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
    except (OSError, OverflowError) as error:
        sys.exit(f"the sample models cannot listen on port {sys.argv[1]}: {error}. Name another port.")


if __name__ == "__main__":
    main()
