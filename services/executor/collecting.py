"""A provider's outputs on their way into staging: all of them or none, each tried again alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

from libs.common.domain.model_errors import ModelError
from libs.common.domain.output import FILES_LIMIT, StagedFile
from libs.common.ports_execution import OutputLink, OutputLinks, OutputSet, Staging
from libs.common.ports_jobs import COLLECT_SECONDS, JobOutput
from libs.common.runtime.failpoints import failpoint
from libs.common.runtime.logging import get_logger
from libs.common.runtime.together import all_or_none
from services.executor.calls import ModelHeaders
from services.executor.runs import Run

log = get_logger()

_AT_ONCE: Final = 4
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 8.0


class OutputCollector:
    """Implements jobs.life.Collector: what came with the provider's report, and what lies behind its links.

    One link's passing failure costs nobody else anything: it alone is tried again, with growing pauses, until the time
    for all is up. A final one ends the others, and what was staged of them goes.
    """

    def __init__(
        self, links: OutputLinks, staging: Staging, headers: ModelHeaders, *, seconds: float = COLLECT_SECONDS
    ) -> None:
        self._links = links
        self._staging = staging
        self._headers = headers
        self._seconds = seconds
        self._rng = random.Random()  # noqa: S311  spreads tries

    async def collect(self, run: Run, outputs: Sequence[JobOutput]) -> tuple[StagedFile, ...]:
        """Stage what a job that succeeded has put out. Raises ModelError or StagingFull, and stages nothing then.

        Codes beside those of the links: no_outputs, too_many_outputs, output_timeout.
        """
        if not outputs:
            raise ModelError("no_outputs", "the provider's job succeeded, but has no output", retryable=False)
        if len(outputs) > FILES_LIMIT:
            message = f"the provider's job has {len(outputs)} outputs, {FILES_LIMIT} are the most that are taken"
            raise ModelError("too_many_outputs", message, retryable=False)
        staged: list[StagedFile] = []
        try:
            return await self._all(run, outputs, staged)
        except BaseException:
            # Shielded: who is cancelled meanwhile leaves none. What cannot be deleted now is the janitor's.
            removals = (self._staging.remove(file.reference) for file in staged)
            await asyncio.shield(asyncio.gather(*removals, return_exceptions=True))
            raise

    async def _all(self, run: Run, outputs: Sequence[JobOutput], staged: list[StagedFile]) -> tuple[StagedFile, ...]:
        """`staged` has what is staged so far, in no order."""
        room = asyncio.Semaphore(_AT_ONCE)
        headers = self._headers.of(run.model)
        failures: dict[int, ModelError] = {}
        together = OutputSet() if len(outputs) > 1 else None

        async def one(index: int, output: JobOutput) -> StagedFile:
            link = OutputLink(output.url, run.model.base_url, headers, output.content_type)
            pause = _FIRST_PAUSE
            while True:
                async with room:
                    try:
                        file = await self._take(run, output, link, together)
                    except ModelError as error:
                        if not error.retryable:
                            raise _of_one(error, index, len(outputs)) from None
                        failures[index] = error
                    else:
                        staged.append(file)
                        failures.pop(index, None)
                        await failpoint("executor/after-one-collect")
                        return file
                wait = max(pause, failures[index].retry_after or 0.0)
                code = failures[index].code
                log.info("output.failed", task_id=str(run.attempt.public_id), index=index, code=code, again_in=wait)
                await asyncio.sleep(wait * (1 + 0.25 * self._rng.random()))
                pause = min(pause * 2, _LONGEST_PAUSE)

        try:
            async with asyncio.timeout(self._seconds):
                return tuple(await all_or_none([one(index, output) for index, output in enumerate(outputs)]))
        except TimeoutError:
            raise self._late(failures, len(outputs)) from None

    async def _take(self, run: Run, output: JobOutput, link: OutputLink, one_of: OutputSet | None) -> StagedFile:
        attempt = run.attempt
        async with self._staging.create(attempt.public_id, attempt.number, attempt.tenant_id, one_of) as sink:
            if output.content is None:
                return await self._links.fetch(link, sink)
            if not output.content:
                raise ModelError("empty_output", "the output is empty", retryable=False)
            try:
                await sink.write(output.content)
            except ModelError as error:  # past a cap; of an output behind a link it is named so, too
                raise ModelError("output_too_large", error.message, retryable=False) from None
            return await sink.commit(output.content_type)

    def _late(self, failures: dict[int, ModelError], count: int) -> ModelError:
        message = f"not all outputs came within {self._seconds:g} s"
        if failures:
            index, error = next(iter(failures.items()))
            message += f"; {_of_one(error, index, count).message}"
        return ModelError("output_timeout", message, retryable=True)


def _of_one(error: ModelError, index: int, count: int) -> ModelError:
    """The same error, saying which output it is about."""
    if count == 1:
        return error
    message = f"output {index + 1} of {count}: {error.message}"
    return ModelError(error.code, message, retryable=error.retryable, retry_after=error.retry_after)
