"""What was announced and what had to be, compared on disk: a topic may hold more than memory does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple
from uuid import UUID

_TABLES: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8000; PRAGMA temp_store = FILE;
CREATE TABLE ended (task BLOB PRIMARY KEY, version INT, facts BLOB, finished_ms INT, waiting INT) WITHOUT ROWID;
CREATE TABLE said (task BLOB, version INT, facts BLOB, content BLOB, tenant TEXT, creator TEXT, place TEXT,
                   PRIMARY KEY (task, version)) WITHOUT ROWID;
"""
_PAGE: Final = 1_000


class End(NamedTuple):
    """A task's end as its row says it; `facts` is a digest of what its event must say."""

    task: UUID
    version: int
    facts: bytes
    finished_ms: int
    waiting: bool


class Said(NamedTuple):
    """An event as the topic holds it; `content` is a digest of everything in it."""

    task: UUID
    version: int
    facts: bytes
    content: bytes
    tenant: int
    creator: str
    place: str


class Ledger:
    """Two tables and their differences."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.executescript(_TABLES)

    def expect(self, ends: Iterable[End]) -> None:
        """These were written before the topic was read."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO ended VALUES (?, ?, ?, ?, ?)",
            [(end.task.bytes, end.version, end.facts, end.finished_ms, end.waiting) for end in ends],
        )

    def note(self, events: Iterable[Said]) -> list[tuple[Said, str]]:
        """Take events in; returns those that were said before with another content, and where."""
        contradictions = []
        for event in events:
            row = self._connection.execute(
                "SELECT content, place FROM said WHERE task = ? AND version = ?", (event.task.bytes, event.version)
            ).fetchone()
            if row is None:
                values = (event.task.bytes, event.version, event.facts, event.content, str(event.tenant))
                self._connection.execute(
                    "INSERT INTO said VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, event.creator, event.place)
                )
            elif row[0] != event.content:
                contradictions.append((event, row[1]))
        return contradictions

    def wrong(self) -> Iterator[Said]:
        """Events that say another thing about an end than its row does."""
        return self._events("JOIN ended e ON e.task = s.task AND e.version = s.version WHERE e.facts <> s.facts")

    def unknown(self) -> Iterator[list[Said]]:
        """Events of ends that were not among the expected ones, in pages, those of a task one after the other."""
        page: list[Said] = []
        for event in self._events(
            "LEFT JOIN ended e ON e.task = s.task AND e.version = s.version WHERE e.task IS NULL"
            " ORDER BY s.task, s.version"
        ):
            page.append(event)
            if len(page) == _PAGE:
                yield page
                page = []
        if page:
            yield page

    def unsaid(self, since_ms: int) -> Iterator[tuple[UUID, int]]:
        """(task, version) of ends since an instant that no event says, and none waits to say."""
        rows = self._connection.execute(
            "SELECT e.task, e.version FROM ended e LEFT JOIN said s ON s.task = e.task AND s.version = e.version"
            " WHERE s.task IS NULL AND NOT e.waiting AND e.finished_ms >= ?",
            (since_ms,),
        )
        for task, version in rows:
            yield UUID(bytes=task), version

    def _events(self, condition: str) -> Iterator[Said]:
        rows = self._connection.execute(
            "SELECT s.task, s.version, s.facts, s.content, s.tenant, s.creator, s.place FROM said s " + condition
        )
        for task, version, facts, content, tenant, creator, place in rows:
            yield Said(UUID(bytes=task), version, facts, content, int(tenant), creator, place)


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """A ledger in a file without a name, gone afterwards."""
    connection = sqlite3.connect("", isolation_level=None)
    try:
        yield Ledger(connection)
    finally:
        connection.close()
