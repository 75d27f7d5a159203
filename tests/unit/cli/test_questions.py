"""Questions on a terminal: who interrupts one is told apart from who says no."""

from __future__ import annotations

import signal

import pytest

from tests.support.terminal import terminal

_QUESTION = b"[y/N]"
_NOWHERE = {"SLUICEWAY_DATABASE_URL": "postgresql://127.0.0.1:1/nothing", "SLUICEWAY_DATA": "/nowhere"}


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\x04", 1), (b"\x03", 130), (b"y\n", 3)], ids=repr)
async def test_what_an_answer_ends_in(answer: bytes, code: int) -> None:
    async with terminal(_NOWHERE, "keys", "revoke", "7") as asking:
        await asking.shows(_QUESTION)
        if answer == b"\x03":
            asking.process.send_signal(signal.SIGINT)
        else:
            asking.types(answer)
        assert await asking.ended() == code
        assert b"Traceback" not in asking.drawn
