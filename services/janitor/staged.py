"""How the janitor removes staged files."""

from __future__ import annotations

from collections.abc import Iterable

from libs.common.domain.model_errors import StagedLost
from libs.common.ports_audit import StagedListing
from libs.common.runtime.logging import get_logger

log = get_logger()


async def remove_staged(staging: StagedListing, references: Iterable[str]) -> int:
    """Remove these files; returns how many went. One that cannot be removed holds up no others."""
    removed = 0
    for reference in references:
        try:
            await staging.remove(reference)
            removed += 1
        except (OSError, StagedLost) as error:
            log.warning("staged.not_removed", reference=reference, error=type(error).__name__)
    return removed
