"""What kind of file an output is, told from its bytes."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import wave
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.file_type import HEAD_BYTES, TYPES, sniff


def _zip(*names: str, content: bytes = b"x", stored: bool = True) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return made.getvalue()


def _tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return made.getvalue()


def _wave() -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(100))
    return made.getvalue()


def _safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def _mp4(brand: bytes, *compatible: bytes) -> bytes:
    return (16 + 4 * len(compatible)).to_bytes(4, "big") + b"ftyp" + brand + bytes(4) + b"".join(compatible) + bytes(32)


_SAMPLES: list[tuple[str, bytes]] = [
    ("png", b"\x89PNG\r\n\x1a\n" + bytes(20)),
    ("png", b"\x89PNG\r\n\x1a\n" + b"<html><script>alert(1)</script>"),
    ("jpg", b"\xff\xd8\xff\xe0\x00\x10JFIF"),
    ("gif", b"GIF89a" + bytes(10)),
    ("webp", b"RIFF\x00\x00\x00\x00WEBPVP8 "),
    ("bmp", b"BM" + struct.pack("<IHHII", 100, 0, 0, 54, 40) + bytes(40)),
    ("tiff", b"II*\x00" + bytes(10)),
    ("ico", b"\x00\x00\x01\x00\x01\x00\x10\x10"),
    ("avif", _mp4(b"avif", b"mif1")),
    ("avif", _mp4(b"mif1", b"avif")),
    ("heic", _mp4(b"heic", b"mif1")),
    ("jxl", b"\xff\x0a\xfa\x1f"),
    ("psd", b"8BPS\x00\x01"),
    ("exr", b"v/1\x01\x02\x00\x00\x00"),
    ("hdr", b"#?RADIANCE\n"),
    ("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    ("svg", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a --> <!-- b -->\n<!DOCTYPE svg PUBLIC "x" "y">\n<svg>'),
    ("svg", b"<svg:svg xmlns:svg='x'/>"),
    ("mp3", b"ID3\x04\x00" + bytes(20)),
    ("mp3", b"\xff\xfb\x90\x64" + bytes(400)),
    ("mp3", b"\xff\xf3\x40\xc4" + bytes(400)),
    ("wav", _wave()),
    ("flac", b"fLaC\x00\x00\x00\x22"),
    ("ogg", b"OggS" + bytes(24) + b"\x01vorbis"),
    ("opus", b"OggS" + bytes(24) + b"OpusHead"),
    ("m4a", _mp4(b"M4A ", b"isom")),
    ("aac", b"\xff\xf1\x50\x80\x02\x1f\xfc" + bytes(40)),
    ("aiff", b"FORM\x00\x00\x00\x00AIFF"),
    ("amr", b"#!AMR\n<"),
    ("mid", b"MThd\x00\x00\x00\x06\x00\x01"),
    ("mp4", _mp4(b"isom", b"mp41")),
    ("mp4", _mp4(b"mp42")),
    ("mov", _mp4(b"qt  ")),
    ("mov", b"\x00\x00\x00\x08wide\x00\x00\x00\x00mdat"),
    ("3gp", _mp4(b"3gp5")),
    ("webm", b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm"),
    ("mkv", b"\x1aE\xdf\xa3\x93B\x82\x88matroska"),
    ("avi", b"RIFF\x00\x00\x00\x00AVI LIST"),
    ("flv", b"FLV\x01\x05"),
    ("ts", (b"\x47\x40" + bytes(186)) * 3),
    ("mpg", b"\x00\x00\x01\xba\x44"),
    ("glb", b"glTF\x02\x00\x00\x00"),
    ("gltf", b'{"asset":{"version":"2.0"},"scenes":[]}'),
    ("obj", b"# made by\nmtllib a.mtl\no Cube\nv 1.0 -1 2e-3\nv 0 0 0\nf 1 2 3\n"),
    ("ply", b"ply\nformat ascii 1.0\n"),
    ("stl", b"solid cube\n  facet normal 0 0 1\n"),
    ("usdz", _zip("scene.usdc")),
    ("3mf", _zip("[Content_Types].xml", "_rels/.rels", "3D/3dmodel.model")),
    ("fbx", b"Kaydara FBX Binary  \x00\x1a\x00"),
    ("pdf", b"%PDF-1.7\n%\xe2\xe3"),
    ("epub", _zip("mimetype", content=b"application/epub+zip")),
    ("docx", _zip("[Content_Types].xml", "word/document.xml")),
    ("xlsx", _zip("[Content_Types].xml", "xl/workbook.xml")),
    ("pptx", _zip("_rels/.rels", "ppt/presentation.xml")),
    ("json", b'{"text": "hi"}'),
    ("json", b' \n[1, 2, {"a": null}]'),
    ("json", b"{}"),
    ("jsonl", b'{"a":1}\n{"a":2}\n'),
    ("txt", b"Hello, world.\nThis is text, nothing else, really.\n"),
    ("txt", b"[see below] and more"),
    ("txt", b"1 < 2 and <3"),
    ("txt", b"<3 you"),
    ("txt", "Grüße, 世界".encode()),
    ("txt", "text".encode("utf-16")),
    ("html", b"<!DOCTYPE html><title>x</title>"),
    ("html", b"  <HTML lang=en>"),
    ("html", b"<!-- c --><script>alert(1)</script>"),
    ("html", b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML"><html>'),
    ("xml", b'<?xml version="1.0"?><rss version="2.0">'),
    ("xml", b"<answer><a/></answer>"),
    ("csv", b"id,name\n1,a\n2,b\n"),
    ("srt", b"1\r\n00:00:01,000 --> 00:00:02,000\r\nhi\r\n"),
    ("vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nhi\n"),
    ("npy", b"\x93NUMPY\x01\x00v\x00"),
    ("npz", _zip("arr_0.npy")),
    ("safetensors", _safetensors()),
    ("onnx", b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:"),
    ("pt", _zip("archive/data.pkl", "archive/data/0")),
    ("gguf", b"GGUF\x03\x00\x00\x00"),
    ("parquet", b"PAR1\x15\x04"),
    ("zip", _zip("a.glb", content=bytes(10_000), stored=False)),
    ("zip", b"PK\x05\x06" + bytes(18)),
    ("gz", b"\x1f\x8b\x08\x00"),
    ("tar", _tar()),
    ("zst", b"\x28\xb5\x2f\xfd\x24"),
    ("bz2", b"BZh91AY&SY\x00"),
    ("xz", b"\xfd7zXZ\x00\x00"),
    ("7z", b"7z\xbc\xaf\x27\x1c\x00\x04"),
    ("bin", b"\x00\x01\x02\x03" * 20),
    ("bin", b""),
]


@pytest.mark.parametrize(
    ("extension", "content"), _SAMPLES, ids=[f"{kind}-{n}" for n, (kind, _) in enumerate(_SAMPLES)]
)
def test_bytes_decide(extension: str, content: bytes) -> None:
    kind = sniff(content[:HEAD_BYTES], complete=len(content) <= HEAD_BYTES)
    assert (kind.extension, kind.mime) == (extension, TYPES[extension])
    claimed = sniff(content[:HEAD_BYTES], complete=True, content_type="image/png; charset=x")
    assert claimed.extension == extension


def test_every_kind_has_a_sample() -> None:
    assert {extension for extension, _ in _SAMPLES} | {"md"} == TYPES.keys()


@pytest.mark.parametrize(
    ("content", "claim", "extension"),
    [
        (b"# Title\n\ntext", "text/markdown", "md"),
        (b"a;b\n1;2\n", "text/csv; charset=utf-8", "csv"),
        (b'"just a string"', "application/json", "json"),
        (b"not json", "application/json", "txt"),
        (b"plain", "text/html", "txt"),
        (b"plain", "image/svg+xml", "txt"),
        (b"Gr\xfc\xdfe aus Latin-1", "text/plain", "txt"),
        (b"\x00\x01\x02" * 40, "application/onnx", "onnx"),
        (b"\x00\x01\x02" * 40, "model/stl", "stl"),
        (b"\x00\x01\x02" * 40, "text/html", "bin"),
        (b"\x00\x01\x02" * 40, "image/png", "bin"),
        (b"\x00\x01\x02" * 40, "application/x-made-up", "bin"),
        (b"\x00\x01\x02" * 40, "../../etc/passwd", "bin"),
    ],
)
def test_a_claim_settles_only_between_kinds_that_look_alike(content: bytes, claim: str, extension: str) -> None:
    assert sniff(content, complete=True, content_type=claim).extension == extension


@pytest.mark.parametrize(
    "text",
    [
        *("ID3 is a decision tree.", "GGUF is a file format.", "PAR1 begins it.", "OggS begins it.", "fLaC begins it."),
        *("The wide valley lies before us.", "\nSo wide is it.", "#!AMR begins it."),
    ],
)
def test_a_text_about_a_kind_is_not_of_that_kind(text: str) -> None:
    assert sniff(text.encode(), complete=True, content_type="text/plain").extension == "txt"


@pytest.mark.parametrize(
    ("line", "claim", "extension"),
    [
        (b'{"a":1}\n', "", "jsonl"),
        (b"[1,2]\r\n", "application/json", "jsonl"),
        (b'{"a":"' + b"x" * 5_000 + b'"}\n', "application/x-ndjson", "jsonl"),
        (b'{"a":"' + b"x" * 5_000 + b'"}\n', "application/json", "json"),
        (b'{\n"a":1,\n', "application/x-ndjson", "json"),
    ],
)
def test_many_lines_of_json_are_told_by_the_first(line: bytes, claim: str, extension: str) -> None:
    assert sniff((line * 1_000)[:HEAD_BYTES], complete=False, content_type=claim).extension == extension


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_cut_at_the_end_of_the_head_is_still_text(cut: int) -> None:
    text = ("x" * (HEAD_BYTES - 4) + "\U0001f600")[: HEAD_BYTES - 3].encode()
    assert sniff(text[: HEAD_BYTES - 4 + cut], complete=False).extension == "txt"
    assert sniff(text[: HEAD_BYTES - 4 + cut], complete=True).extension == "bin"


def test_comments_without_end_do_not_hold_it_up() -> None:
    assert sniff(b"<!--x-->" * 500, complete=False).extension == "txt"
    assert sniff(b"<?" * 2_000, complete=False).extension in TYPES


@given(st.binary(max_size=600), st.booleans(), st.text(max_size=30))
def test_any_bytes_give_one_of_the_kinds(content: bytes, complete: bool, claim: str) -> None:
    kind = sniff(content, complete=complete, content_type=claim)
    assert TYPES[kind.extension] == kind.mime


@given(st.sampled_from(_SAMPLES), st.integers(0, 60), st.binary(max_size=40))
def test_broken_samples_give_one_of_the_kinds(sample: tuple[str, bytes], place: int, noise: bytes) -> None:
    content = sample[1][:place] + noise + sample[1][place + len(noise) :]
    assert sniff(content[:HEAD_BYTES]).extension in TYPES


@given(st.text(alphabet=st.sampled_from(list("<>!-?/ =\"'[]{}svghtmlxdocype,\n1")), max_size=200))
def test_anything_like_markup_gives_a_kind(text: str) -> None:
    assert sniff(text.encode(), complete=True).extension in TYPES
