"""A target that an import can be tried on: it reads our tables and writes nothing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

from libs.common.domain.legacy import Home, TakenTask
from libs.common.domain.settle import RetryPolicy
from libs.common.ports_import import (
    QUOTED,
    TASKS,
    LegacyCount,
    LegacyTarget,
    Note,
    NoteBook,
    Slice,
    TakenLine,
    TakenModel,
    Written,
)


class DryRun:
    """Implements ports_import.LegacyTarget over the real one, of which it calls only what reads."""

    def __init__(self, target: LegacyTarget) -> None:
        self._target = target
        self._homes: dict[tuple[int, str], Home] = {}
        self._counts: Counter[str] = Counter()
        self._first: list[Note] = []
        self._bare = 0
        self._lanes = itertools.count(-1, -1)

    async def begin(self, source: str, largest: Mapping[str, int]) -> None:
        self._homes = await self._target.homes(source)

    async def mark(self, source: str, table: str) -> int:
        return await self._target.mark(source, table)

    async def copied(self, source: str) -> dict[str, int]:
        return await self._target.copied(source)

    async def homes(self, source: str) -> dict[tuple[int, str], Home]:
        return dict(self._homes)

    async def add_models(self, part: Slice, models: Sequence[TakenModel]) -> Written:
        self._note(part.notes)
        new = [model for model in models if (model.tenant_id, model.name) not in self._homes]
        for model in new:
            retry = RetryPolicy(model.stored["retry_times"], model.stored["retry_queue_max_seconds"], 0)
            clean = model.stored["auto_clean_seconds"]
            self._homes[model.tenant_id, model.name] = Home(model.id, next(self._lanes), retry, clean, 0)
        return Written(sum(not model.stand_in for model in new))

    async def add_lines(self, part: Slice, lines: Sequence[TakenLine]) -> Written:
        self._note(part.notes)
        return Written(len(lines))

    async def add_tasks(self, part: Slice, tasks: Sequence[TakenTask]) -> Written:
        there = await self._target.in_use(tasks)
        self._bare += sum(task.state is not None and task.sealed is None for task in tasks)
        self._note([*part.notes, *(Note(TASKS, id_, "same_task_id", "its task id is in use here") for id_ in there)])
        return Written(len(tasks) - len(there))

    async def in_use(self, tasks: Sequence[TakenTask]) -> list[int]:
        return await self._target.in_use(tasks)

    async def add_counts(self, source: str, counts: Sequence[LegacyCount], notes: Sequence[Note]) -> int:
        self._note(notes)
        return await self._target.new_counts(source, counts)

    async def new_counts(self, source: str, counts: Sequence[LegacyCount]) -> int:
        return await self._target.new_counts(source, counts)

    async def open_without_credential(self) -> int:
        return self._bare + await self._target.open_without_credential()

    async def notes(self, source: str) -> NoteBook:
        before = await self._target.notes(source)
        return NoteBook(self._counts + Counter(before.counts), [*before.first, *self._first][:QUOTED])

    def _note(self, notes: Sequence[Note]) -> None:
        self._counts.update(note.code for note in notes)
        self._first += notes[: QUOTED - len(self._first)]
