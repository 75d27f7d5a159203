"""Texts of strangers, as PostgreSQL can keep them."""

from __future__ import annotations


def storable(text: str) -> str:
    """The same text without what PostgreSQL cannot keep: NUL, and surrogates without their other half."""
    if text.isascii():  # nearly all are
        return text.replace("\x00", "") if "\x00" in text else text
    return text.replace("\x00", "").encode("utf-8", "replace").decode()
