"""/v1/tasks/{task_id}/result: the files of a result."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from libs.common.ports_tasks import KeyOwner
from services.api.results import Download
from services.api.routes.context import Cases, Reader, TaskId, UseCases
from services.api.routes.documented import problems

#: Whatever a model made: a browser saves it, takes it for nothing else, and runs nothing in it.
SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private",
}
_TEXT: Final = {"schema": {"type": "string"}}
_DESCRIBED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}, "example": "(the file's bytes)"}},
        "headers": {
            "Content-Disposition": {"description": "Always an attachment, with the file's name.", **_TEXT},
            "Content-Length": {"description": "Its size.", "schema": {"type": "integer"}},
        },
    },
    307: {
        "description": "Its place is with a file service.",
        "headers": {"Location": {"description": "Where it can be had.", **_TEXT}},
    },
    **problems("invalid", "task_unknown", "no_result", "file_unknown", "result_gone", "result_pending"),
}

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
Index = Annotated[int, Path(ge=0, le=2**31 - 1, description="The file's place in `result.files`, from 0.")]


@router.get("/{task_id}/result", summary="Download a result", response_class=Response, responses=_DESCRIBED)
async def download_result(task_id: TaskId, caller: Reader, cases: Cases) -> Response:
    """The first file of a success, as an attachment. Marks the task as fetched."""
    return await _answer(cases, caller, task_id, 0)


@router.head("/{task_id}/result", summary="Look at a result", response_class=Response, responses=_DESCRIBED)
async def look_at_result(task_id: TaskId, caller: Reader, cases: Cases) -> Response:
    """Size, type and name of the first file. Marks nothing."""
    return await _answer(cases, caller, task_id, 0, head=True)


@router.get(
    "/{task_id}/result/{index}", summary="Download a file of a result", response_class=Response, responses=_DESCRIBED
)
async def download_file(task_id: TaskId, index: Index, caller: Reader, cases: Cases) -> Response:
    """One of several files of a success, as an attachment. Marks the task as fetched."""
    return await _answer(cases, caller, task_id, index)


@router.head(
    "/{task_id}/result/{index}", summary="Look at a file of a result", response_class=Response, responses=_DESCRIBED
)
async def look_at_file(task_id: TaskId, index: Index, caller: Reader, cases: Cases) -> Response:
    """Size, type and name of one of several files. Marks nothing."""
    return await _answer(cases, caller, task_id, index, head=True)


async def _answer(cases: UseCases, caller: KeyOwner, task_id: UUID, index: int, *, head: bool = False) -> Response:
    return attachment(await cases.results.open(caller, task_id, index, fetched=not head), head=head)


def attachment(download: Download, *, head: bool = False) -> Response:
    """A file as every face hands it out: to be saved, never to be shown in our place."""
    content = download.content
    if content is None:
        return RedirectResponse(download.location, 307, headers=SAFE)
    headers = {
        **SAFE,
        "Content-Type": content.media_type,
        "Content-Length": str(content.size),
        "Content-Disposition": f'attachment; filename="{download.name}"',
    }
    return Response(headers=headers) if head else StreamingResponse(content.chunks, headers=headers)
