"""Runs the .sql file beside a migration."""

from __future__ import annotations

import re
from pathlib import Path

from alembic import op
from sqlalchemy import text

#: Up to the next `;` at a line's end, with everything between $$ and $$ (a function's body) passed over.
_STATEMENT = re.compile(r"(?:\$\$.*?\$\$|.)*?(?:;[ \t]*(?:\n|\Z)|\Z)", re.DOTALL)
_COMMENT = re.compile(r"^[ \t]*--.*\n", re.MULTILINE)


def run_file(migration: str) -> None:
    """Run every statement of the file that shares the migration's name. Statements end with `;` at a line's end."""
    for statement in split(Path(migration).with_suffix(".sql").read_text()):
        op.get_bind().execute(text(statement.replace(":", r"\:")))


def split(source: str) -> list[str]:
    """The statements of a file, without whole-line comments."""
    return [part.strip() for part in _STATEMENT.findall(_COMMENT.sub("", source)) if part.strip()]
