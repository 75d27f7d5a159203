"""Parts of a file, as requests ask for them and answers name them (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from libs.common.ports_results import ResultContent, WantedPart

#: One range; several at once are for readers of documents, and may be answered with the whole.
_ONE: Final = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


def wanted_part(headers: Mapping[str, str]) -> WantedPart | None:
    """The part that a request asks for; None for the whole, which also answers what cannot be read."""
    found = _ONE.fullmatch(headers.get("range", ""))
    if found is None:
        return None
    first, last = (int(digits) if digits else None for digits in found.groups())
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        return None
    return WantedPart(first, last, headers.get("if-range"))


def said_part(content: ResultContent) -> tuple[int, dict[str, str]]:
    """The status of an answer with this content, and what it says about its part."""
    if content.part is None:
        return 200, {"Accept-Ranges": "bytes", "Content-Length": str(content.size)}
    if not content.part:
        return 416, {"Content-Range": f"bytes */{content.size}", "Content-Length": "0"}
    placed = f"bytes {content.part.start}-{content.part.stop - 1}/{content.size}"
    return 206, {"Accept-Ranges": "bytes", "Content-Range": placed, "Content-Length": str(len(content.part))}
