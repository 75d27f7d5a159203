"""The documents say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from libs.common.runtime.failpoints import FAILPOINTS
from tests.support import metrics_page, settings_page

ROOT = Path(__file__).parents[2]


def test_the_page_of_settings_is_current() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_page.page()


def test_the_page_of_metrics_is_current() -> None:
    made_by = "python -m tests.support.metrics_page > docs/metrics.md"
    assert (ROOT / "docs/metrics.md").read_text() == metrics_page.page(), made_by


def test_every_metric_is_used_by_the_process_that_shows_it() -> None:
    for name, _, metric in metrics_page.described():
        if metric.role:
            sources = [file.read_text() for file in (ROOT / "services" / metric.role).rglob("*.py")]
            assert any(f'"{name}"' in source for source in sources), f"{name}: {metric.role}"


def test_every_link_between_pages_leads_somewhere() -> None:
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_link_to_a_heading_finds_it() -> None:
    for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", file.read_text()):
            page = file.parent / target if target else file
            assert anchor in _anchors(page), f"{file.name}: {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


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
