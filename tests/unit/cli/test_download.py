"""`sluiceway task download` at something that is no API of ours, or at rows that somebody else wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from libs.client import AsyncClient

NO_PROXY = "http://127.0.0.1:9"  #: nobody listens there


@contextmanager
def answering(result: Any) -> Iterator[str]:
    """A server whose every task is a success with this result."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = "audio/mpeg", b"sound"
            if "/result/" not in self.path:
                task = {"id": "t", "model": "m", "status": "success", "code": 6, "result": result}
                kind, body = "application/json", json.dumps(task).encode()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def download(url: str, to: Path, **shell: str) -> tuple[int, str]:
    """Exit code, and what it complains of."""
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", "task", "download", "t", "--to", f"{to}/", "--url", url],
        env={**os.environ, "SLUICEWAY_API_KEY": "k", **shell}, capture_output=True, timeout=60, check=False, text=True,
    )  # fmt: skip
    return ended.returncode, ended.stderr


def test_no_proxy_leads_to_this_machine(tmp_path: Path) -> None:
    with answering({"files": [{"index": 0, "type": "mp3"}]}) as url:
        assert download(url, tmp_path, HTTP_PROXY=NO_PROXY, ALL_PROXY=NO_PROXY) == (0, "")


async def test_nor_for_who_waits_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", NO_PROXY)
    with answering({}) as url:
        async with AsyncClient(url, "k") as client:
            assert (await client.get("t")).status == "success"


def test_a_proxy_that_cannot_be_spoken_to_is_told(tmp_path: Path) -> None:
    code, complaint = download("http://127.0.0.1:1", tmp_path, ALL_PROXY="socks5://127.0.0.1:9")
    assert (code, complaint.count("\n"), "SOCKS proxy" in complaint) == (2, 1, True), complaint


@pytest.mark.parametrize(
    "files",
    [
        "png", 7, {"index": 0}, ["png"], [None], [{}], [{"type": "png"}], [{"index": "0"}], [{"index": -1}],
        [{"index": True}], [{"index": 0}, {"index": 0}], [[0]], [{"index": 1.5}],
    ],
)  # fmt: skip
def test_a_list_of_files_that_is_none_is_told(files: Any, tmp_path: Path) -> None:
    with answering({"files": files}) as url:
        code, complaint = download(url, tmp_path)
    assert (code, complaint.count("\n"), "its list of files is none" in complaint) == (3, 1, True), complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("result", [{}, {"files": None}, {"files": []}, None])
def test_no_files_are_no_failure_of_the_api(result: Any, tmp_path: Path) -> None:
    with answering(result) as url:
        code, complaint = download(url, tmp_path)
    assert (code, "has 0 files" in complaint) == (1, True)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("mp3", "t-0.mp3"), ("audio/mpeg", "t-0.audio_mpeg"), ("/../../../escape", "t-0._.._.._.._escape"),
        (None, "t-0.bin"), (5, "t-0.5"), ("a\x1b[2J\n", "t-0.a__2J_"), ("y" * 500, f"t-0.{'y' * 64}"),
    ],
)  # fmt: skip
def test_a_file_lies_in_its_folder_whatever_its_type_says(kind: Any, named: str, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    with answering({"files": [{"index": 0, "type": kind}]}) as url:
        code, complaint = download(url, folder)
    assert (code, complaint) == (0, "")
    assert [path.relative_to(folder) for path in tmp_path.rglob("*") if path.is_file()] == [Path(named)]
