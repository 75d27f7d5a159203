"""/model/...: models by id, as the old gateway's callers make, read and change them."""

from __future__ import annotations

from typing import Any, Final

from pydantic import ValidationError

from libs.common.domain.errors import NotFound
from libs.common.ports_legacy import LegacyRows
from services.api.administration import Administration
from services.api.legacy.face import Asked
from services.api.legacy.fields import MODEL_FIELDS
from services.api.legacy.given import Given, required
from services.api.legacy.rows import Rows
from services.api.problems import Problem, complaint
from services.api.schemas import NAME_LIMIT, ModelChange, ModelIn

_LONGEST_TEXT: Final = 65_536  #: what no field takes; the limits of the fields are those of /v1
_NAMES: Final = {wire.column: name for name, wire in MODEL_FIELDS.items()}


class LegacyModels:
    """Answers /model/...; raises what Administration raises."""

    def __init__(self, administration: Administration, stored: LegacyRows, rows: Rows) -> None:
        self._administration = administration
        self._stored = stored
        self._rows = rows

    async def create(self, asked: Asked) -> dict[str, Any]:
        """POST /model/createModel"""
        fields = _fields(asked.given)
        required(fields.get("name"), "modelName")
        required(fields.get("base_url"), "baseUrl")
        model = await self._administration.create(asked.caller, _checked(ModelIn, fields))
        return {"id": str(model.id)}

    async def update(self, asked: Asked) -> dict[str, Any]:
        """PUT or POST /model/updateModel: changes what is given, and holds everywhere within a second."""
        model_id = required(asked.given.number("id"), "id")
        change = _checked(ModelChange, _fields(asked.given))
        await self._administration.change(asked.caller, model_id, change, None)
        return {}

    async def delete(self, asked: Asked) -> dict[str, Any]:
        """DELETE /model/deleteModel"""
        await self._administration.delete(asked.caller, required(asked.given.number("id"), "id"))
        return {}

    async def get(self, asked: Asked) -> dict[str, Any]:
        """GET /model/getModel"""
        model_id = required(asked.given.number("id"), "id")
        row = await self._stored.model(asked.caller.tenant_id, model_id)
        if row is None:
            raise NotFound("model_unknown", f"there is no model with the id {model_id}")
        return self._rows.model(row)

    async def page(self, asked: Asked) -> dict[str, Any]:
        """POST /model/listModel"""
        page = asked.given.page()
        part = asked.given.text("modelName", NAME_LIMIT) or ""
        rows, total = await self._stored.models(asked.caller.tenant_id, part, page.offset, page.limit)
        return {"list": [self._rows.model(row) for row in rows], "total": total}


def _fields(given: Given) -> dict[str, Any]:
    """The fields that say something, by the names that they are stored under."""
    fields: dict[str, Any] = {}
    for name, wire in MODEL_FIELDS.items():
        match wire.kind:
            case "text":
                value: Any = given.text(name, _LONGEST_TEXT)
            case "number":
                value = given.number(name)
            case "flag":
                value = given.flag(name)
            case "object":
                value = given.document(name)
        if value is not None and not (wire.blank and value == ""):
            fields[wire.column] = value
    return fields


def _checked(schema: type[ModelChange], fields: dict[str, Any]) -> dict[str, Any]:
    try:
        return schema.model_validate(fields).given()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = _NAMES.get(str(first["loc"][0]), "the model")
        raise Problem("invalid", f"{name}: {complaint(first)}") from None
