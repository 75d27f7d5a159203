"""/v1/replays: jobs that replay or drop the dead."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from libs.common.domain.errors import NotFound
from libs.common.operations.dead_json import item_document, job_document, preview_document
from libs.common.operations.replay import ReplayRequest
from libs.common.ports_dead import EVERYTHING, Action, DeadKind
from services.api import examples_dead as examples
from services.api.answers import JsonAnswer
from services.api.cursors import before_of, cursor_of
from services.api.examples import body
from services.api.routes.context import Cases, Moving, Reach, Seeing, StrictRoute, number_of
from services.api.routes.documented import answers
from services.api.schemas import PageQuery
from services.api.schemas_dead import ReplayIn, ReplayItemPage, ReplayOut, ReplayPage, ReplayPreviewOut

router = APIRouter(prefix="/v1/replays", tags=["dead"], route_class=StrictRoute)


@router.post(
    "",
    summary="Replay or drop the dead",
    status_code=202,
    responses={
        **answers(
            ReplayOut, examples.REPLAY, "bad_json", "invalid", "dead_unknown", "body_too_large",
            "unsupported_media_type", "outcome_unknown", status=202,
        ),
        200: {
            "description": "A dry run: what it would take.",
            "model": ReplayPreviewOut,
            "content": {"application/json": {"example": examples.PREVIEW}},
        },
    },
)  # fmt: skip
async def order_replay(asked: Annotated[ReplayIn, body(examples.REPLAY_IN)], reach: Moving, cases: Cases) -> Response:
    """Writes a job that is worked off in the background. What another job has in hand is left out.

    A key with `operate` reaches all tenants; one with `admin` its own.
    """
    request = _request(asked, reach)
    if asked.dry_run:
        return JsonAnswer(preview_document(await cases.replays.preview(reach.tenant, request)))
    started = await cases.replays.start(reach.tenant, request)
    return JsonAnswer(job_document(started.job, started.unknown), status_code=202)


@router.get(
    "",
    summary="List replay jobs",
    responses=answers(ReplayPage, examples.REPLAY_PAGE, "invalid", "bad_cursor"),
)
async def list_replays(wanted: Annotated[PageQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """Newest first; they are kept for ever."""
    jobs, following = await cases.replays.page(reach.tenant, before_of("replay", wanted.cursor), wanted.limit)
    return JsonAnswer({"items": [job_document(job) for job in jobs], "next_cursor": cursor_of("replay", following)})


@router.get(
    "/{id}",
    summary="Read a replay job",
    responses=answers(ReplayOut, examples.REPLAY, "replay_unknown"),
)
async def read_replay(id: str, reach: Seeing, cases: Cases) -> Response:
    """Its progress."""
    return JsonAnswer(job_document(await cases.replays.show(reach.tenant, _number(id))))


@router.get(
    "/{id}/items",
    summary="List what became of each",
    responses=answers(ReplayItemPage, examples.REPLAY_ITEMS, "invalid", "bad_cursor", "replay_unknown"),
)
async def list_items(id: str, wanted: Annotated[PageQuery, Query()], reach: Seeing, cases: Cases) -> Response:
    """What was put off (no points left, its topic is not there) has tries, and the time of the next one."""
    after = before_of("item", wanted.cursor)
    items, following = await cases.replays.items(reach.tenant, _number(id), after, wanted.limit)
    return JsonAnswer({"items": [item_document(item) for item in items], "next_cursor": cursor_of("item", following)})


@router.post(
    "/{id}/pause",
    summary="Pause a replay job",
    responses=answers(ReplayOut, examples.REPLAY, "replay_unknown", "replay_over"),
)
async def pause_replay(id: str, reach: Moving, cases: Cases) -> Response:
    """Nothing of it begins until it is resumed."""
    return JsonAnswer(job_document(await cases.replays.pause(reach.tenant, _number(id))))


@router.post(
    "/{id}/resume",
    summary="Resume a replay job",
    responses=answers(ReplayOut, examples.REPLAY, "replay_unknown", "replay_over"),
)
async def resume_replay(id: str, reach: Moving, cases: Cases) -> Response:
    """It goes on where it was."""
    return JsonAnswer(job_document(await cases.replays.resume(reach.tenant, _number(id))))


@router.post(
    "/{id}/stop",
    summary="Stop a replay job",
    responses=answers(ReplayOut, examples.REPLAY, "replay_unknown", "replay_over"),
)
async def stop_replay(id: str, reach: Moving, cases: Cases) -> Response:
    """For good: what it has not done stays dead, free for another job."""
    return JsonAnswer(job_document(await cases.replays.stop(reach.tenant, _number(id))))


def _request(asked: ReplayIn, reach: Reach) -> ReplayRequest:
    return ReplayRequest(
        action=Action(asked.action),
        kind=DeadKind(asked.kind),
        reason=asked.reason,
        asked_by=reach.name,
        wanted=asked.filter.filter() if asked.filter is not None else EVERYTHING,
        ids=asked.ids,
        limit=asked.limit,
        rate=asked.rate,
        mended=asked.value_base64,
    )


def _number(text: str) -> int:
    number = number_of(text)
    if number is None:
        raise NotFound("replay_unknown", "there is no such replay job")
    return number
