"""How models are made, changed and deleted."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol, TypeAlias

from libs.common.contracts import hints as wire
from libs.common.domain.endpoint import join_endpoint
from libs.common.domain.errors import Conflict, Invalid, NotFound
from libs.common.domain.header_bindings import parse_bindings
from libs.common.domain.model import Model, normalised
from libs.common.domain.model_errors import EgressRefused
from libs.common.operations.model_cache import ModelCache
from libs.common.ports import Guard, Hints, Seal
from libs.common.ports_tasks import KeyOwner, Models
from services.api.problems import Problem
from services.api.views import MASK

#: Other changes of the same model that a change without If-Match gets past.
_TRIES: Final = 5
_CONFIG_LIMIT: Final = 65_536
_CALLED_BY: Final = frozenset({"adapter", "adapter_config", "base_url", "route"})

#: How a caller names a model: by its name on /v1, by its id on the old routes.
ModelRef: TypeAlias = str | int


class Adapters(Protocol):
    """Knows how models can be called."""

    def check(self, name: str, base_url: str, route: str, config: Mapping[str, Any]) -> None:
        """Raises Invalid for an adapter that there is not, or a configuration that it cannot use."""


class Administration:
    """Models of the caller's tenant. What it changes holds here at once, and everywhere within a second."""

    def __init__(
        self,
        models: Models,
        cache: ModelCache,
        hints: Hints,
        *,
        seal: Seal,
        guard: Guard,
        adapters: Adapters,
    ) -> None:
        self._models = models
        self._cache = cache
        self._hints = hints
        self._seal = seal
        self._guard = guard
        self._adapters = adapters

    async def create(self, caller: KeyOwner, given: dict[str, Any]) -> Model:
        """A new model; raises Invalid, or Conflict when the name is taken."""
        fields = self._stored(caller, given)
        await self._check_endpoint(fields["base_url"], fields.get("route", ""))
        self._check_adapter(fields, None)
        return self._announce(await self._models.create(caller.tenant_id, caller.name, fields))

    async def get(self, caller: KeyOwner, ref: ModelRef) -> Model:
        """A model by name or id; raises NotFound."""
        if isinstance(ref, int):
            model = await self._models.find_by_id(caller.tenant_id, ref)
        else:
            model = await self._models.find(caller.tenant_id, ref) if "\x00" not in ref else None
        if model is None:
            raise _unknown(ref)
        return model

    async def page(self, caller: KeyOwner, before: int | None, limit: int) -> tuple[list[Model], int | None]:
        """A page of models, newest first, and where the next one goes on."""
        return await self._models.list_page(caller.tenant_id, before, limit)

    async def change(
        self, caller: KeyOwner, ref: ModelRef, given: dict[str, Any], versions: Collection[int] | None
    ) -> Model:
        """Change the given fields, if the model has one of `versions` (None: whatever it has).

        Raises Invalid, NotFound, Conflict when the new name is taken or jobs need the present adapter, Problem (412)
        for another version.
        """
        fields = self._stored(caller, given)
        for _ in range(_TRIES):
            current = await self.get(caller, ref)
            if versions is not None and current.version not in versions:
                raise Problem("version_mismatch", f"The model has version {current.version} now.")
            if not fields:
                return current
            if "base_url" in fields or "route" in fields:
                await self._check_endpoint(fields.get("base_url", current.base_url), fields.get("route", current.route))
            if not _CALLED_BY.isdisjoint(fields):
                self._check_adapter(fields, current)
            changed = await self._models.update(current, caller.name, fields)
            if changed is not None:
                return self._announce(changed)
        raise Conflict("conflict", "the model is being changed by others, try again")

    async def delete(self, caller: KeyOwner, ref: ModelRef) -> None:
        """Delete a model: its name is free, what waits in its queue fails; raises NotFound."""
        model = await self.get(caller, ref)
        deleted = await self._models.delete(caller.tenant_id, model.id, caller.name)
        if deleted is None:
            raise _unknown(ref)
        self._announce(deleted)

    async def _check_endpoint(self, base_url: str, route: str) -> None:
        endpoint = join_endpoint(base_url, route)
        try:
            await self._guard.check_resolved(endpoint.url)
        except EgressRefused as error:
            raise Invalid(error.code, str(error), field="/base_url") from None

    def _check_adapter(self, fields: dict[str, Any], current: Model | None) -> None:
        """How the model would be called with these fields: adapter, address and configuration fit only together."""
        before = current or Model(id=0, lane=0, tenant_id=0, name="", base_url=fields["base_url"])
        given = {name: fields.get(name, getattr(before, name)) for name in sorted(_CALLED_BY)}
        self._adapters.check(
            given["adapter"], given["base_url"], given["route"], json.loads(given["adapter_config"] or "{}")
        )

    def _stored(self, caller: KeyOwner, given: dict[str, Any]) -> dict[str, Any]:
        """The given fields as they are stored."""
        fields = normalised(given)
        if "adapter_config" in fields:
            fields["adapter_config"] = _config_text(fields["adapter_config"])
        api_key = fields.pop("api_key", MASK)
        if api_key != MASK:
            parse_bindings(api_key)
            fields["bindings"] = self._seal.seal(api_key.encode(), f"tenant:{caller.tenant_id}") if api_key else None
        return fields

    def _announce(self, model: Model) -> Model:
        self._cache.put(model)
        self._hints.publish_soon(wire.MODELS, str(model.id))
        self._hints.publish_soon(wire.DISPATCH, wire.MODELS_CHANGED)
        return model


def _unknown(ref: ModelRef) -> NotFound:
    message = f"there is no model named {ref!r}" if isinstance(ref, str) else f"there is no model with the id {ref}"
    return NotFound("model_unknown", message)


def _config_text(config: dict[str, Any]) -> str:
    try:
        text = json.dumps(config, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise Invalid("model_adapter_config", "a number is out of range", field="/adapter_config") from None
    if len(text) > _CONFIG_LIMIT:
        message = f"adapter_config may have at most {_CONFIG_LIMIT} characters"
        raise Invalid("model_adapter_config", message, field="/adapter_config")
    return text
