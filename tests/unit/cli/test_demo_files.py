"""The demo opens what it got, and says no to what only looks like it."""

from __future__ import annotations

import pytest

from libs.common.embedded.sample_models import picture, tones
from services.cli.demo_files import opened_picture, opened_sound

PICTURE, SOUND = picture("every task ends once"), tones("every task ends once")


def test_what_the_sample_models_make_opens() -> None:
    assert opened_picture(PICTURE).startswith("png ")
    assert opened_sound(SOUND).startswith("wav ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"\x89PNG\r\n\x1a\n" + b"garbage that is no chunk at all" + b"IEND\xaeB`\x82",
        PICTURE[:-12],
        PICTURE[:60] + bytes([PICTURE[60] ^ 1]) + PICTURE[61:],
        PICTURE[:8] + PICTURE[8 + 25 :],
        SOUND,
    ],
    ids=["empty", "html", "garbage", "no end", "one bit", "no header", "sound"],
)
def test_what_is_no_picture_does_not_open(content: bytes) -> None:
    with pytest.raises(ValueError, match="PNG"):
        opened_picture(content)


@pytest.mark.parametrize("content", [b"", b"<html></html>", SOUND[:-1], SOUND[:40], PICTURE])
def test_what_is_no_sound_does_not_open(content: bytes) -> None:
    with pytest.raises(ValueError, match="WAV"):
        opened_sound(content)
