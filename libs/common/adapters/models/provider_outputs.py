"""The files in what a job brought: links and data URLs wherever they are, everything else as text or JSON."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from urllib.parse import unquote_to_bytes

import orjson

from libs.common.ports_jobs import JobOutput

OUTPUTS_LIMIT: Final = 1_000
#: What has more escapes was written by a machine, so they are all of them escapes.
ESCAPES_BY_HAND: Final = 2_000
_DEEPEST: Final = 32
_LINK: Final = re.compile(r"https?://[^\s\x00-\x20\x7f]{1,4096}", re.IGNORECASE)
_DATA: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+(?:=[^,;\s]*)?)*),", re.ASCII | re.IGNORECASE)
#: What has no comma up to there is no data URL: looking further, and at millions of parameters, takes gigabytes.
_DATA_HEAD: Final = 512
_SPACE: Final = b" \t\n\r\v\f"
_PLAIN_BASE64: Final = bytes.maketrans(b"-_", b"+/")
_SIGNS: Final = bytes.maketrans(b"%=", b"=%")
#: What would end a line in quoted-printable, and what stands for another below.
_NO_ESCAPES: Final = (b"%\n", b"%\r", b"%\0")


class BadOutput(ValueError):
    """An output that cannot be taken; the message says why and shows nothing of it."""

    code: ClassVar[str] = "bad_output"


class TooManyOutputs(BadOutput):
    """More files than anybody takes."""

    code: ClassVar[str] = "too_many_outputs"


def is_file(value: Any) -> bool:
    """Whether this is a link or a data URL."""
    return isinstance(value, str) and (_LINK.fullmatch(value) is not None or _data_head(value) is not None)


def outputs_of(value: Any, *, join_text: bool = False) -> tuple[JobOutput, ...]:
    """What a job brought, as files, in their order.

    A link or data URL is a file, and so is each of those in lists and objects. A list of strings of which some are
    neither is text. Text alone is one text file; what has no file in it is one JSON file as it is; words and numbers
    beside files become a last JSON file, in which `{"file": 0}` stands for the first file. Nothing gives nothing.
    `join_text`: a list of strings is one text, as language models stream it. Raises BadOutput.
    """
    if value is None or value in ("", [], {}):
        return ()
    if isinstance(value, str) and not is_file(value):
        return (_text(value),)
    if join_text and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return (_text("".join(value)),)
    found = _Found()
    rest = found.take(value, 0)
    if not found.files:
        return (_json(value),)
    return (*found.files, _json(rest)) if found.words else tuple(found.files)


def file_of(value: str) -> JobOutput:
    """One link or data URL. Raises BadOutput."""
    if _LINK.fullmatch(value):
        return JobOutput(url=value)
    head = _data_head(value)
    if head is None:
        raise BadOutput("an output is neither a link nor a data URL")
    data, plain = value[head.end() :], "base64" not in head[2].lower().split(";")
    try:
        content = _unescaped(data) if plain else _base64(data)
    except (binascii.Error, ValueError):
        raise BadOutput("an output is a data URL that cannot be decoded") from None
    return JobOutput(content=content, content_type=head[1] or "text/plain")


@dataclass
class _Found:
    """What a walk through an output has met."""

    files: list[JobOutput] = field(default_factory=list)
    words: bool = False  #: anything beside the files that says something

    def take(self, value: Any, depth: int) -> Any:
        """The value with its files taken out."""
        if is_file(value):
            return self._keep(value)
        if isinstance(value, list) and depth < _DEEPEST:
            if any(isinstance(item, str) and not is_file(item) for item in value):
                self.words = True
                return value
            return [self.take(item, depth + 1) for item in value]
        if isinstance(value, dict) and depth < _DEEPEST:
            return {name: self.take(item, depth + 1) for name, item in value.items()}
        if value is not None:
            self.words = True
        return value

    def _keep(self, value: str) -> dict[str, int]:
        if len(self.files) == OUTPUTS_LIMIT:
            raise TooManyOutputs(f"the job brought more than {OUTPUTS_LIMIT} files")
        self.files.append(file_of(value))
        return {"file": len(self.files) - 1}


def _data_head(value: str) -> re.Match[str] | None:
    return _DATA.match(value, 0, _DATA_HEAD + 1)


def _text(value: str) -> JobOutput:
    return JobOutput(content=value.encode("utf-8", "replace"), content_type="text/plain")


def _json(value: Any) -> JobOutput:
    try:
        return JobOutput(content=orjson.dumps(value), content_type="application/json")
    except TypeError:  # orjson reads what is nested deeper than it writes
        raise BadOutput("the output is nested too deeply") from None


def _base64(data: str) -> bytes:
    """Padding may be missing and escapes may be there, as browsers take it; nothing else is forgiven."""
    raw = _unescaped(data).translate(_PLAIN_BASE64, _SPACE).rstrip(b"=")
    return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)


def _unescaped(data: str) -> bytes:
    """As unquote_to_bytes, which takes 0.3 us and 200 bytes of memory for each escape. Raises ValueError for what is
    none among many."""
    raw = data.encode()
    escapes = raw.count(b"%")
    if escapes <= ESCAPES_BY_HAND:
        return unquote_to_bytes(raw)
    if any(other in raw for other in _NO_ESCAPES):
        raise ValueError("not escapes")
    # Quoted-printable is the same with another sign, and written in C. It leaves what is no escape as it is. So the two
    # signs change places, and back, and their own escapes with them: to escape millions of `=` would take seconds.
    for escape, other in ((b"%25", b"%\0\0"), (b"%3D", b"%25"), (b"%3d", b"%25"), (b"%\0\0", b"%3D")):
        raw = raw.replace(escape, other)
    content = binascii.a2b_qp(raw.translate(_SIGNS)).translate(_SIGNS)
    if len(content) != len(raw) - 2 * escapes:
        raise ValueError("not escapes")
    return content
