"""The documents say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from libs.common.runtime.failpoints import FAILPOINTS
from tests.support.settings_page import page

ROOT = Path(__file__).parents[2]


def test_the_page_of_settings_is_current() -> None:
    assert (ROOT / "docs/settings.md").read_text() == page()


def test_every_link_between_pages_leads_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_failpoint_of_the_registry_stands_in_the_code_once_or_more() -> None:
    source = "\n".join(
        file.read_text()
        for folder in ("services", "libs")
        for file in (ROOT / folder).rglob("*.py")
        if "failpoints.py" not in file.name
    )
    missing = [name for name in FAILPOINTS if f'"{name}"' not in source]
    assert not missing
    unknown = set(re.findall(r'failpoint\(\s*"([a-z-]+/[a-z-]+)"', source)) - set(FAILPOINTS)
    assert not unknown
