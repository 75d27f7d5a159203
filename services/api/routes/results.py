"""/v1/tasks/{task_id}/result: the files of a result."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from libs.common.ports_tasks import KeyOwner
from services.api.problems import Problem
from services.api.ranges import said_part, wanted_part
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
            "ETag": {"description": "Of its content, for `If-Range`; absent where nobody knows it.", **_TEXT},
        },
    },
    206: {
        "description": "The part that `Range` asked for: of one range; the whole answers several at once.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}, "example": "(bytes of the file)"}},
        "headers": {"Content-Range": {"description": "Which bytes, and of how many.", **_TEXT}},
    },
    307: {
        "description": "Its place is with a file service.",
        "headers": {"Location": {"description": "Where it can be had.", **_TEXT}},
    },
    **problems("invalid", "task_unknown", "no_result", "file_unknown", "result_gone", "result_pending", "no_such_part"),
}

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
Index = Annotated[int, Path(ge=0, le=2**31 - 1, description="The file's place in `result.files`, from 0.")]


@router.get("/{task_id}/result", summary="Download a result", response_class=Response, responses=_DESCRIBED)
async def download_result(task_id: TaskId, caller: Reader, cases: Cases, request: Request) -> Response:
    """The first file of a success, or a part of it (`Range`), as an attachment. Marks the task as fetched."""
    return await _answer(cases, caller, task_id, 0, request)


@router.head("/{task_id}/result", summary="Look at a result", response_class=Response, responses=_DESCRIBED)
async def look_at_result(task_id: TaskId, caller: Reader, cases: Cases) -> Response:
    """Size, type and name of the first file. Marks nothing."""
    return await _answer(cases, caller, task_id, 0)


@router.get(
    "/{task_id}/result/{index}", summary="Download a file of a result", response_class=Response, responses=_DESCRIBED
)
async def download_file(task_id: TaskId, index: Index, caller: Reader, cases: Cases, request: Request) -> Response:
    """One of several files of a success, or a part of it (`Range`), as an attachment. Marks the task as fetched."""
    return await _answer(cases, caller, task_id, index, request)


@router.head(
    "/{task_id}/result/{index}", summary="Look at a file of a result", response_class=Response, responses=_DESCRIBED
)
async def look_at_file(task_id: TaskId, index: Index, caller: Reader, cases: Cases) -> Response:
    """Size, type and name of one of several files. Marks nothing."""
    return await _answer(cases, caller, task_id, index)


async def _answer(
    cases: UseCases, caller: KeyOwner, task_id: UUID, index: int, fetching: Request | None = None
) -> Response:
    """What a request is answered that fetches the file, or one that only looks at it."""
    part = None if fetching is None else wanted_part(fetching.headers)
    download = await cases.results.open(caller, task_id, index, fetched=fetching is not None, part=part)
    return attachment(download, head=fetching is None)


def attachment(download: Download, *, head: bool = False) -> Response:
    """A file as every face hands it out: to be saved, never to be shown in our place."""
    content = download.content
    if content is None:
        return RedirectResponse(download.location, 307, headers=SAFE)
    status, said = said_part(content)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        detail = f"The file has {content.size} bytes."
        raise Problem("no_such_part", detail, headers={"Content-Range": said["Content-Range"]})
    headers = {
        **SAFE,
        **said,
        "Content-Type": content.media_type,
        "Content-Disposition": f'attachment; filename="{download.name}"',
        **({"ETag": download.tag} if download.tag else {}),
    }
    return Response(headers=headers) if head else StreamingResponse(content.chunks, status, headers)
