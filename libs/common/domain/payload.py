"""What a payload is before anybody knows what its model makes of it."""

from __future__ import annotations

import re
from typing import Final

_SPACE: Final = b" \t\r\n"
_NOTHING: Final = re.compile(rb'(?:null|""|\{[ \t\r\n]*\})?')


def is_empty(payload: bytes) -> bool:
    """Whether callers that write it mean none: nothing, null, an empty text, an object without members."""
    return _NOTHING.fullmatch(payload.strip(_SPACE)) is not None
