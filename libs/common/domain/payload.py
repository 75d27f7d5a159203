"""What a payload is before anybody knows what its model makes of it."""

from __future__ import annotations

import re
from typing import Final

_NOTHING: Final = re.compile(rb'[ \t\r\n]*(?:null|""|\{[ \t\r\n]*\})?[ \t\r\n]*')


def is_empty(payload: bytes) -> bool:
    """Whether callers that write it mean none: nothing, null, an empty text, an object without members."""
    return _NOTHING.fullmatch(payload) is not None
