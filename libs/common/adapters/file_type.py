"""What kind of file an output is, told from its first bytes.

The extension that ends up in a result's name comes from the closed table here and from nowhere else. Bytes decide;
a second library is asked about unknown binaries; what the model claims as Content-Type only settles between kinds
that look alike.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import puremagic

from libs.common.adapters.text_type import text_kind

HEAD_BYTES: Final = 4_096  #: how much of an output is looked at

#: Every kind there is: extension to media type.
TYPES: Final[dict[str, str]] = {
    "png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp", "bmp": "image/bmp",
    "tiff": "image/tiff", "ico": "image/vnd.microsoft.icon", "avif": "image/avif", "heic": "image/heic",
    "jxl": "image/jxl", "svg": "image/svg+xml", "psd": "image/vnd.adobe.photoshop", "exr": "image/x-exr",
    "hdr": "image/vnd.radiance",
    "mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "opus": "audio/opus",
    "m4a": "audio/mp4", "aac": "audio/aac", "aiff": "audio/aiff", "amr": "audio/amr", "mid": "audio/midi",
    "mp4": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "mkv": "video/x-matroska",
    "avi": "video/x-msvideo", "flv": "video/x-flv", "3gp": "video/3gpp", "ts": "video/mp2t", "mpg": "video/mpeg",
    "glb": "model/gltf-binary", "gltf": "model/gltf+json", "obj": "model/obj", "ply": "model/ply", "stl": "model/stl",
    "usdz": "model/vnd.usdz+zip", "3mf": "model/3mf", "fbx": "application/vnd.autodesk.fbx",
    "pdf": "application/pdf", "epub": "application/epub+zip",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "json": "application/json", "jsonl": "application/jsonl", "txt": "text/plain", "md": "text/markdown",
    "html": "text/html", "xml": "application/xml", "csv": "text/csv", "srt": "application/x-subrip", "vtt": "text/vtt",
    "npy": "application/x-npy", "npz": "application/x-npz", "safetensors": "application/x-safetensors",
    "onnx": "application/onnx", "pt": "application/x-pytorch", "gguf": "application/x-gguf",
    "parquet": "application/vnd.apache.parquet",
    "zip": "application/zip", "gz": "application/gzip", "tar": "application/x-tar", "zst": "application/zstd",
    "bz2": "application/x-bzip2", "xz": "application/x-xz", "7z": "application/x-7z-compressed",
    "bin": "application/octet-stream",
}  # fmt: skip

_ALIASES: Final = {
    "image/jpg": "jpg", "image/tif": "tiff", "image/x-icon": "ico", "image/heif": "heic", "image/x-ms-bmp": "bmp",
    "audio/mp3": "mp3", "audio/x-wav": "wav", "audio/wave": "wav", "audio/x-flac": "flac", "audio/x-m4a": "m4a",
    "audio/x-aac": "aac", "audio/x-aiff": "aiff", "audio/x-midi": "mid", "video/avi": "avi", "text/xml": "xml",
    "text/json": "json", "application/x-ndjson": "jsonl", "application/x-json": "json", "application/csv": "csv",
    "application/x-gzip": "gz", "application/x-zip-compressed": "zip", "application/x-onnx": "onnx",
    "text/x-markdown": "md", "text/srt": "srt", "application/x-tgif": "obj", "application/sla": "stl",
}  # fmt: skip
_BY_MIME: Final = {mime: extension for extension, mime in TYPES.items()} | _ALIASES
_BY_OTHER_EXTENSION: Final = {"jpeg": "jpg", "tif": "tiff", "m4v": "mp4", "mpeg": "mpg", "aif": "aiff", "htm": "html"}

#: Kinds without a dependable signature: for these a claim is believed where the bytes say nothing else.
_CLAIMED_TEXT: Final = frozenset({"csv", "json", "jsonl", "md", "obj", "srt", "vtt"})
_CLAIMED_BINARY: Final = frozenset({"aac", "csv", "md", "mp3", "mpg", "onnx", "pt", "srt", "stl", "ts", "txt", "vtt"})
_SURE: Final = 0.4  #: puremagic counts a tenth for each byte that matched


@dataclass(frozen=True, slots=True)
class FileType:
    """One of TYPES."""

    extension: str
    mime: str


_KINDS: Final = {extension: FileType(extension, mime) for extension, mime in TYPES.items()}

#: Those in letters alone are given with what follows them, or they would claim texts: "ID3 is a decision tree".
_SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"), (b"GIF87a", "gif"), (b"GIF89a", "gif"),
    (b"II*\x00", "tiff"), (b"MM\x00*", "tiff"), (b"II+\x00", "tiff"), (b"\xff\x0a", "jxl"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"), (b"8BPS\x00", "psd"), (b"v/1\x01", "exr"), (b"#?RADIANCE\n", "hdr"),
    (b"#?RGBE\n", "hdr"), (b"ID3\x02", "mp3"), (b"ID3\x03", "mp3"),
    (b"ID3\x04", "mp3"), (b"fLaC\x00", "flac"), (b"fLaC\x80", "flac"), (b"#!AMR\n", "amr"), (b"#!AMR-", "amr"),
    (b"MThd\x00\x00\x00\x06", "mid"),
    (b"FLV\x01", "flv"), (b"\x00\x00\x01\xba", "mpg"), (b"\x00\x00\x01\xb3", "mpg"), (b"glTF\x01\x00\x00\x00", "glb"),
    (b"glTF\x02\x00\x00\x00", "glb"), (b"ply\n", "ply"), (b"ply\r\n", "ply"), (b"Kaydara FBX Binary", "fbx"),
    (b"%PDF-", "pdf"), (b"\x93NUMPY", "npy"), (b"GGUF\x00", "gguf"), (b"GGUF\x01", "gguf"), (b"GGUF\x02", "gguf"),
    (b"GGUF\x03", "gguf"), (b"PAR1\x15", "parquet"), (b"\x1f\x8b\x08", "gz"),
    (b"\x28\xb5\x2f\xfd", "zst"), (b"\xfd7zXZ\x00", "xz"), (b"7z\xbc\xaf\x27\x1c", "7z"), (b"PK\x05\x06", "zip"),
)  # fmt: skip
_BY_FIRST_BYTE: Final = {
    first: tuple((magic, kind) for magic, kind in _SIGNATURES if magic[0] == first)
    for first in {magic[0] for magic, _ in _SIGNATURES}
}
_ZIP_PARTS: Final = ((b"word/", "docx"), (b"xl/", "xlsx"), (b"ppt/", "pptx"), (b"3D/", "3mf"))
_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})
_BITMAP_HEADERS: Final = frozenset({12, 40, 52, 56, 64, 108, 124})


def sniff(head: bytes, *, complete: bool = False, content_type: str = "") -> FileType:
    """The kind of a file that begins with `head` (HEAD_BYTES are enough; `complete` says that this is all of it).

    Never raises; what nothing recognises is `bin`.
    """
    kind = _signed(head)
    if kind is None:
        claim = _BY_MIME.get(content_type.partition(";")[0].strip().lower(), "")
        kind = text_kind(head, complete=complete, claim=claim if claim in _CLAIMED_TEXT else "")
        if kind is None:
            kind = _unsigned(head) or _second_opinion(head) or (claim if claim in _CLAIMED_BINARY else "bin")
    return _KINDS[kind]


def _signed(head: bytes) -> str | None:
    """By signatures that nothing else begins with."""
    for magic, kind in _BY_FIRST_BYTE.get(head[0], ()) if head else ():
        if head.startswith(magic):
            return kind
    start, inner = head[:4], head[8:12]
    if start in (b"RIFF", b"RF64"):
        return {b"WAVE": "wav", b"AVI ": "avi", b"WEBP": "webp"}.get(inner)
    if start == b"FORM":
        return "aiff" if inner in (b"AIFF", b"AIFC") else None
    if head[:5] == b"OggS\x00":
        return "opus" if b"OpusHead" in head[:64] else "ogg"
    if start == b"\x1aE\xdf\xa3":
        return "webm" if b"webm" in head[:64] else "mkv"
    if start == b"PK\x03\x04":
        return _zip_kind(head)
    if start[:3] == b"BZh" and head[4:10] == b"1AY&SY":
        return "bz2"
    if start[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "bmp"
    # Behind the size of the box: four letters would be 500 MB and more, "The wide valley" among them.
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and head[0] < 0x09:
        return _mp4_kind(head)
    return "tar" if head[257:262] == b"ustar" else None


def _unsigned(head: bytes) -> str | None:
    """By structure, for binaries whose first bytes alone would say too little."""
    first, second = (*head[:2], 0, 0)[:2]
    if first == 0xFF and second & 0xF6 == 0xF0:  # ADTS: twelve sync bits, layer 0
        return "aac"
    if first == 0xFF and second & 0xE0 == 0xE0 and second & 0x06 in (0x02, 0x04) and second & 0x18 != 0x08:
        return "mp3"  # MPEG 1, 2 or 2.5, layer III or II
    if head[:4] == b"\x00\x00\x01\x00" and 0 < int.from_bytes(head[4:6], "little") < 256:
        return "ico"
    if first == 0x47 and len(head) > 376 and head[188] == head[376] == 0x47:
        return "ts"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000:
        return "safetensors"
    if re.match(rb"\x08[\x01-\x20]\x12[\x01-\x40][\x20-\x7e]{2}", head):  # ir_version, then the producer's name
        return "onnx"
    return None


def _mp4_kind(head: bytes) -> str:
    if head[4:8] != b"ftyp":
        return "mov"
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[8:12], *(head[place : place + 4] for place in range(16, end, 4))}
    major = head[8:12]
    if brands & {b"avif", b"avis"}:
        return "avif"
    if major in _HEIF_BRANDS:
        return "heic"
    if major in (b"M4A ", b"M4B "):
        return "m4a"
    if major == b"qt  ":
        return "mov"
    return "3gp" if major[:2] == b"3g" else "mp4"


def _zip_kind(head: bytes) -> str:
    """By the name of the first member, which formats built on zip prescribe."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if name in (b"[Content_Types].xml", b"_rels/.rels"):
        return next((kind for part, kind in _ZIP_PARTS if part in head), "zip")
    if name == b"mimetype":
        return "epub" if b"application/epub+zip" in head[:128] else "zip"
    if name.endswith(b".npy"):
        return "npz"
    if name.endswith(b"data.pkl"):
        return "pt"
    return "usdz" if name.endswith((b".usd", b".usda", b".usdc")) else "zip"


def _second_opinion(head: bytes) -> str | None:
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return None
    if not found or found[0].confidence < _SURE:
        return None
    extension = found[0].extension.lstrip(".").lower()
    extension = _BY_OTHER_EXTENSION.get(extension, extension)
    return extension if extension in TYPES else None
