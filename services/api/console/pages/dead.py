"""The dead: grouped by cause, listed, each with its story; and the order to replay or drop them, after a dry run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response

from libs.common.domain.errors import Invalid, NotFound
from libs.common.operations.dead_json import details_document, entry_document, groups_document, preview_document
from libs.common.operations.replay import USUAL_LIMIT, USUAL_RATE, ReplayRequest
from libs.common.ports_dead import EVERYTHING, KEPT_BYTES, NO_MODEL_WORD, Action, DeadFilter, DeadKind
from services.api.console.rendering import page, seen_next
from services.api.console.tools import FORM_BYTES, Tools
from services.api.console.visit import Visit, address, tenant_id_of
from services.api.cursors import place_cursor, place_of
from services.api.schemas_dead import model_number, row_number

_PATH: Final = "/console/dead"
_PAGE: Final = 50
_WORDS: Final = 500
#: A byte of a message may be three of a form, the end of a line is six.
MENDED_FORM_BYTES: Final = 6 * KEPT_BYTES + FORM_BYTES


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filter in an address or a form, as it was written."""

    kind: str = ""
    code: str = ""
    model: str = ""
    model_id: str = ""
    tenant: str = ""
    since: str = ""
    until: str = ""
    text: str = ""
    webhook: str = ""
    id: str = ""

    @classmethod
    def asked(cls, visit: Visit) -> Wanted:
        """From the address."""
        return cls(*(visit.asked(field.name).strip()[:_WORDS] for field in fields(cls)))

    @classmethod
    def sent(cls, visit: Visit) -> Wanted:
        """From a form."""
        return cls(*(visit.form.get(field.name, "").strip()[:_WORDS] for field in fields(cls)))

    def narrowed(self) -> DeadFilter:
        """The same for the store; raises Invalid."""
        if "\x00" in "".join(self.said().values()):
            raise Invalid("invalid", "A NUL character cannot be looked for.")
        return DeadFilter(
            kind=_kind(self.kind) if self.kind else None,
            code=self.code or None,
            model=self.model or None,
            tenant=tenant_id_of(self.tenant) if self.tenant else None,
            since=_instant(self.since),
            until=_instant(self.until),
            text=self.text or None,
            model_id=_model_id(self.model_id) if self.model_id else None,
            webhook=_webhook(self.webhook) if self.webhook else None,
        )

    def said(self) -> dict[str, str]:
        """Those that say something, for addresses and hidden fields."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name))}


@dataclass(frozen=True, slots=True)
class Draft:
    """What a message is to be sent as, as far as it is written, and what is wrong with it."""

    text: str
    reason: str = ""
    complaint: str = ""


async def show(tools: Tools, visit: Visit) -> Response:
    """Groups by cause, and a page of the list, newest first."""
    wanted = Wanted.asked(visit)
    narrowed = wanted.narrowed()
    place = place_of(visit.asked("cursor") or None)
    entries, following = await tools.cases.dead.page(visit.reach, narrowed, place, _PAGE)
    groups = groups_document(await tools.cases.dead.groups(visit.reach, narrowed)) if place is None else None
    next_cursor = place_cursor(following)
    # deliveries to these would only wait again
    held = [
        pause
        for pause in await tools.cases.sight.pauses(visit.reach)
        if pause.scope == "webhook" and narrowed.webhook in (None, pause.webhook)
    ]
    return page(
        visit,
        "dead.html",
        wanted=wanted,
        kinds=[kind.value for kind in DeadKind if visit.operates or kind is not DeadKind.MESSAGE],
        entries=[entry_document(entry) for entry in entries],
        groups=groups,
        pauses=held if wanted.kind in ("", DeadKind.DELIVERY) else [],
        first=place is None,
        first_url=address(_PATH, **wanted.said()),
        next_url=address(_PATH, **{**wanted.said(), "cursor": next_cursor}) if next_cursor else None,
    )


async def show_one(tools: Tools, visit: Visit) -> Response:
    """Everything that is known of one of the dead."""
    return await _one(tools, visit, _kind(visit.request.path_params["kind"]))


async def mend(tools: Tools, visit: Visit) -> Response:
    """Send a message with other bytes, and watch it; what is wrong with them is said where they were written."""
    text = visit.form.get("mended", "").replace("\r\n", "\n")  # as browsers end a line
    reason = visit.form.get("reason", "")
    request = ReplayRequest(
        action=Action.REPLAY,
        kind=DeadKind.MESSAGE,
        reason=reason,
        asked_by=visit.by,
        ids=[visit.request.path_params["id"]],
        mended=text.encode(),
    )
    try:
        if not text:
            raise Invalid("invalid", "is empty: write the whole message", field="/value")
        started = await tools.cases.replays.start(visit.reach, request)
    except Invalid as error:
        return await _one(tools, visit, DeadKind.MESSAGE, Draft(text, reason, _words(error)))
    return seen_next(f"/console/replays/{started.job.id}")


async def ask(tools: Tools, visit: Visit) -> Response:
    """The dry run: how many, of which groups; and the form that orders it."""
    return await _form(tools, visit, Wanted.asked(visit), _action(visit.asked("action")))


async def order(tools: Tools, visit: Visit) -> Response:
    """Write the job of what the dry run counted, and watch it; another limit is counted first."""
    wanted, action = Wanted.sent(visit), _action(visit.form.get("action", ""))
    try:
        request = _request(visit, wanted, action, visit.form.get("reason", ""))
        if not wanted.id and str(request.limit) != visit.form.get("counted"):
            return await _form(
                tools, visit, wanted, action, complaint="This is counted anew for the limit; order it again."
            )
        started = await tools.cases.replays.start(visit.reach, request)
    except Invalid as error:
        return await _form(tools, visit, wanted, action, complaint=_words(error))
    return seen_next(f"/console/replays/{started.job.id}")


async def _one(tools: Tools, visit: Visit, kind: DeadKind, draft: Draft | None = None) -> Response:
    """The page of one, with what was written for it and could not be sent."""
    details = await tools.cases.dead.show(visit.reach, kind, visit.request.path_params["id"])
    one = details_document(details, tools.cases.open_sealed)
    if draft is None:
        exact = one["message"] is not None and one["message"]["shown"] == "exact"
        draft = Draft((one["message"]["value"] or "") if exact else "")
    return page(visit, "dead_one.html", status=400 if draft.complaint else 200, one=one, draft=draft)


async def _form(tools: Tools, visit: Visit, wanted: Wanted, action: Action, complaint: str = "") -> Response:
    preview: dict[str, Any] | None = None
    limit: int | str = visit.form.get("limit") or visit.asked("limit") or USUAL_LIMIT
    rate: float | str = visit.form.get("rate") or visit.asked("rate") or USUAL_RATE
    upto = visit.form.get("upto") or datetime.now(UTC).isoformat()
    try:
        # A dry run needs a reason like any order; nobody has been asked for one yet.
        request = _request(visit, wanted, action, visit.form.get("reason", "").strip() or "dry run", upto)
        limit, rate = request.limit, request.rate
        preview = preview_document(await tools.cases.replays.preview(visit.reach, request))
    except Invalid as error:
        complaint = complaint or _words(error)
    return page(
        visit,
        "dead_order.html",
        status=400 if complaint else 200,
        wanted=wanted,
        action=action.value,
        preview=preview,
        limit=limit,
        rate=rate,
        upto=upto,
        reason=visit.form.get("reason", ""),
        complaint=complaint,
    )


def _request(visit: Visit, wanted: Wanted, action: Action, reason: str, upto: str = "") -> ReplayRequest:
    """What died after the dry run was not counted, and is not taken."""
    narrowed = wanted.narrowed()
    if narrowed.until is None:
        narrowed = replace(narrowed, until=_instant(upto or visit.form.get("upto", "")))
    return ReplayRequest(
        action=action,
        kind=_kind(wanted.kind),
        reason=reason,
        asked_by=visit.by,
        wanted=EVERYTHING if wanted.id else narrowed,
        ids=[wanted.id] if wanted.id else None,
        limit=_number(visit.form.get("limit") or visit.asked("limit"), USUAL_LIMIT),
        rate=_rate(visit.form.get("rate") or visit.asked("rate")),
    )


def _kind(word: str) -> DeadKind:
    try:
        return DeadKind(word)
    except ValueError:
        raise NotFound("dead_unknown", f"the kinds are {', '.join(DeadKind)}") from None


def _model_id(word: str) -> int | None:
    if word != NO_MODEL_WORD and not (word.isascii() and word.isdecimal() and len(word) < 20):
        raise Invalid("invalid", "A model's id is a number, or none.")
    return model_number(word)


def _webhook(word: str) -> int | None:
    if not (word.isascii() and word.isdecimal() and len(word) < 20):
        raise Invalid("invalid", "A webhook is named by its number.")
    return row_number(word)


def _action(word: str) -> Action:
    return Action.DROP if word == Action.DROP.value else Action.REPLAY


def _number(text: str, otherwise: int) -> int:
    if not text:
        return otherwise
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Invalid("invalid", "is no whole number", field="/limit")
    return int(text)


def _rate(text: str) -> float:
    try:
        return float(text) if text else USUAL_RATE
    except ValueError:
        raise Invalid("invalid", "is no number", field="/rate") from None


def _instant(text: str) -> datetime | None:
    """A time as `datetime-local` fields send it; without an offset it is UTC."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # outside of the calendar
        raise Invalid("invalid", "A time is written like 2026-01-31T09:30.") from None


def _words(error: Invalid) -> str:
    named = error.field.removeprefix("/")
    return f"{named}: {error.message}" if named else error.message
