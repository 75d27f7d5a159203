"""Where downloads are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO


@contextmanager
def whole(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the target's place when all of it is written.

    A device, a pipe or a link (/dev/stdout is one of these) stays what it is, and is written to.
    Raises FileNotFoundError, with the folder, where the target has none.
    """
    if target.is_symlink() or (target.exists() and not target.is_file()):
        with target.open("wb") as there:
            yield there
        return
    if not target.parent.is_dir():
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(target.parent))
    part = target.with_name(f".{token_hex(8)}.part")  # two downloads may have one target
    file = part.open("xb")
    try:
        with file:
            yield file
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
