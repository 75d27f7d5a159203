"""Runs the .sql file beside a migration."""

from __future__ import annotations

import re
from pathlib import Path

from alembic import op
from sqlalchemy import text

_END = re.compile(r";[ \t]*(?:\n|\Z)")
_COMMENT = re.compile(r"^[ \t]*--.*\n", re.MULTILINE)


def run_file(migration: str) -> None:
    """Run every statement of the file that shares the migration's name. Statements end with `;` at a line's end."""
    source = _COMMENT.sub("", Path(migration).with_suffix(".sql").read_text())
    for statement in filter(str.strip, _END.split(source)):
        op.get_bind().execute(text(statement.replace(":", r"\:")))
