"""Lua scripts, read from their files, and how much one is asked for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Owners that one script is about: a millisecond, in which Redis does nothing else.
STEP: Final = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """What is sent to Redis once, and the hash by which it is called from then on."""

    name: str
    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Script:
        """Read scripts/<name>.lua."""
        text = (Path(__file__).parent / "scripts" / f"{name}.lua").read_text()
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
