"""From bytes to what a request says: JSON, form or query, whatever the old framework took."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from services.api import strict_json
from services.api.legacy.given import Given, Repeated, fold, folded, shown
from services.api.problems import Problem
from services.api.strict_json import BadJson, Reader

Members: TypeAlias = dict[str, Any]
Read: TypeAlias = Callable[[Callable[[], Members]], Awaitable[Members]]

_PAIRS_LIMIT: Final = 4_000
_FORM: Final = (b"", b"application/x-www-form-urlencoded")
#: `page[pageNum]`, `page.pageNum`, `taskIds[]`, `taskIds[0]`.
_INSIDE: Final = re.compile(r"([^\[\].]+)(?:\[([^\[\]]*)\]|\.([^\[\].]+))")


class _PayloadApart(dict[str, Reader]):
    """Readers of an object's members: the payload keeps its spelling, under whatever spelling of its name."""

    def get(self, name: str, default: Any = None) -> Any:
        return strict_json.payload if fold(name) == "requestpayload" else default


_members: Final = strict_json.members(_PayloadApart())


async def at_once(work: Callable[[], Members]) -> Members:
    """Implements Read: for what is small."""
    return work()


async def decode(query: bytes, named: Mapping[bytes, bytes], body: bytes, read: Read = at_once) -> Given:
    """What the query and the body say; the body wins. `read` runs the parsers. Raises Problem (400, 415)."""
    members = await _body(named, body, read) if body and not body.isspace() else {}
    return Given({**_pairs(query), **members} if query else members)


async def _body(named: Mapping[bytes, bytes], body: bytes, read: Read) -> Members:
    essence = named.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if essence == b"multipart/form-data":
        return _nested(await _parts(named[b"content-type"], body))
    # Many a client sends JSON and calls it a form: the first character tells.
    if essence.endswith(b"json") or body.lstrip()[:1] in (b"{", b"["):
        return await read(lambda: _json(body))
    if essence in _FORM:
        return await read(lambda: _pairs(body))
    raise Problem("unsupported_media_type", "send the body as JSON or as a form")


def _json(body: bytes) -> Members:
    try:
        members = strict_json.read(body, _members)
    except BadJson as error:
        raise Problem("bad_json", f"the body is not strict JSON: {error}") from None
    if not isinstance(members, dict):
        raise Problem("invalid", "the body must be one JSON object")
    return folded(members)


def _pairs(encoded: bytes) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            encoded.decode(), keep_blank_values=True, errors="strict", max_num_fields=_PAIRS_LIMIT, separator="&"
        )
    except ValueError:  # bytes that are not UTF-8, too
        raise Problem("invalid", f"the form or query is not UTF-8 text of at most {_PAIRS_LIMIT} fields") from None
    return _nested(pairs)


async def _parts(kind: bytes, body: bytes) -> list[tuple[str, str]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        headers = Headers({"content-type": _as_bytes(kind)})
        parser = MultiPartParser(headers, stream(), max_files=16, max_fields=_PAIRS_LIMIT, max_part_size=len(body))
        form = await parser.parse()
        await form.close()
        return [(_text(name), _text(value)) for name, value in form.multi_items() if isinstance(value, str)]
    except (MultiPartException, LookupError, ValueError):  # LookupError: no boundary, or an encoding that nobody knows
        raise Problem("invalid", "the multipart form cannot be read, or is not UTF-8 text") from None


def _as_bytes(kind: bytes) -> str:
    """The content type with the one encoding that keeps every byte, for `_text`: the form is UTF-8 whatever it says,
    as it was for the old gateway."""
    boundary = parse_options_header(kind)[1][b"boundary"].decode("latin-1")
    quoted = boundary.replace("\\", r"\\").replace('"', r"\"")
    return f'multipart/form-data; boundary="{quoted}"; charset=latin-1'


def _text(decoded: str) -> str:
    return decoded.encode("latin-1").decode()


def _nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Fields by folded name; what stands several times is a list, what is written inside brackets lies inside."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        matched = _INSIDE.fullmatch(name)
        inner = (matched[2] or matched[3] or "") if matched else ""
        outer = fold(matched[1] if matched else name)
        if matched and inner and not inner.isdecimal():
            within = found.setdefault(outer, {})
            if not isinstance(within, dict):
                raise Problem("invalid", f"{shown(outer)} is both a field and a group of fields")
            within[inner] = value
            continue
        known = found.setdefault(outer, value)
        if isinstance(known, dict):
            raise Problem("invalid", f"{shown(outer)} is both a field and a group of fields")
        if isinstance(known, Repeated):
            known.append(value)
        elif matched:
            found[outer] = Repeated([value])
        elif known is not value:
            found[outer] = Repeated([known, value])
    return found
