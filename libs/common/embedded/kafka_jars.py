"""Apache Kafka's own jars, fetched once by Maven into the user's cache."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from libs.common.embedded.child import ChildFailed, Command, run_to_end

FILES = files("libs.common.embedded") / "kafka_files"
OLDEST_JAVA = 17
_FETCH_SECONDS = 600.0


def kafka_version() -> str:
    """The version of Apache Kafka that our pom.xml names."""
    found = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)</version>", _pom())
    if found is None:
        raise ChildFailed("kafka_files/pom.xml names no version of kafka_2.13")
    return found[1]


def java_version() -> int | None:
    """The major version of the `java` on PATH; None without one."""
    java = shutil.which("java")
    if java is None:
        return None
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r'version "(\d+)', said.stderr + said.stdout)
    return int(found[1]) if found else None


def can_fetch() -> bool:
    """Whether Maven and a JDK that is new enough are there."""
    return shutil.which("mvn") is not None and (java_version() or 0) >= OLDEST_JAVA


async def jars() -> Path:
    """The folder with the jars; fetched first when it is not there. Safe when several runs do it at once.

    Raises ChildFailed, naming Maven's log, when they cannot be fetched.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluiceway"
    fingerprint = hashlib.sha256(_pom().encode()).hexdigest()[:8]
    folder = cache / f"kafka-{kafka_version()}-{fingerprint}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    async with _only_one(cache / "kafka.lock"):
        if not folder.is_dir():
            await _fetch(folder)
    return folder


async def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ChildFailed("Apache Kafka needs Maven (mvn) and a JDK of 17 or newer on PATH")
    unfinished = Path(tempfile.mkdtemp(prefix="kafka-", dir=folder.parent))
    try:
        (unfinished / "pom.xml").write_text(_pom())
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs"]
        log = folder.parent / "kafka-maven.log"
        await run_to_end(Command([maven, "-q", "-B", *goal], log, folder=unfinished), seconds=_FETCH_SECONDS)
        (unfinished / "libs").rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@asynccontextmanager
async def _only_one(lock: Path) -> AsyncIterator[None]:
    # The kernel drops the lock with its holder, however that one ends.
    deadline = time.monotonic() + _FETCH_SECONDS
    with lock.open("w") as opened:
        while True:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ChildFailed(f"another process has been holding {lock} for too long") from None
                await asyncio.sleep(0.2)
        yield


def _pom() -> str:
    return (FILES / "pom.xml").read_text()
