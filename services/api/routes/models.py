"""/v1/models: make, read, change, delete."""

from __future__ import annotations

import re
from typing import Annotated, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response

from libs.common.domain.model import Model
from services.api import examples
from services.api.answers import JsonAnswer
from services.api.conditions import etag, is_known, wanted_versions
from services.api.cursors import before_of, cursor_of
from services.api.routes.context import Admin, Cases, Reader, StrictRoute
from services.api.routes.documented import BODY_ERRORS, answers
from services.api.schemas import ModelChange, ModelIn, PageQuery
from services.api.schemas_out import ModelOut, ModelPage
from services.api.views import model_view

#: What is asked of a model, and no part of its name; in a name the slash before it is written %2F.
_ASKED: Final = re.compile(rb"/v1/models/.+/(?:why|pause|resume)$", re.DOTALL)


def _whole_name(request: Request) -> None:
    """Raises 405 where a method is used on what can only be asked in another way."""
    if _ASKED.match(request.scope.get("raw_path", b"").partition(b"?")[0]):
        raise HTTPException(405, "This method is not offered here.")


router = APIRouter(prefix="/v1/models", tags=["models"], route_class=StrictRoute, dependencies=[Depends(_whole_name)])


@router.post(
    "",
    summary="Make a model",
    status_code=201,
    responses=answers(ModelOut, examples.MODEL, *BODY_ERRORS, "model_exists", status=201),
)
async def create_model(
    wanted: Annotated[ModelIn, examples.body(examples.MODEL_IN)], caller: Admin, cases: Cases
) -> Response:
    """What is left out gets its default. An address in a private range must be allowed by SLUICEWAY_EGRESS_ALLOW."""
    model = await cases.administration.create(caller, wanted.given())
    return _shown(model, 201, {"Location": f"/v1/models/{quote(model.name, safe='')}"})


@router.get("", summary="List models", responses=answers(ModelPage, examples.MODEL_PAGE, "invalid", "bad_cursor"))
async def list_models(wanted: Annotated[PageQuery, Query()], caller: Reader, cases: Cases) -> Response:
    """Newest first."""
    before = before_of("model", wanted.cursor)
    models, following = await cases.administration.page(caller, before, wanted.limit)
    return JsonAnswer({"items": [model_view(model) for model in models], "next_cursor": cursor_of("model", following)})


# A name may hold slashes, written as %2F: hence `:path`.
@router.get(
    "/{name:path}",
    summary="Read a model",
    responses={
        **answers(ModelOut, examples.MODEL, "model_unknown"),
        304: {"description": "The model still has the version that If-None-Match names."},
    },
)
async def read_model(
    name: str,
    caller: Reader,
    cases: Cases,
    if_none_match: Annotated[
        str | None, Header(alias="If-None-Match", description="ETag of an earlier answer.")
    ] = None,
) -> Response:
    """The model, its api_key masked."""
    model = await cases.administration.get(caller, name)
    if is_known(model.version, if_none_match):
        return Response(status_code=304, headers={"ETag": etag(model.version)})
    return _shown(model)


@router.patch(
    "/{name:path}",
    summary="Change a model",
    responses=answers(
        ModelOut,
        examples.MODEL,
        *BODY_ERRORS,
        "model_unknown",
        "model_exists",
        "model_jobs_open",
        "conflict",
        "version_mismatch",
    ),
)
async def change_model(
    name: str,
    wanted: Annotated[ModelChange, examples.body(examples.MODEL_CHANGE)],
    caller: Admin,
    cases: Cases,
    if_match: Annotated[
        str | None, Header(alias="If-Match", description="ETag of the version that the change is meant for.")
    ] = None,
) -> Response:
    """Changes only the fields given; null means unchanged. Holds in every process within a second.

    While its provider works on jobs of the model, it cannot get another adapter.
    """
    return _shown(await cases.administration.change(caller, name, wanted.given(), wanted_versions(if_match)))


@router.delete(
    "/{name:path}",
    summary="Delete a model",
    status_code=204,
    responses=answers(None, None, "model_unknown", status=204),
)
async def delete_model(name: str, caller: Admin, cases: Cases) -> Response:
    """Frees the name. Waiting tasks fail with `model_deleted`, running ones finish.

    An output that waits for storage to take it counts as waiting. To lose none, disable the model (`enabled`: false)
    and delete it when nothing of it is open.
    """
    await cases.administration.delete(caller, name)
    return Response(status_code=204)


def _shown(model: Model, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return JsonAnswer(model_view(model), status, {"ETag": etag(model.version), **(headers or {})})
