"""Results: what is safe to be shown is shown, everything else is saved, and nothing of it acts in our name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from libs.common.domain.errors import NotFound, Refused
from libs.common.ports_results import WantedPart
from libs.common.ports_tasks import TaskView
from services.api.console.rendering import fragment
from services.api.console.tools import Tools
from services.api.console.visit import Visit
from services.api.ranges import said_part, wanted_part
from services.api.results import Download
from services.api.routes.results import SAFE, attachment

#: Kinds that a browser decodes and never runs, by what shows them.
_SHOWN: Final = {
    "image": frozenset({"png", "jpg", "gif", "webp", "bmp", "avif"}),
    "audio": frozenset({"mp3", "wav", "flac", "ogg", "opus", "m4a", "aac"}),
    "video": frozenset({"mp4", "webm", "mov"}),
    "text": frozenset({"txt", "md", "json", "jsonl", "csv", "srt", "vtt", "xml", "html", "svg", "gltf", "obj"}),
}
_MEDIA: Final = ("image/", "audio/", "video/")
_TEXT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """A file of a result, and by what it is shown: image, audio, video, text, or nothing."""

    index: int
    name: str
    type: str
    size: int | None
    url: str
    by: str
    here: bool  #: ours to hand out, not a file service's


def files_of(task: TaskView) -> Sequence[Shown]:
    """The files of a success; one that was taken over from an old gateway has its address alone."""
    if not task.files and task.oss_file:
        return [Shown(0, "", task.file_type or "", task.file_size, task.oss_file, "", here=False)]
    return [_shown(index, file) for index, file in enumerate(task.files)]


async def media(tools: Tools, visit: Visit) -> Response:
    """A file for the page that shows it, or to be saved. It is looked at, not fetched.

    What plays sound and video asks for parts: some play nothing without them, none can move on without them.
    """
    download = await _open(tools, visit, wanted_part(visit.request.headers))
    content = download.content
    if content is None or visit.asked("save") or not _is_media(content.media_type):
        return attachment(download)
    status, said = said_part(content)
    headers = {**SAFE, "Content-Type": content.media_type, "Content-Disposition": "inline", **said}
    return StreamingResponse(content.chunks, status, headers)


async def text(tools: Tools, visit: Visit) -> Response:
    """The beginning of a file as text, every sign of it escaped."""
    head, size, problem = b"", 0, ""
    try:
        download = await _open(tools, visit, WantedPart(0, _TEXT_BYTES - 1))
        if download.content is not None:
            size = download.content.size
            async for piece in download.content.chunks:
                head += piece
    except Refused as error:
        problem = error.message
    shown = head.decode("utf-8", "replace")
    return fragment(visit, "_result_text.html", text=shown, cut=size > _TEXT_BYTES, problem=problem)


async def _open(tools: Tools, visit: Visit, part: WantedPart | None = None) -> Download:
    return await tools.cases.results.open(visit.caller, visit.task_id(), _index(visit), fetched=False, part=part)


def _is_media(kind: str) -> bool:
    return kind.startswith(_MEDIA) and kind != "image/svg+xml"


def _index(visit: Visit) -> int:
    text_ = str(visit.request.path_params["index"])
    if not (text_.isascii() and text_.isdecimal() and len(text_) < 6):
        raise NotFound("file_unknown", "there is no such file")
    return int(text_)


def _shown(index: int, file: Mapping[str, Any]) -> Shown:
    url, kind = str(file.get("url") or ""), str(file.get("type") or "")
    by = next((by for by, kinds in _SHOWN.items() if kind in kinds), "")
    here = not url.startswith(("http://", "https://"))
    return Shown(index, str(file.get("name") or ""), kind, file.get("size"), url, by, here)
