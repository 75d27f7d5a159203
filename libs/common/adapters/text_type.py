"""Which kind of text an output is."""

from __future__ import annotations

import codecs
import re
from typing import Final

import orjson

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_JSON_START: Final = re.compile(r'\{\s*["}]|\[\s*(?:["\[{\]]|-?[0-9]|true|false|null)')
_SCENE: Final = re.compile(r'"asset"\s*:\s*\{[^{}]{0,200}"version"')
_SUBTITLE: Final = re.compile(r"[0-9]+\r?\n[0-9]{2}:[0-9]{2}:[0-9]{2},[0-9]{3} --> ")
_VERTEX: Final = re.compile(r"v(?:\s+-?[0-9][0-9.eE+-]*){3}", re.ASCII)
_SCENE_LINES: Final = ("#", "mtllib ", "o ", "g ", "usemtl ", "s ", "v ", "vt ", "vn ", "f ")
_ROOT: Final = re.compile(r"<([a-z_][\w:.-]*)[\s/>]")
_PROLOGUES: Final = (("<?", "?>"), ("<!--", "-->"), ("<!doctype", ">"))
_DOCTYPE: Final = re.compile(r"<!doctype\s+(html|svg)\b")
_PAGE_TAGS: Final = frozenset(
    {"head", "body", "title", "script", "style", "iframe", "div", "table", "h1", "p", "a", "br", "b", "img"}
)


def text_kind(head: bytes, *, complete: bool, claim: str = "") -> str | None:
    """An extension for text, None for what is not text in UTF-8 or marked UTF-16.

    `claim` is believed for plain text, and `json` only for what parses.
    """
    text = _decoded(head, complete)
    if text is None:
        return "txt" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None
    if not text:
        return None
    stripped = text.lstrip("\ufeff \t\r\n")
    return _structured(stripped, complete, claim) or _by_lines(stripped) or _claimed(stripped, complete, claim)


def _decoded(head: bytes, complete: bool) -> str | None:
    if _CONTROL.search(head):
        return None
    try:
        return codecs.utf_8_decode(head, "strict", complete)[0]  # the last character may be cut unless it is complete
    except UnicodeDecodeError:
        return None


def _structured(text: str, complete: bool, claim: str) -> str | None:
    if text.startswith("<"):
        return _markup_kind(text)
    if not _JSON_START.match(text):
        return None
    first, _, rest = text.partition("\n")
    several = bool(rest.strip()) and _parses(first)  # a value on each line
    if not complete:
        if several or (claim == "jsonl" and not rest):
            return "jsonl"
        return "gltf" if _SCENE.search(text) else "json"
    if _parses(text):
        return "gltf" if _SCENE.search(text) else "json"
    return "jsonl" if several else None


def _markup_kind(text: str) -> str | None:
    """By the first element, behind declarations, comments and the doctype."""
    text = text.lower()
    declared = False
    while prologue := next((pair for pair in _PROLOGUES if text.startswith(pair[0])), None):
        start, end = prologue
        doctype = _DOCTYPE.match(text)
        if doctype:
            return doctype[1]
        declared = declared or start != "<!--"
        text = text.partition(end)[2].lstrip()
    root = _ROOT.match(text)
    name = root[1].rpartition(":")[2] if root else ""
    if name in ("svg", "html"):
        return name
    if not declared and name in _PAGE_TAGS:
        return "html"
    return "xml" if declared or (root and f"</{root[1]}>" in text) else None


def _by_lines(text: str) -> str | None:
    if text.startswith("WEBVTT"):
        return "vtt"
    if _SUBTITLE.match(text):
        return "srt"
    lines = text.splitlines()
    if text.startswith("solid") and len(lines) > 1 and lines[1].lstrip().startswith("facet normal"):
        return "stl"
    if _is_scene(lines):
        return "obj"
    return "csv" if _is_table(lines) else None


def _is_scene(lines: list[str]) -> bool:
    whole = [line for line in lines[:-1] or lines if line.strip()]
    return any(_VERTEX.match(line) for line in whole) and all(line.startswith(_SCENE_LINES) for line in whole)


def _is_table(lines: list[str]) -> bool:
    """Three lines and more with equally many commas, and none followed by a space as in prose."""
    whole = lines[:-1] if len(lines) > 3 else lines
    if len(whole) < 3:
        return False
    commas = whole[0].count(",")
    return commas > 0 and all(line.count(",") == commas and ", " not in line for line in whole)


def _claimed(text: str, complete: bool, claim: str) -> str:
    if claim == "json":
        return "json" if complete and _parses(text) else "txt"
    return claim or "txt"


def _parses(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
