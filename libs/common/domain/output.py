"""What a model call leaves behind: the staged output, and where it is kept for good."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StagedFile:
    """An output kept durably until it has been uploaded. `reference` is `store id:path` below the store's root."""

    reference: str
    size: int
    sha256: bytes
    file_type: str
    mime: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An output in its final place."""

    url: str
    file_type: str
    size: int
    sha256: bytes
    name: str
