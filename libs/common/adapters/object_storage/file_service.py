"""Results at the HTTP file service: one multipart upload, its answer's fileURL is the result."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Final

from aiohttp import ClientError, ClientResponse, ClientSession
from multidict import CIMultiDict
from yarl import URL

from libs.common.adapters.foreign_text import Cleaner
from libs.common.adapters.http_client import Broken, open_http_client
from libs.common.adapters.models.decoding import decoder_for
from libs.common.adapters.models.refusals import connection_error, retry_after
from libs.common.adapters.object_storage.put_memory import PutMemory
from libs.common.adapters.object_storage.upload_answer import ANSWER_BYTES, NotAccepted, read_answer
from libs.common.adapters.staging import CHUNK_BYTES, Staging
from libs.common.domain.endpoint import InvalidEndpoint, join_endpoint
from libs.common.domain.errors import WrongSetting
from libs.common.domain.model_errors import ModelError, StagedLost, UploadFailed, UploadUnauthorized
from libs.common.domain.output import ResultName, StagedFile, StoredFile
from libs.common.ports_execution import UploadCredentials

_WHO: Final = "the file service"
_SECONDS: Final = 60.0
_BYTES_PER_SECOND: Final = 1024 * 1024  #: what the slowest link that we wait for carries
#: What an upload of any size has in memory meanwhile: a chunk that is sent, one that is held back, one that is read.
_MEMORY_BYTES: Final = 4 * CHUNK_BYTES
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: The same file will not be taken tomorrow either. Anything else may be a service that is down or set up wrongly.
_FINAL_STATUSES: Final = frozenset({400, 413, 415, 422})


class FileService:
    """Uploads staged outputs with the credentials of the task, then with the service's own if it has one.

    The file's name depends on task and attempt alone, so an upload whose answer was lost is replaced by the next one.
    """

    def __init__(
        self,
        session: ClientSession,
        staging: Staging,
        url: str,
        path: str,
        *,
        authorization: str = "",
        memory: PutMemory | None = None,
    ) -> None:
        self._session = session
        self._memory = memory or PutMemory()
        self._staging = staging
        self._url = upload_address(url, path)
        self._authorization = authorization

    async def put(self, name: ResultName, staged: StagedFile, credentials: UploadCredentials | None) -> StoredFile:
        """Upload once with each credential there is, until one is accepted.

        Raises UploadFailed, UploadUnauthorized when none is, and StagedLost.
        """
        with await self._memory.hold(name.tenant_id, min(staged.size, _MEMORY_BYTES)):
            return await self._put(name.file_name(staged.file_type), staged, credentials or UploadCredentials())

    async def _put(self, file_name: str, staged: StagedFile, given: UploadCredentials) -> StoredFile:
        for authorization in self._authorizations(given):
            shown = UploadCredentials(authorization, given.user_info)
            try:
                async with asyncio.timeout(_SECONDS + staged.size / _BYTES_PER_SECOND):
                    return await self._upload(file_name, staged, shown)
            except NotAccepted:
                continue
            except TimeoutError:
                raise UploadFailed("upload_timeout", f"{_WHO} did not answer in time", retryable=True) from None
        raise UploadUnauthorized(
            f"{_WHO} accepts neither the task's credentials nor the service's own (SLUICEWAY_OSS_AUTHORIZATION)"
            if given.authorization
            else f"{_WHO} wants credentials: the task has none, SLUICEWAY_OSS_AUTHORIZATION is not accepted or not set"
        )

    def _authorizations(self, given: UploadCredentials) -> list[str]:
        """The task's, then the service's; without either the file service may still take uploads from anybody."""
        return list(dict.fromkeys(filter(None, (given.authorization, self._authorization)))) or [""]

    async def _upload(self, file_name: str, staged: StagedFile, shown: UploadCredentials) -> StoredFile:
        body = _Multipart(self._staging, staged, file_name)
        cleaner = Cleaner.of((shown.authorization, shown.user_info))
        response = await self._send(body, _headers(body, shown))
        try:
            answer = await _whole(response)
        finally:
            response.close()
        status = response.status
        if status in (401, 403):
            raise NotAccepted
        if 200 <= status < 300:
            stored = read_answer(answer, staged, file_name, cleaner)
            if not body.sent:  # aiohttp stops sending with the answer's end
                why = f"{_WHO} answered before it had the whole file"
                raise UploadFailed("upload_answer", why, retryable=True)
            return stored
        if 300 <= status < 400:
            raise UploadFailed("upload_redirected", f"{_WHO} redirects ({status}): check its address", retryable=True)
        raise UploadFailed(
            f"upload_http_{status}",
            f"{_WHO} answered {status}: {cleaner.clean(answer)}",
            retryable=status not in _FINAL_STATUSES,
            retry_after=retry_after(response.headers, datetime.now(UTC)),
        )

    async def _send(self, body: _Multipart, headers: CIMultiDict[str]) -> ClientResponse:
        try:
            return await self._session.request(
                "POST", self._url, data=await body.content(), headers=headers, allow_redirects=False
            )
        except OSError as error:  # of staging: the client's own leave as Broken
            why = f"the staged output cannot be read now: {error.strerror}"
            raise UploadFailed("upload_unreachable", why, retryable=True) from None
        except (Broken, ClientError) as error:
            if body.lost is not None:
                raise body.lost from None
            raise UploadFailed("upload_unreachable", connection_error(_WHO, error).message, retryable=True) from None


@asynccontextmanager
async def open_file_service(
    staging: Staging, url: str, path: str, *, authorization: str = ""
) -> AsyncIterator[FileService]:
    """The store on a session of its own, which knows no egress guard: operators set its address."""
    async with open_http_client(None) as session:
        yield FileService(session, staging, url, path, authorization=authorization)


def upload_address(url: str, path: str) -> URL:
    """Where files are sent; raises WrongSetting where SLUICEWAY_OSS_URL and SLUICEWAY_OSS_PATH are no address."""
    try:
        return URL(join_endpoint(url, path).url, encoded=True)
    except InvalidEndpoint as error:
        raise WrongSetting(f"SLUICEWAY_OSS_URL and SLUICEWAY_OSS_PATH: {error.message}") from None


class _Multipart:
    """A body of one part, `file`: small ones in memory, larger ones as they are read from staging."""

    def __init__(self, staging: Staging, staged: StagedFile, file_name: str) -> None:
        self._staging = staging
        self._staged = staged
        boundary = os.urandom(16).hex()
        self._head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
            f"Content-Type: {staged.mime}\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self.size = len(self._head) + staged.size + len(self._tail)
        self.sent = False  #: whether aiohttp has taken all of it
        self.lost: StagedLost | None = None  #: why the body broke off: aiohttp does not tell

    async def content(self) -> bytes | AsyncIterator[bytes]:
        """Raises StagedLost at once for a small output, and in the middle of the request for a large one."""
        if self._staged.size <= CHUNK_BYTES // 2:
            whole = self._head + await self._staging.read(self._staged) + self._tail
            self.sent = True
            return whole
        return self._stream()

    async def _stream(self) -> AsyncIterator[bytes]:
        yield self._head
        try:
            async with aclosing(self._staging.chunks(self._staged)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except StagedLost as error:
            self.lost = error
            raise
        yield self._tail
        self.sent = True


def _headers(body: _Multipart, shown: UploadCredentials) -> CIMultiDict[str]:
    headers = CIMultiDict(
        {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Length": str(body.size),
            "Content-Type": body.content_type,
            "User-Agent": "sluiceway",
        }
    )
    for name, value in (("Authorization", shown.authorization), ("X-User-Info", shown.user_info)):
        if _CONTROL.search(value):
            raise UploadFailed("upload_credentials", f"{name} has characters that no header may have", retryable=False)
        if value:
            headers[name] = _as_received(value)
    return headers


def _as_received(value: str) -> str:
    """Headers that held UTF-8 are read as Latin-1 by servers; aiohttp writes UTF-8, so they must be read back first."""
    try:
        return value.encode("latin-1").decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        return value


async def _whole(response: ClientResponse) -> bytes:
    """The answer as it was meant, or as it came where it is not packed as it says; of a long one so much as says so."""
    answer = b""
    try:
        while len(answer) <= ANSWER_BYTES and (chunk := await response.content.readany()):
            answer += chunk
    except (ClientError, OSError) as error:
        raise UploadFailed("upload_unreachable", connection_error(_WHO, error).message, retryable=True) from None
    with suppress(ModelError):
        return _unpacked(answer, response.headers.getall("Content-Encoding", ()))
    return answer


def _unpacked(answer: bytes, encodings: Sequence[str]) -> bytes:
    decoder = decoder_for(encodings)
    if decoder is None or not answer:
        return answer
    unpacked = b""
    for piece in decoder.decode(answer):
        unpacked += piece
        if len(unpacked) > ANSWER_BYTES:
            break
    return unpacked
