"""What the file service answered."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from libs.common.adapters.file_type import TYPES
from libs.common.adapters.foreign_text import Cleaner
from libs.common.domain.model_errors import UploadFailed
from libs.common.domain.output import StagedFile, StoredFile

ANSWER_BYTES: Final = 256 * 1024
_URL_LIMIT: Final = 2_048
_NAME_LIMIT: Final = 255
_LARGEST: Final = 2**63 - 1
_UNFIT: Final = re.compile(r"[\x00-\x20\x7f\ud800-\udfff]")
_DENIED: Final = re.compile(r"40[13]([0-9]{2})?")  #: 401, 403, and with a cause behind it


class NotAccepted(Exception):
    """The credentials were not accepted."""


def read_answer(answer: bytes, staged: StagedFile, file_name: str, cleaner: Cleaner) -> StoredFile:
    """The stored file; size and type are the service's where it gives usable ones, else what was staged.

    The answer may be bare or inside {code, message, data}; names are matched without regard to case. Raises
    UploadFailed, and NotAccepted for a code of the 401 and 403 kinds.
    """
    outer = _fields(_parsed(answer))
    code = outer.get("code")
    if code not in (None, "", 0, "0"):
        if _DENIED.fullmatch(_words(code)):
            raise NotAccepted
        message = cleaner.clean(_words(outer.get("message") or outer.get("msg") or "").encode("utf-8", "replace"))
        raise _unusable(f"refused the upload with code {cleaner.clean(_words(code).encode())}: {message}")
    inner = outer if isinstance(outer.get("fileurl"), str) else _fields(outer.get("data"))
    return StoredFile(
        url=_address(inner.get("fileurl")),
        file_type=_type(inner.get("fileformat")) or staged.file_type,
        size=_size(inner.get("filesize")) or staged.size,
        sha256=staged.sha256,
        name=_name(inner.get("filename")) or file_name,
    )


def _parsed(answer: bytes) -> Any:
    if len(answer) > ANSWER_BYTES:
        raise _unusable("gave an answer that is too long")
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        raise _unusable("gave an answer that is not JSON") from None


def _fields(value: Any) -> dict[str, Any]:
    return {name.lower(): inner for name, inner in value.items()} if isinstance(value, dict) else {}


def _words(value: Any) -> str:
    try:
        return str(value)
    except RecursionError:  # it may be nested deeper than it can be written
        return "(nested too deeply)"


def _address(value: Any) -> str:
    address = value.strip() if isinstance(value, str) else ""
    if not address:
        raise _unusable("gave no fileURL")
    if len(address) > _URL_LIMIT or _UNFIT.search(address):
        raise _unusable("gave a fileURL that is no address")
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise _unusable("gave a fileURL that is no absolute http address")
    return address


def _type(value: Any) -> str:
    text = value.strip().lower().lstrip(".") if isinstance(value, str) else ""
    return text if text in TYPES else ""


def _size(value: Any) -> int:
    """Zero for what is none, or none that PostgreSQL can keep: nothing empty is ever uploaded."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:20])
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST else 0


def _name(value: Any) -> str:
    return value if isinstance(value, str) and len(value) <= _NAME_LIMIT and value.isprintable() else ""


def _unusable(what: str) -> UploadFailed:
    return UploadFailed("upload_answer", f"the file service {what}", retryable=True)
