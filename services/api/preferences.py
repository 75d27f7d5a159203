"""What callers would like (RFC 7240): to be answered when their task has ended."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

#: Proxies and load balancers in front give an answer up after 60 s (nginx's and AWS's defaults): 504, and of a create
#: nobody would know whether it was accepted.
LONGEST_WAIT_SECONDS: Final = 55.0
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\b", re.IGNORECASE)


def wait_seconds(prefer: Iterable[str]) -> float | None:
    """How long the caller would wait, by all its headers `Prefer`; a preference that makes no sense is no error."""
    matched = _WAIT.search(", ".join(prefer))
    return min(float(matched.group(1)), LONGEST_WAIT_SECONDS) if matched else None


def applied(seconds: float) -> str:
    """What `Preference-Applied` says of it."""
    return f"wait={seconds:.0f}"
