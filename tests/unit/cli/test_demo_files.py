"""The demo opens what it got, says no to what only looks like it, and leaves no file behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from libs.common.embedded.postgres_home import place_of, settle_in
from libs.common.embedded.sample_models import picture, tones
from services.cli import demo_run
from services.cli.demo import demo
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


@pytest.fixture
def private_shell() -> Iterator[None]:
    """A shell whose files are its account's alone; signals that the demo takes are given back."""
    taken = {wish: signal.getsignal(wish) for wish in (signal.SIGTERM, signal.SIGHUP)}
    before = os.umask(0o077)
    yield
    os.umask(before)
    for wish, handler in taken.items():
        signal.signal(wish, handler)


@pytest.mark.usefixtures("private_shell")
def test_files_that_postgres_has_elsewhere_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's PostgreSQL runs as `nobody`, who may not enter folders of such a shell."""
    places = []

    async def begun(folder: Path, *_: Any) -> None:
        home = folder / "data" / "postgres"
        settle_in(home)
        places.append(place_of(home))
        assert places[0].is_dir()
        raise demo_run.DemoFailed("postgres")

    monkeypatch.setattr(demo_run, "run_demo", begun)
    with pytest.raises(typer.Exit):
        demo(1, None)
    assert [place.exists() for place in places] == [False]
