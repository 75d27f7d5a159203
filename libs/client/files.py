"""Where downloads are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    part = target.with_name(f".{target.name}.part")
    file = part.open("wb")
    try:
        with file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
