"""Texts of strangers, as PostgreSQL can keep them and others may see them."""

from __future__ import annotations

import re
from typing import Final

_SLASH: Final = r"(?:/|\\/|%2[Ff])"  #: as it is, in JSON of some, in an address inside an address
_CALLBACK: Final = re.compile(rf"({_SLASH}v1{_SLASH}callbacks{_SLASH})[A-Za-z0-9_-]+")


def storable(text: str) -> str:
    """The same text without what PostgreSQL cannot keep: NUL, and surrogates without their other half."""
    if text.isascii():  # nearly all are
        return text.replace("\x00", "") if "\x00" in text else text
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


def without_tokens(text: str) -> str:
    """The same text, the tokens of callback addresses masked.

    A provider has its job's address and may repeat it in whatever it says, long after the call that gave it. Whoever
    reads that could call back in its place: a token is its only credential.
    """
    return _CALLBACK.sub(r"\1***", text) if "callbacks" in text else text
