"""Where downloads are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO


@contextmanager
def whole(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the target's place when all of it is written.

    A device, a pipe or a link (/dev/stdout is one of these) stays what it is, and is written to.
    """
    if target.is_symlink() or (target.exists() and not target.is_file()):
        with target.open("wb") as there:
            yield there
        return
    part = target.with_name(f".{token_hex(8)}.part")  # two downloads may have one target
    file = part.open("xb")
    try:
        with file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
