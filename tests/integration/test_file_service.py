"""Uploads to the HTTP file service, and its faults."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from libs.common.adapters.http_client import open_http_client
from libs.common.adapters.object_storage.file_service import FileService, open_file_service
from libs.common.adapters.object_storage.put_memory import PutMemory
from libs.common.adapters.staging import Staging, open_staging
from libs.common.domain.errors import WrongSetting
from libs.common.domain.model_errors import StagedLost, UploadFailed, UploadUnauthorized
from libs.common.domain.output import ResultName, StagedFile, StoredFile
from libs.common.ports_execution import UploadCredentials
from tests.support.descriptors import no_more_files
from tests.support.stand_in_file_service import StandInFileService, stand_in_file_service
from tests.support.waiting import until

_TASK = UUID("0190a000-0000-7000-8000-000000000001")
_NAME = ResultName(7, datetime(2026, 3, 1, tzinfo=UTC), _TASK, 2)
_FILE = f"asynch_1772323200_{_TASK.hex}-2-0.png"
_PNG = b"\x89PNG\r\n\x1a\n"
_OWN = UploadCredentials("Bearer sk-canary-task", '{"tenantId":7,"userName":"\u00fc"}')


@pytest.fixture
async def service() -> AsyncIterator[StandInFileService]:
    async with stand_in_file_service() as service:
        yield service


@pytest.fixture
async def staging(tmp_path: Path) -> AsyncIterator[Staging]:
    async with open_staging(tmp_path, "local", max_file_bytes=2**26, max_total_bytes=2**30) as staging:
        yield staging


async def _staged(staging: Staging, size: int = 100) -> StagedFile:
    async with staging.create(_TASK, 2, 7) as sink:
        await sink.write((_PNG + os.urandom(1_000) * (size // 1_000 + 1))[:size])
        return await sink.commit()


async def _put(
    service: StandInFileService,
    staging: Staging,
    staged: StagedFile | None = None,
    *,
    credentials: UploadCredentials | None = _OWN,
    authorization: str = "",
    path: str = "/oss/file/uploadFile",
) -> StoredFile:
    staged = staged or await _staged(staging)
    async with open_file_service(staging, service.url, path, authorization=authorization) as uploads:
        return await uploads.put(_NAME, staged, credentials)


async def _failure(service: StandInFileService, staging: Staging, **changes: object) -> UploadFailed:
    """The error that an upload ends with; whatever it is, it shows no credentials."""
    with pytest.raises(UploadFailed) as raised:
        await _put(service, staging, **changes)  # type: ignore[arg-type]
    assert "canary" not in raised.value.message
    return raised.value


@pytest.mark.parametrize("size", [9, 70_000, 600_000, 5 * 2**20 + 3])
async def test_one_part_with_the_tasks_own_credentials(
    service: StandInFileService, staging: Staging, size: int
) -> None:
    staged = await _staged(staging, size)
    stored = await _put(service, staging, staged)
    [upload] = service.uploads
    assert (upload.part, upload.file_name, upload.content_type) == ("file", _FILE, "image/png")
    assert (upload.authorization, upload.user_info) == (_OWN.authorization, _OWN.user_info)
    assert upload.content == await staging.read(staged)
    assert stored == StoredFile(f"{service.url}/f/{_FILE}", "png", size, staged.sha256, _FILE)


async def test_headers_read_as_latin_1_go_out_as_they_came_in(service: StandInFileService, staging: Staging) -> None:
    came_in = '{"userName":"\u4e2d\u6587"}'
    received = came_in.encode().decode("latin-1")
    await _put(service, staging, credentials=UploadCredentials("", received))
    assert service.uploads[0].user_info == came_in


async def test_a_repeated_upload_has_the_same_name(service: StandInFileService, staging: Staging) -> None:
    """An answer that was lost leaves one live object, not two."""
    staged = await _staged(staging)
    service.loses_answers = True
    assert (await _failure(service, staging, staged=staged)).code == "upload_unreachable"
    service.loses_answers = False
    await _put(service, staging, staged)
    assert list(service.files) == [_FILE]
    assert len(service.uploads) == 2


# credentials


async def test_without_credentials_of_the_task_the_services_own_are_used(
    service: StandInFileService, staging: Staging
) -> None:
    for credentials in (None, UploadCredentials("", _OWN.user_info)):
        await _put(service, staging, credentials=credentials, authorization="Bearer service")
    assert [upload.authorization for upload in service.uploads] == ["Bearer service"] * 2
    assert [upload.user_info for upload in service.uploads] == ["", _OWN.user_info]


async def test_expired_credentials_fall_back_to_the_services_own(service: StandInFileService, staging: Staging) -> None:
    service.accepted = ("Bearer service",)
    await _put(service, staging, authorization="Bearer service")
    assert [upload.authorization for upload in service.uploads] == [_OWN.authorization, "Bearer service"]
    assert service.uploads[1].user_info == _OWN.user_info


async def test_refused_credentials_have_an_error_of_their_own(service: StandInFileService, staging: Staging) -> None:
    service.accepted = ("another",)
    for authorization in ("", "Bearer sk-canary-service"):
        error = await _failure(service, staging, authorization=authorization)
        assert isinstance(error, UploadUnauthorized)
        assert (error.code, error.retryable) == ("upload_unauthorized", False)
    assert len(service.uploads) == 3


@pytest.mark.parametrize("answer", [{"code": 401, "message": "no"}, {"code": 40301, "message": "no", "data": None}])
async def test_credentials_refused_inside_an_answer(
    service: StandInFileService, staging: Staging, answer: dict[str, object]
) -> None:
    service.answer = answer
    assert isinstance(await _failure(service, staging), UploadUnauthorized)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\x00b"])
async def test_credentials_that_no_header_may_have_are_not_sent(
    service: StandInFileService, staging: Staging, value: str
) -> None:
    for credentials in (UploadCredentials(f"canary{value}", ""), UploadCredentials("", f"canary{value}")):
        error = await _failure(service, staging, credentials=credentials)
        assert (error.code, error.retryable) == ("upload_credentials", False)
    assert service.uploads == []


def test_credentials_are_not_in_any_repr() -> None:
    assert "canary" not in repr(_OWN)


# faults


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ({"fileURL": ""}, "no fileURL"),
        ({"code": 0, "message": "OK", "data": {"fileURL": ""}}, "no fileURL"),
        ({"code": 0, "message": "OK", "data": None}, "no fileURL"),
        ({"fileURL": "javascript:alert(1)"}, "no absolute http address"),
        ({"fileURL": "/a/b.png"}, "no absolute http address"),
        ({"code": 500, "message": "disk full", "data": None}, "code 500: disk full"),
        ([1], "no fileURL"),
    ],
)
async def test_an_answer_without_a_result_is_tried_again_later(
    service: StandInFileService, staging: Staging, answer: object, shown: str
) -> None:
    service.answer = answer
    error = await _failure(service, staging)
    assert (error.code, error.retryable) == ("upload_answer", True)
    assert shown in error.message


async def test_an_answer_compressed_unasked_is_read(service: StandInFileService, staging: Staging) -> None:
    service.compresses = True
    assert (await _put(service, staging)).url == f"{service.url}/f/{_FILE}"
    service.answer = {"code": 500, "message": "disk full"}
    assert "code 500: disk full" in (await _failure(service, staging)).message
    service.answer = {"fileURL": "x" * 2**20}
    assert "too long" in (await _failure(service, staging)).message


@pytest.mark.parametrize("encoding", ["UTF-8", "gzip", "deflate", "br"])
async def test_an_answer_that_is_not_packed_as_it_says_is_read_as_it_is(
    service: StandInFileService, staging: Staging, encoding: str
) -> None:
    service.headers = {"Content-Encoding": encoding}
    assert (await _put(service, staging)).url == f"{service.url}/f/{_FILE}"


@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_an_answer_that_cannot_be_unpacked_is_tried_again_later(
    service: StandInFileService, staging: Staging, encoding: str
) -> None:
    service.status, service.headers = 201, {"Content-Encoding": encoding}
    assert (await _failure(service, staging)).code == "upload_answer"
    service.status = 413
    assert (await _failure(service, staging)).code == "upload_http_413"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (500, "upload_http_500", True),
        (503, "upload_http_503", True),
        (507, "upload_http_507", True),
        (404, "upload_http_404", True),
        (429, "upload_http_429", True),
        (413, "upload_http_413", False),
        (400, "upload_http_400", False),
        (301, "upload_redirected", True),
        (307, "upload_redirected", True),
        (401, "upload_unauthorized", False),
        (403, "upload_unauthorized", False),
    ],
)
async def test_statuses(service: StandInFileService, staging: Staging, status: int, code: str, retryable: bool) -> None:
    service.status = status
    service.headers = {"Location": "http://127.0.0.1:1/", "Retry-After": "9"}
    error = await _failure(service, staging)
    assert (error.code, error.retryable) == (code, retryable)
    assert error.retry_after == (9 if code.startswith("upload_http") else None)
    assert len(service.uploads) == 1


async def test_a_service_that_hangs_is_given_up(
    service: StandInFileService, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.adapters.object_storage.file_service._SECONDS", 0.2)
    service.hangs = True
    error = await _failure(service, staging)
    assert (error.code, error.retryable) == ("upload_timeout", True)


async def test_uploads_that_it_takes_slowly_do_not_fill_the_memory(
    service: StandInFileService, staging: Staging
) -> None:
    service.hangs = True
    staged = await _staged(staging, 5 * 2**20)
    memory = PutMemory(everything=8 * 2**20, of_a_tenant=8 * 2**20, patience=60)
    async with open_http_client(None) as session:
        uploads = FileService(session, staging, service.url, "/oss/file/uploadFile", memory=memory)
        puts = [asyncio.create_task(uploads.put(replace(_NAME, index=index), staged, _OWN)) for index in range(5)]
        await until(lambda: service.under_way == 2)
        await asyncio.sleep(0.1)
        assert service.under_way == 2
        service.hangs = False
        service.released.set()
        assert len({stored.url for stored in await asyncio.gather(*puts)}) == 5


async def test_a_service_out_of_reach(service: StandInFileService, staging: Staging, unused_tcp_port: int) -> None:
    service.url = f"http://127.0.0.1:{unused_tcp_port}"
    error = await _failure(service, staging)
    assert (error.code, error.message) == ("upload_unreachable", "the file service: connection refused")


@pytest.mark.parametrize("size", [100, 5 * 2**20])
async def test_a_refusal_before_the_body_was_read(service: StandInFileService, staging: Staging, size: int) -> None:
    service.refuses_early = True
    error = await _failure(service, staging, staged=await _staged(staging, size))
    assert error.code in ("upload_http_413", "upload_unreachable")  # whichever the kernel delivers first


async def test_an_acceptance_before_the_body_was_sent_is_none(service: StandInFileService, staging: Staging) -> None:
    """Whatever the service has by then, it is not the file; and the staged output would be deleted."""
    service.accepts_early = True
    staged = await _staged(staging, 32 * 2**20)
    error = await _failure(service, staging, staged=staged)
    assert (error.code, error.retryable) == ("upload_answer", True)
    assert "before it had the whole file" in error.message
    service.answer = {"code": 401, "message": "expired"}
    assert (await _failure(service, staging, staged=staged)).code == "upload_unauthorized"


async def test_another_path(service: StandInFileService, staging: Staging) -> None:
    assert (await _failure(service, staging, path="/elsewhere")).code == "upload_http_404"


@pytest.mark.parametrize("url", ["", "oss", "ftp://oss", "http://user@oss"])
async def test_an_unusable_url_stops_the_process_and_names_the_setting(staging: Staging, url: str) -> None:
    with pytest.raises(WrongSetting, match="SLUICEWAY_OSS_URL"):
        await open_file_service(staging, url, "/x").__aenter__()


@pytest.mark.parametrize("size", [20_000, 5 * 2**20])
async def test_what_is_not_as_it_was_staged_never_arrives_whole(
    service: StandInFileService, staging: Staging, size: int
) -> None:
    staged = await _staged(staging, size)
    path = staging.root / staged.reference.partition(":")[2]
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(StagedLost):
        await _put(service, staging, staged)
    assert service.files == {}


async def test_an_executor_without_descriptors_has_not_lost_the_output(
    service: StandInFileService, staging: Staging
) -> None:
    staged = await _staged(staging, 70_000)
    async with open_file_service(staging, service.url, "/x") as uploads:
        with no_more_files(), pytest.raises(UploadFailed, match="Too many open files") as failure:
            await uploads.put(_NAME, staged, _OWN)
    assert (failure.value.code, failure.value.retryable) == ("upload_unreachable", True)
