"""How commands reach the REST face: from any machine, with an API key."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.output import note

if TYPE_CHECKING:
    from libs.client import AsyncClient, Client

#: A person waits: an API that hangs is told within half a minute.
_SECONDS = 10.0
_TRIES = 3

UrlOption = Annotated[
    str, typer.Option("--url", envvar="SLUICEWAY_URL", help="Address of the API; else that of the stack running here.")
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--key-file", help="File that holds the API key; else SLUICEWAY_API_KEY, or the file in _FILE."),
]


@contextmanager
def connect(url: str, key_file: Path | None) -> Iterator[Client]:
    """A client of the API. Ends the command with exit code 2 when address or key are missing, or are none."""
    from libs.client import Client

    with _usable():
        opened = Client(url or _running_here(), _key(key_file), timeout=_SECONDS, tries=_TRIES)
    with opened as client:
        yield client


@asynccontextmanager
async def connect_async(url: str, key_file: Path | None) -> AsyncIterator[AsyncClient]:
    """The same for commands that ask for several things at once."""
    from libs.client import AsyncClient

    with _usable():
        opened = AsyncClient(url, _key(key_file), timeout=_SECONDS, tries=_TRIES)
    async with opened as client:
        yield client


@contextmanager
def _usable() -> Iterator[None]:
    try:
        yield
    except (ValueError, ImportError) as error:  # the latter of a SOCKS proxy in the environment
        note(str(error))
        raise typer.Exit(2) from None


def _running_here() -> str:
    from libs.common.embedded import running
    from libs.common.embedded.data_folder import chosen_folder

    folder = chosen_folder(None).path
    report = running.current_report(folder) if folder.is_dir() else None
    if report is None or report["pid"] is None:
        note("which API? Set SLUICEWAY_URL or say --url; no stack runs here: `sluiceway up` starts one.")
        raise typer.Exit(2)
    return str(report["api"])


def _key(key_file: Path | None) -> str:
    named = key_file or (Path(name) if (name := os.environ.get("SLUICEWAY_API_KEY_FILE")) else None)
    try:
        key = named.read_text() if named else os.environ.get("SLUICEWAY_API_KEY", "")
    except (OSError, UnicodeDecodeError) as error:
        note(f"the API key cannot be read from {named}: {getattr(error, 'strerror', 'it is no text')}")
        raise typer.Exit(2) from None
    if not key.strip():
        note("which API key? Set SLUICEWAY_API_KEY or say --key-file; `sluiceway keys create --tenant N` makes one.")
        raise typer.Exit(2)
    return key.strip()
