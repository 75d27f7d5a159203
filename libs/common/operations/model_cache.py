"""The models that this process knows, never older than a second."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from libs.common.domain.model import Model
from libs.common.ports_tasks import Models

#: A change commits later than its timestamp; looking back this far again finds those that were slow.
_OVERLAP: Final = timedelta(seconds=5)
REFRESH_SECONDS: Final = 0.5


class ModelCache:
    """Models by id and by (tenant, name). `refresh` every REFRESH_SECONDS, and at once on a hint, keeps it current.

    A change holds in every process within a second; a new model is found at its first use, because
    who misses one asks PostgreSQL.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._by_id: dict[int, Model] = {}
        self._by_name: dict[tuple[int, str], Model] = {}
        self._seen: datetime | None = None
        self._server: datetime | None = None

    async def refresh(self) -> None:
        """Take over what changed; raises DatabaseUnavailable and keeps what it has.

        Another server, or one that was started again, may go on from an older state, in which a number is another
        model's: then everything is read again, and what is not there any more is forgotten.
        """
        since = None if self._seen is None else self._seen - _OVERLAP
        news = await self._models.changed_since(since)
        if since is not None and news.server != self._server:
            before = list(self._by_id.values())
            news = await self._models.changed_since(None)
            for model in before:
                self._forget(model)
        for model in news.models:
            self.put(model)
        self._seen, self._server = news.now, news.server

    def put(self, model: Model) -> None:
        """Take over one model, unless a newer version of it is known."""
        known = self._by_id.get(model.id)
        if known is not None and known.version >= model.version:
            return
        if known is not None and self._by_name.get((known.tenant_id, known.name)) is known:
            del self._by_name[known.tenant_id, known.name]
        self._by_id[model.id] = model
        if not model.deleted:
            self._by_name[model.tenant_id, model.name] = model

    def named(self, tenant_id: int, name: str) -> Model | None:
        """The tenant's model of that name if it is in memory."""
        return self._by_name.get((tenant_id, name))

    async def look_up(self, names: Sequence[tuple[int, str]]) -> list[Model | None]:
        """The models of these (tenant, name) from PostgreSQL, in order; None for a name that nobody has."""
        found = {(model.tenant_id, model.name): model for model in await self._models.find_many(names)}
        for model in found.values():
            self.put(model)
        return [found.get(name) for name in names]

    async def by_id(self, model_id: int) -> Model | None:
        """The model of that id, deleted or not, from memory or from PostgreSQL."""
        model = self._by_id.get(model_id)
        if model is None:
            for found in await self._models.by_ids([model_id]):
                self.put(found)
            model = self._by_id.get(model_id)
        return model

    def known(self, model_id: int) -> Model | None:
        """The model of that id if it is in memory."""
        return self._by_id.get(model_id)

    def _forget(self, model: Model) -> None:
        if self._by_id.get(model.id) is model:
            del self._by_id[model.id]
        if self._by_name.get((model.tenant_id, model.name)) is model:
            del self._by_name[model.tenant_id, model.name]
