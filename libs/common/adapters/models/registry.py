"""Adapters by their names: those of this product, and those of installed packages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from libs.common.adapters.models.cog import Cog
from libs.common.adapters.models.provider_config import CODE
from libs.common.adapters.models.replicate import Replicate
from libs.common.adapters.models.submit_poll import SubmitPoll
from libs.common.domain.errors import Invalid
from libs.common.ports_jobs import JobAdapter, JobAdapterFactory, JobAnswer, JobCall, JobHttp
from libs.common.runtime.logging import get_logger

log = get_logger()

GROUP: Final = "sluiceway.adapters"
#: Called once and answered at once: what it takes no job for.
PLAIN_HTTP: Final = "plain-http"

_BUILT_IN: Final[Mapping[str, JobAdapterFactory]] = {
    "replicate": Replicate,
    "submit-poll": SubmitPoll,
    "cog": Cog,
}
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_METHODS: Final = ("dedupes", "polls", "keyed", "check", "submit", "find", "get", "cancel", "called_back")


@dataclass(frozen=True, slots=True)
class BrokenAdapter:
    """An entry point that could not be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"the adapter {self.name!r} cannot be used: {self.reason}"


class Adapters:
    """All adapters of this installation. One that is broken is left out and listed in `broken`."""

    def __init__(self, jobs: Mapping[str, JobAdapter], broken: Iterable[BrokenAdapter] = ()) -> None:
        self.jobs = dict(jobs)
        self.broken = tuple(broken)

    def names(self) -> list[str]:
        """What a model may name as its adapter."""
        return sorted([PLAIN_HTTP, *self.jobs])

    def check(self, name: str, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        """Raises Invalid for a name that nobody has, or a configuration that its adapter cannot use."""
        if name == PLAIN_HTTP:
            if config:
                message = "plain-http has no options; give an empty adapter_config with it"
                raise Invalid(CODE, message, field="/adapter_config")
            return
        adapter = self.jobs.get(name)
        if adapter is None:
            raise Invalid("model_adapter", self._unknown(name), field="/adapter")
        try:
            adapter.check(base_url, route, config)
        except Invalid:
            raise
        except Exception as error:  # a package's mistake must not look like an outage
            message = f"the adapter {name!r} failed to check its configuration: {type(error).__name__}"
            raise Invalid(CODE, message, field="/adapter_config") from error

    def _unknown(self, name: str) -> str:
        for broken in self.broken:
            if broken.name == name:
                return str(broken)
        return f"there is no such adapter; known are: {', '.join(self.names())}"


def load_adapters(http: JobHttp) -> Adapters:
    """The adapters of this product and of installed packages, all on one client."""
    jobs: dict[str, JobAdapter] = {name: factory(http) for name, factory in _BUILT_IN.items()}
    broken: list[BrokenAdapter] = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            jobs[entry.name] = _load(entry, http, taken={PLAIN_HTTP, *jobs})
        except Exception as error:  # whatever a package does, the others work
            reason = str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"
            broken.append(BrokenAdapter(entry.name, " ".join(reason.split())[:300]))
            log.error("an adapter of an installed package cannot be used", adapter=entry.name, reason=reason)
    return Adapters(jobs, broken)


def checking_adapters() -> Adapters:
    """The same for a process that only checks configurations and reads callbacks, and sends nothing."""
    return load_adapters(_NoHttp())


class _NoHttp:
    async def send(self, call: JobCall, method: str, path: str, **more: Any) -> JobAnswer:
        raise RuntimeError("this process calls no providers")


class _Refused(Exception):
    """An entry point that is not what it has to be."""


def _load(entry: EntryPoint, http: JobHttp, taken: set[str]) -> JobAdapter:
    if not _NAME.fullmatch(entry.name):
        raise _Refused("a name has lower case letters, digits, dots, dashes and underscores, at most 64")
    if entry.name in taken:
        raise _Refused("there is an adapter of this name already")
    adapter: JobAdapter = entry.load()(http)
    missing = [name for name in _METHODS if not callable(getattr(adapter, name, None))]
    if missing:
        raise _Refused(f"it has no {', '.join(missing)}")
    return adapter
