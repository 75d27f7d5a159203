"""Loads the .sql files: every statement has a name, and a sentence that says what it promises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

_NAME: Final = re.compile(r"^-- name: ([a-z_0-9]+)\s*$", re.MULTILINE)
#: Comments go: a `:word` in one would become a parameter of SQLAlchemy's text().
_COMMENT: Final = re.compile(r"--[^\n]*")


#: All statements by name. `$n` parameters are for the hot pool, `:name` parameters for the engine.
Statements: TypeAlias = Mapping[str, str]


def load_statements(folder: str = "sql") -> Statements:
    """Read every file of a folder beside this one; a name used twice is an error."""
    by_name: dict[str, str] = {}
    for file in sorted((Path(__file__).parent / folder).glob("*.sql")):
        parts = _NAME.split(file.read_text())
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in by_name:
                raise ValueError(f"statement {name} stands twice, the second time in {file.name}")
            by_name[name] = "\n".join(line for line in _COMMENT.sub("", body).splitlines() if line.strip())
    return by_name
