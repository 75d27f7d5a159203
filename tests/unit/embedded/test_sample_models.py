"""The sample model services do real work."""

from __future__ import annotations

import io
import socket
import struct
import subprocess
import sys
import wave
import zlib

from libs.common.embedded.sample_models import picture, tones


def test_tones_are_a_wav_as_long_as_its_text() -> None:
    with wave.open(io.BytesIO(tones("abcde"))) as sound:
        assert sound.getframerate() == 16_000
        assert sound.getnframes() == 5 * int(16_000 * 0.09)
    assert tones("abcde") != tones("edcba")


def test_the_picture_is_a_png_that_shows_its_text() -> None:
    image = picture("hi")
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", image[16:24])
    start = image.index(b"IDAT") + 4
    size = struct.unpack(">I", image[start - 8 : start - 4])[0]
    pixels = zlib.decompress(image[start : start + size])
    assert len(pixels) == (width + 1) * height
    assert b"\xf0" in pixels
    assert picture("hi") != picture("ho")


def test_a_port_that_cannot_be_had_is_said_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port, told in ((str(taken.getsockname()[1]), "Name another"), ("70000", "Name another"), ("http", "usage")):
            ran = subprocess.run(
                [sys.executable, "-m", "libs.common.embedded.sample_models", port],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert (ran.returncode, told in ran.stderr, len(ran.stderr.splitlines())) == (1, True, 1), ran.stderr
