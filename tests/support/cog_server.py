"""A real Cog server with a small model, from its wheel and without a container."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libs.common.embedded.ports import free_port

_START_SECONDS = 30

RUN = """
import time
from pathlib import Path as Folder

from cog import BaseRunner, Input, Path


class Runner(BaseRunner):
    def setup(self) -> None:
        self.runs = Folder("runs.txt")

    def run(
        self,
        text: str = Input(default="hi"),
        seconds: float = Input(default=0.0),
        kind: str = Input(default="file"),
    ) -> Path:
        with self.runs.open("a") as log:
            log.write(text + "\\n")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            print(" 50%|#####     | 5/10 [00:01<00:01]", flush=True)
            time.sleep(0.1)
        if kind == "fail":
            raise ValueError("no luck with " + text)
        if kind == "words":
            return text.upper()
        picture = Folder("out.png")
        picture.write_bytes(b"\\x89PNG\\r\\n\\x1a\\n" + text.encode())
        return Path(picture)
"""


class CogServer:
    """Where it is, and what its model ran."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._runs = folder / "runs.txt"

    def runs(self) -> list[str]:
        """The `text` of every prediction that was begun, in order."""
        return self._runs.read_text().splitlines() if self._runs.exists() else []

    def status(self) -> str:
        """READY, BUSY and so on."""
        with urllib.request.urlopen(f"{self.url}/health-check", timeout=5) as answer:
            return str(json.load(answer)["status"])


@contextmanager
def cog_server(folder: Path) -> Iterator[CogServer]:
    """The server, ready. Skips the test, loudly, where Cog is not installed."""
    if importlib.util.find_spec("cog") is None or importlib.util.find_spec("coglet") is None:
        pytest.skip("NOT TESTED AGAINST A REAL THIRD-PARTY SERVER: the package cog is not installed (make env)")
    (folder / "run.py").write_text(RUN)
    (folder / "cog.yaml").write_text('build:\n  python_version: "3.11"\nrun: run.py:Runner\n')
    port = free_port()
    environment = {
        **os.environ,
        "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": "run.py:Runner",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # its worker is `python`
    }
    with (folder / "cog.log").open("wb") as log:
        arguments = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
        process = subprocess.Popen(
            arguments, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    server = CogServer(f"http://127.0.0.1:{port}", folder)
    try:
        _wait(server, process, folder)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: CogServer, process: subprocess.Popen[bytes], folder: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            if server.status() == "READY":
                return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"Cog does not get ready:\n{(folder / 'cog.log').read_text()[-2_000:]}")
        time.sleep(0.05)
