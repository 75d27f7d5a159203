"""Models of an old gateway on their way into ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from libs.common.domain.endpoint import join_endpoint
from libs.common.domain.errors import Invalid
from libs.common.domain.header_bindings import InvalidBindings, parse_bindings
from libs.common.domain.legacy import LegacyModel, model_values
from libs.common.domain.model import MAX_INT, partitions, window
from libs.common.domain.model_errors import EgressRefused
from libs.common.operations.legacy_fit import unfit_model
from libs.common.operations.legacy_report import ImportReport
from libs.common.ports import Guard
from libs.common.ports_import import MODELS, UNFIT, Note, TakenModel

Seal = Callable[[bytes, str], bytes]

#: Never free, so a stand-in gets a number of ours.
_NO_ID: Final = 0


class ModelMapping:
    """Maps models, and notes what an operator has to do about them."""

    def __init__(
        self, seal: Seal, guard: Guard, report: ImportReport, *, partitions_setting: int, executor_slots: int
    ) -> None:
        self._seal = seal
        self._guard = guard
        self._report = report
        self._partitions = partitions_setting
        self._slots = executor_slots
        self._hosts: dict[str, dict[str, Any] | None] = {}
        self._names: set[tuple[int, str]] = set()

    async def map(self, models: Sequence[LegacyModel]) -> tuple[list[TakenModel], list[Note]]:
        """The models as they are written, and notes on those that cannot be."""
        taken, notes = [], []
        for model in models:
            try:
                if wrong := unfit_model(model):
                    raise Invalid(UNFIT, wrong)
                if (model.tenant_id, model.name) in self._names:
                    raise Invalid("model_name", "its name is another row's, too")
                values, changes = model_values(model)
            except Invalid as error:
                notes.append(Note(MODELS, model.id, error.code, error.message))
                continue
            self._names.add((model.tenant_id, model.name))
            taken.append(TakenModel(model.id, model.tenant_id, model.name, self._stored(model, values)))
            await self._look_at(model, values, changes)
        return taken, notes

    def stand_in(self, tenant_id: int, name: str) -> TakenModel:
        """A deleted model for tasks whose own is gone."""
        model = LegacyModel(0, tenant_id, "-", enabled=False, remark="its model was gone at the import")
        values, _ = model_values(model)
        return TakenModel(_NO_ID, tenant_id, name, self._stored(model, values), stand_in=True)

    def _stored(self, model: LegacyModel, values: dict[str, Any]) -> dict[str, Any]:
        concurrency = values["max_concurrency"]
        return values | {
            "bindings": self._seal(model.api_key.encode(), f"tenant:{model.tenant_id}") if model.api_key else None,
            "window_size": window(concurrency),
            "partitions": self._partitions or partitions(concurrency, self._slots),
            "creator": model.creator,
            "updater": model.updater,
            "created_at": model.created_at,
        }

    async def _look_at(self, model: LegacyModel, values: dict[str, Any], changes: list[str]) -> None:
        named = {"id": str(model.id), "tenant": str(model.tenant_id), "model": model.name}
        if values["queue_limit"] == MAX_INT and model.queue_limit <= 0:
            self._report.unlimited.append(named)
        try:
            parse_bindings(model.api_key)
        except InvalidBindings as error:
            changes = [*changes, f"its calls will fail until api_key is corrected: {error.message}"]
        try:
            url = join_endpoint(model.base_url, model.route).url
        except Invalid as error:
            changes = [*changes, f"its calls will fail until the address is corrected: {error.message}"]
        else:
            await self._check_host(url, model)
        if changes:
            self._report.models_changed.append(named | {"changes": changes})

    async def _check_host(self, url: str, model: LegacyModel) -> None:
        endpoint = join_endpoint(model.base_url)
        place = f"{endpoint.host}:{endpoint.port}"
        if place not in self._hosts:
            self._hosts[place] = None
            try:
                await self._guard.check_resolved(url)
            except EgressRefused as error:
                entry = self._hosts[place] = {"host": endpoint.host, "why": str(error), "models": []}
                self._report.hosts.append(entry)
        refused = self._hosts[place]
        if refused is not None:
            refused["models"].append(f"{model.tenant_id}/{model.name}")
