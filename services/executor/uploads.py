"""From staging to where results are kept: tried in line for a while, then parked.

The call is over; nothing here calls the model. An upload that lasts longer than a second is shown as such and gives its
permit back: a slow store must not keep the model idle.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import orjson

from libs.common.domain.model_errors import StagedLost, UploadFailed
from libs.common.domain.outcome import ResultFile, UploadPending
from libs.common.domain.output import ResultName, StagedFile
from libs.common.domain.task import Phase
from libs.common.domain.texts import storable
from libs.common.ports_attempts import Attempt
from libs.common.ports_execution import ResultStore, Staging, UploadCredentials
from libs.common.ports_secrets import KeyMissing
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.metrics import histogram
from libs.common.runtime.redaction import redact_text
from libs.common.runtime.together import all_or_none
from services.executor.calls import Opener
from services.executor.execution import HandedOver
from services.executor.recorder import Recorder
from services.executor.runs import Run

log = get_logger()

IN_LINE_SECONDS: Final = 30.0
SHOWN_AFTER_SECONDS: Final = 1.0
#: Files of one output that are uploaded at once.
_AT_ONCE: Final = 4
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 8.0


class _NotTaken(Exception):
    """Storage does not take one of several files."""

    def __init__(self, pending: UploadPending) -> None:
        super().__init__(pending.code)
        self.pending = pending


class ResultUploads:
    """Uploads staged outputs."""

    def __init__(
        self,
        store: ResultStore,
        staging: Staging,
        recorder: Recorder,
        *,
        reader_of: Callable[[str], int | None],
        permit_back: Callable[[Run], None],
        open_sealed: Opener,
        in_line_seconds: float = IN_LINE_SECONDS,
    ) -> None:
        self._store = store
        self._staging = staging
        self._recorder = recorder
        self._reader_of = reader_of  #: another executor that lives and reads a staging store
        self._permit_back = permit_back
        self._open_sealed = open_sealed
        self._in_line_seconds = in_line_seconds
        self._rng = random.Random()  # noqa: S311  spreads retries
        self._seconds = histogram("sluiceway_upload_seconds")

    async def upload(self, run: Run, staged: Sequence[StagedFile]) -> tuple[ResultFile, ...] | UploadPending:
        """Upload all files of an output, in line for a while. Raises StagedLost or HandedOver."""
        for file in staged:
            if not self._staging.holds(file.reference):
                await self._hand_over(run, file)
        name = ResultName(run.attempt.tenant_id, run.attempt.created_at, run.attempt.public_id, run.attempt.number)
        try:
            credentials = self._credentials(run.attempt)
        except KeyMissing as error:
            return UploadPending("secret_key_missing", str(error))
        shown = asyncio.get_running_loop().call_later(SHOWN_AFTER_SECONDS, self._show, run)
        try:
            if len(staged) > 1:
                return await self._upload_several(name, staged, credentials)
            stored = await self._try(name, staged[0], credentials)
            return stored if isinstance(stored, UploadPending) else (stored,)
        finally:
            shown.cancel()

    async def discard(self, staged: Sequence[StagedFile]) -> None:
        """The staged output is needed no more; what cannot be deleted now is the janitor's."""
        for file in staged:
            try:
                await self._staging.remove(file.reference)
            except OSError as error:
                log.warning("staging.not_removed", reference=file.reference, error=type(error).__name__)

    async def _upload_several(
        self, name: ResultName, staged: Sequence[StagedFile], credentials: UploadCredentials | None
    ) -> tuple[ResultFile, ...] | UploadPending:
        """A few at a time, each tried again alone. The first that storage does not take at all ends them all."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(index: int, file: StagedFile) -> ResultFile:
            async with room:
                stored = await self._try(replace(name, index=index), file, credentials)
            if isinstance(stored, UploadPending):
                raise _NotTaken(stored)
            await failpoint("executor/after-one-upload")
            return stored

        try:
            return tuple(await all_or_none([one(index, file) for index, file in enumerate(staged)]))
        except _NotTaken as refused:
            return refused.pending

    async def _try(
        self, name: ResultName, staged: StagedFile, credentials: UploadCredentials | None
    ) -> ResultFile | UploadPending:
        end = time.monotonic() + self._in_line_seconds
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                stored = await self._store.put(name, staged, credentials)
            except UploadFailed as error:
                asked = error.retry_after if error.retryable else None
                pending = UploadPending(error.code, storable(redact_text(error.message)), not error.retryable, asked)
            else:
                self._seconds.observe(time.monotonic() - began)
                return ResultFile(stored.url, stored.file_type, stored.size, stored.sha256.hex(), stored.name)
            rest = max(pause, pending.retry_after or 0.0)
            if pending.permanent or time.monotonic() + rest > end:
                return pending
            log.info("upload.failed", task_id=str(name.task), index=name.index, code=pending.code, again_in=rest)
            await asyncio.sleep(rest * (1 + 0.25 * self._rng.random()))
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _credentials(self, attempt: Attempt) -> UploadCredentials | None:
        """What the task's creator may show to the file service; None when it left nothing that can be read.

        Raises KeyMissing where another executor may read it.
        """
        if attempt.sealed is None:
            return None
        try:
            opened = orjson.loads(self._open_sealed(attempt.sealed, f"task:{attempt.public_id}"))
        except KeyMissing:
            raise
        except ValueError as error:
            log.error("credentials.unreadable", task_id=str(attempt.public_id), message=str(error)[:200])
            return None
        return UploadCredentials(opened.get("authorization", ""), opened.get("x_user_info", ""))

    def _show(self, run: Run) -> None:
        run.side = asyncio.get_running_loop().create_task(self._migrating(run), name="migrating")

    async def _migrating(self, run: Run) -> None:
        self._permit_back(run)
        try:
            if await self._recorder.migrating(run):
                run.phase = Phase.MIGRATING
        except Exception as error:
            log.warning("upload.not_shown", task_id=str(run.attempt.public_id), error=type(error).__name__)

    async def _hand_over(self, run: Run, staged: StagedFile) -> None:
        """Another executor's store has it: that one goes on. Raises HandedOver, or StagedLost when nobody lives."""
        store = staged.reference.partition(":")[0]
        other = self._reader_of(store)
        if other is None:
            raise StagedLost(f"no live executor reads the staging store {store!r}")
        if await self._recorder.hand_over(run, other):
            log.info("upload.handed_over", task_id=str(run.attempt.public_id), executor=other)
        raise HandedOver
