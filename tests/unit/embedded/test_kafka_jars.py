"""Fetching Apache Kafka's jars, with a stand-in for Maven."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from libs.common.embedded import kafka_jars
from libs.common.embedded.child import ChildFailed

SLOW_MAVEN = """#!/bin/sh
echo fetched >> "{notes}"
sleep 0.3
mkdir libs && touch libs/kafka.jar
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "mvn").write_text(SLOW_MAVEN.format(notes=tmp_path / "notes"))
    (programs / "mvn").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    return tmp_path / "notes"


async def test_two_runs_at_once_fetch_once(notes: Path) -> None:
    first, second = await asyncio.gather(kafka_jars.jars(), kafka_jars.jars())
    assert first == second
    assert [file.name for file in first.iterdir()] == ["kafka.jar"]
    assert notes.read_text() == "fetched\n"
    assert await kafka_jars.jars() == first
    assert notes.read_text() == "fetched\n"


async def test_a_failed_fetch_leaves_nothing_and_names_the_log(notes: Path, tmp_path: Path) -> None:
    (tmp_path / "bin" / "mvn").write_text("#!/bin/sh\necho no network; exit 1\n")
    with pytest.raises(ChildFailed, match=r"code 1; log: .*kafka-maven\.log"):
        await kafka_jars.jars()
    left = {file.name for file in (tmp_path / "cache" / "sluiceway").iterdir()}
    assert left == {"kafka.lock", "kafka-maven.log"}


def test_the_version_is_the_one_in_our_pom() -> None:
    assert kafka_jars.kafka_version() == "4.3.1"
