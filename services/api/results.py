"""How results are downloaded: by the tenant that owns the task, from wherever they are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from libs.common.domain.errors import Conflict, NotFound
from libs.common.domain.task import TaskStatus
from libs.common.ports_results import ResultContent, ResultReader, WantedPart
from libs.common.ports_tasks import KeyOwner, TaskView
from services.api.reading import Reading

_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Download:
    """One file of a result: its content, or where else it can be had."""

    name: str  #: fit for a header and for any file system
    content: ResultContent | None = None
    location: str = ""
    tag: str = ""  #: of its content, as an ETag; empty where nobody knows it


class Results:
    """Finds files of results. `reader` is None where a service of others keeps them all."""

    def __init__(self, reading: Reading, reader: ResultReader | None) -> None:
        self._reading = reading
        self._reader = reader

    async def open(
        self, caller: KeyOwner, public_id: UUID, index: int, *, fetched: bool, part: WantedPart | None = None
    ) -> Download:
        """A file of a task's result, or a part of it; `fetched` says that the tenant has it now, so the task is marked.

        Raises NotFound (task_unknown, no_result, file_unknown, result_gone), Conflict (result_pending) and
        StorageUnavailable.
        """
        task = await self._reading.peek(caller, public_id)
        file = _file(task, index)
        download = await self._download(caller, file, f"{task.public_id}-{index}", part)
        if fetched and task.fetched_at is None:
            await self._reading.mark_fetched(caller, [task.public_id])
        return download

    async def _download(
        self, caller: KeyOwner, file: dict[str, Any], otherwise: str, part: WantedPart | None
    ) -> Download:
        url = file.get("url") or ""
        name = _UNFIT.sub("_", file.get("name") or "").strip("._") or otherwise
        if self._reader is not None and self._reader.holds(caller.tenant_id, url):
            tag = f'"{file["sha256"]}"' if file.get("sha256") else ""
            if part is not None and part.known not in (None, tag):
                part = None
            content = await self._reader.open(url, part)
            if content is not None:
                return Download(name, content, tag=tag)
        elif url.startswith(("http://", "https://")):
            return Download(name, location=url)
        raise NotFound(
            "result_gone", "the file is not where it was stored: it was deleted, or the store is another one"
        )


def _file(task: TaskView, index: int) -> dict[str, Any]:
    if task.status is not TaskStatus.SUCCESS:
        if task.open:
            raise Conflict("result_pending", f"the task has not ended yet, it is {task.status.word}")
        raise NotFound("no_result", f"the task ended as {task.status.word}, without a result")
    if index >= len(task.files):
        raise NotFound("file_unknown", f"the result has {len(task.files)} files, the first has number 0")
    file: dict[str, Any] = dict(task.files[index])
    return file
