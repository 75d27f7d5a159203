"""The page of settings, made from the code: `python -m tests.support.settings_page > docs/settings.md`."""

from __future__ import annotations

import sys

from pydantic import SecretStr

from libs.common.settings import PREFIX, Settings

_HEAD = """# Settings

All from the environment. A secret may come from a file instead: `<NAME>_FILE` names it, a trailing newline is dropped.
`sluiceway config` shows what a process would use, secrets hidden, and warns of names that no setting reads.

| name | default | meaning |
|---|---|---|
"""


def page() -> str:
    """The page as it has to be."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = f"`{default}`" if default != "" else ""
        rows.append(f"| {PREFIX}{name.upper()} | {shown} | {field.description} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
