"""How a provider's outputs get into staging."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.domain.model_errors import ModelError
from libs.common.domain.output import StagedFile
from libs.common.ports_execution import Staging
from libs.common.ports_jobs import JobOutput
from services.executor.runs import Run


class InlineCollector:
    """Implements execution.Collector for one output whose content came with the provider's report."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging

    async def collect(self, run: Run, outputs: Sequence[JobOutput]) -> tuple[StagedFile, ...]:
        """Stage it. Raises ModelError or StagingFull."""
        if not outputs:
            raise ModelError("no_output", "the provider's job succeeded, but has no output", retryable=False)
        if len(outputs) > 1 or outputs[0].content is None:
            raise ModelError("unsupported_output", "outputs can only be taken one at a time, inline", retryable=False)
        async with self._staging.create(run.attempt.public_id, run.attempt.number) as sink:
            await sink.write(outputs[0].content)
            return (await sink.commit(outputs[0].content_type),)
