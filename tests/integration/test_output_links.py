"""Outputs behind links of a server that breaks every rule, and what of it gets into staging: all or nothing."""

from __future__ import annotations

import base64
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import structlog

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models import output_links
from libs.common.adapters.models.output_links import open_output_links
from libs.common.adapters.staging import Staging, open_staging
from libs.common.domain.model_errors import ModelError
from libs.common.domain.output import IN_DATABASE, StagedFile
from libs.common.ports_jobs import JobOutput
from services.executor import collecting
from services.executor.calls import ModelHeaders
from services.executor.collecting import OutputCollector
from tests.support.misbehaving_model import PNG, MisbehavingModel, answer, chunked, gzip_bomb
from tests.support.misbehaving_model import misbehaving_model as open_model

LIMIT = 2**20
KEY = "sk-canary-0123456789"
SIGNED = "X-Amz-Signature=canary-signature"


class Provider:
    """A collector over real staging; the provider's files lie on one server, its own address is another."""

    def __init__(self, files: MisbehavingModel, own: MisbehavingModel, staging: Staging, collector: OutputCollector):
        self.files, self.own, self.staging, self.collector = files, own, staging, collector

    def link(self, path: str) -> JobOutput:
        """A signed link to one of its files."""
        return JobOutput(url=f"{self.files.url}/{path}{'&' if '?' in path else '?'}{SIGNED}")

    async def collect(self, *outputs: JobOutput | str) -> list[StagedFile]:
        model = SimpleNamespace(id=1, tenant_id=7, bindings=f"X-API-Key:{KEY}".encode(), base_url=f"{self.own.url}/v1")
        attempt = SimpleNamespace(public_id=uuid4(), number=1, tenant_id=7)
        run: Any = SimpleNamespace(attempt=attempt, model=model)
        links = [self.link(output) if isinstance(output, str) else output for output in outputs]
        return list(await self.collector.collect(run, links))

    async def contents(self, *outputs: JobOutput | str) -> list[bytes]:
        return [await self.staging.read(file) for file in await self.collect(*outputs)]

    async def refused(self, *outputs: JobOutput | str, leaves: int = 0) -> ModelError:
        """The error that collecting ends with: it shows no secret and leaves nothing more in staging."""
        with pytest.raises(ModelError) as raised, structlog.testing.capture_logs() as logs:
            await self.collect(*outputs)
        shown = repr(raised.value) + raised.value.message + repr(logs)
        assert KEY not in shown
        assert "canary" not in shown
        assert len(await self.staging.entries()) == leaves
        return raised.value


@pytest.fixture
async def files() -> AsyncIterator[MisbehavingModel]:
    async with open_model() as server:
        yield server


@pytest.fixture
async def own() -> AsyncIterator[MisbehavingModel]:
    async with open_model("127.0.0.2") as server:
        yield server


@pytest.fixture
async def staging(tmp_path: Path) -> AsyncIterator[Staging]:
    async with open_staging(tmp_path / "staging", "local", max_file_bytes=2 * LIMIT, max_total_bytes=2**30) as staging:
        yield staging


@pytest.fixture
async def provider(
    files: MisbehavingModel, own: MisbehavingModel, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Provider]:
    monkeypatch.setattr(collecting, "_FIRST_PAUSE", 0.01)
    headers = ModelHeaders(lambda sealed, _owner: sealed)
    guard = EgressGuard(["127.0.0.1/32", "127.0.0.2/32"])
    async with open_output_links(guard, LIMIT) as links:
        yield Provider(files, own, staging, OutputCollector(links, staging, headers, seconds=5))


async def test_links_inline_contents_and_data_urls_are_staged_in_order(provider: Provider) -> None:
    provider.files.answers["/a.bin"] = answer(b"a" * 40_000, Content_Type="application/octet-stream")
    encoded = base64.b64encode(PNG).decode()
    outputs = [
        JobOutput(content=b"inline", content_type="text/plain"),
        JobOutput(url=f"data:image/png;base64,{encoded}"),
    ]
    staged = await provider.collect("a.bin", *outputs, "ok")
    assert [await provider.staging.read(file) for file in staged] == [b"a" * 40_000, b"inline", PNG, PNG]
    assert [file.file_type for file in staged] == ["txt", "txt", "png", "png"]
    # of several, each is a file that only its bytes gave a name
    assert len(await provider.staging.entries()) == 4
    assert all(file.reference.startswith("local:") and "a.bin" not in file.reference for file in staged)


async def test_one_small_output_is_kept_in_the_database(provider: Provider) -> None:
    (staged,) = await provider.collect("ok")
    assert (staged.reference, staged.content) == (IN_DATABASE, PNG)


async def test_a_link_is_asked_with_its_query_and_without_its_fragment(provider: Provider) -> None:
    await provider.collect(JobOutput(url=f"{provider.files.url}/ok?a=%2F&{SIGNED}#part"))
    assert provider.files.seen[0].target == f"/ok?a=%2F&{SIGNED}"


async def test_only_the_models_own_address_sees_its_headers(provider: Provider) -> None:
    provider.files.answers["/back"] = answer(status="302 Found", Location=f"{provider.own.url}/ok")
    provider.own.answers["/away"] = answer(status="302 Found", Location=f"{provider.files.url}/ok")
    await provider.collect(
        "ok", "back", JobOutput(url=f"{provider.own.url}/ok"), JobOutput(url=f"{provider.own.url}/away")
    )
    assert {seen.header("x-api-key") for seen in provider.files.seen} == {None}
    assert {seen.header("x-api-key") for seen in provider.own.seen} == {KEY}
    assert len(provider.own.seen) == 3


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirects_are_followed(provider: Provider, status: str) -> None:
    provider.files.answers["/elsewhere"] = answer(status=status, Location="/ok?x=1")
    assert await provider.contents("elsewhere") == [PNG]


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.3:1/latest/meta-data", "egress_refused"),
        ("http://169.254.169.254/latest/meta-data", "egress_refused"),
        ("http://[::1]/", "egress_refused"),
        ("file:///etc/passwd", "output_redirect_refused"),
        ("http://user:pass@127.0.0.1/", "output_redirect_refused"),
        ("", "output_redirect_refused"),
        ("/loop", "output_redirect_refused"),
    ],
)
async def test_a_redirect_goes_nowhere_that_a_link_could_not(provider: Provider, location: str, code: str) -> None:
    provider.files.answers["/loop"] = answer(status="302 Found", Location=location)
    error = await provider.refused("ok", "loop")
    assert (error.code, error.retryable) == (code, False)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    endpoint = output_links.parse_endpoint("https://files.example/a?secret")
    response: Any = SimpleNamespace(status=302, headers={"Location": "http://files.example/a?secret"})
    with pytest.raises(ModelError, match=r"from https to http://files\.example, not followed") as raised:
        output_links._target(endpoint, response)
    assert raised.value.code == "output_redirect_refused"


@pytest.mark.parametrize(
    ("link", "code"),
    [
        ("http://127.0.0.3:1/a", "egress_refused"),
        ("http://169.254.169.254/a", "egress_refused"),
        ("http://0x7f000003:1/", "egress_refused"),
        ("file:///etc/passwd", "bad_output"),
        ("ftp://files.example/a", "bad_output"),
        ("http://user:pass@files.example/", "bad_output"),
        ("//files.example/a", "bad_output"),
        ("/a", "bad_output"),
        ("", "bad_output"),
        ("https://files.example/" + "a" * 5_000, "bad_output"),
        ("data:image/png;base64,iVBORw0KGgo*", "bad_output"),
        ("data:image/png;base64,iVBOR", "bad_output"),
        ("data:nonsense", "bad_output"),
        ("data:text/plain,", "empty_output"),
    ],
)
async def test_what_is_no_link_to_anything_public_is_refused(provider: Provider, link: str, code: str) -> None:
    error = await provider.refused("ok", JobOutput(url=link))
    assert (error.code, error.retryable) == (code, False)
    assert error.message.startswith("output 2 of 2: ")


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_an_expired_link_is_an_error_of_its_own_and_asked_once(provider: Provider, status: int) -> None:
    provider.files.answers["/gone"] = answer(b"<Error>canary</Error>", f"{status} No")
    error = await provider.refused("gone")
    assert (error.code, error.retryable) == ("output_link_expired", False)
    assert len(provider.files.seen) == 1


async def test_a_link_that_expires_between_two_tries_says_so(provider: Provider) -> None:
    provider.files.turns["/once"] = [answer(b"no", "503 No"), answer(b"no", "404 Not Found")]
    assert (await provider.refused("once")).code == "output_link_expired"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (answer(b"no", "401 No"), "output_http_401"),
        (answer(b"no", "418 No"), "output_http_418"),
        (answer(b"part", "206 Partial"), "output_http_206"),
        (answer(), "empty_output"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "empty_output"),
        (answer(gzip.compress(b""), Content_Encoding="gzip"), "empty_output"),
        (answer(b"x" * (LIMIT + 1)), "output_too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000000000\r\n\r\nx", "output_too_large"),
        (chunked(*(b"x" * 65_536 for _ in range(17))), "output_too_large"),
        (answer(gzip_bomb(8), Content_Encoding="gzip"), "output_too_large"),
        (answer(b"no gzip", Content_Encoding="gzip"), "bad_output"),
        (answer(b"x", Content_Encoding="br"), "bad_output"),
        (answer(b"x", Content_Encoding="gzip, gzip"), "bad_output"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "bad_output"),
    ],
)
async def test_what_will_not_get_better_is_asked_once(provider: Provider, raw: bytes, code: str) -> None:
    provider.files.answers["/x"] = raw
    error = await provider.refused("x")
    assert (error.code, error.retryable) == (code, False)
    assert len(provider.files.seen) == 1


@pytest.mark.parametrize(
    "first",
    [
        answer(b"busy", "503 Busy"),
        answer(b"slow", "429 Slow", Retry_After="0"),
        answer(b"early", "425 Early"),
        None,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nConnection: close\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nhello\r\n",
    ],
)
async def test_a_passing_failure_is_tried_again_for_that_file_alone(provider: Provider, first: bytes | None) -> None:
    provider.files.turns["/shaky"] = [first, first, answer(PNG, Connection="close")]
    assert await provider.contents("ok", "shaky") == [PNG, PNG]
    asked = [seen.target.partition("?")[0] for seen in provider.files.seen]
    assert (asked.count("/ok"), asked.count("/shaky")) == (1, 3)


@pytest.mark.parametrize("path", ["drip", "hang", "drip-head", "reset", "reset-inside", "chunk-cut", "interim-flood"])
async def test_the_time_for_all_bounds_whatever_a_server_does(provider: Provider, path: str) -> None:
    provider.collector._seconds = 0.3
    error = await provider.refused("ok", path)
    assert (error.code, error.retryable) == ("output_timeout", True)


async def test_a_body_without_an_end_is_cut_at_the_limit(provider: Provider) -> None:
    assert (await provider.refused("flood")).code == "output_too_large"
    await provider.files.until_idle()


@pytest.mark.parametrize("last", ["link", "data URL", "content"])
async def test_outputs_that_staging_could_never_hold_together_are_too_large(provider: Provider, last: str) -> None:
    """Each is small enough, and each found room: they were fetched anew until their task's time was up."""
    provider.files.answers["/half"] = answer(b"a" * 40_000, Content_Type="application/octet-stream")
    provider.staging.max_set_bytes = 80_010
    outputs = {
        "link": JobOutput(url=f"{provider.files.url}/ok"),
        "data URL": JobOutput(url="data:text/plain,more-than-ten"),
        "content": JobOutput(content=b"more-than-ten"),
    }
    await provider.collect("half", "half")
    error = await provider.refused("half", "half", outputs[last], leaves=2)
    assert (error.code, error.retryable) == ("output_too_large", False)
    assert "the outputs together are larger than 80010 bytes" in error.message


async def test_a_server_that_falls_silent_is_asked_again(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_links, "_SILENCE_SECONDS", 0.05)
    provider.files.turns["/silent"] = [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", answer(PNG)]
    assert await provider.contents("silent") == [PNG]


async def test_what_is_longer_than_it_says_is_not_taken(provider: Provider) -> None:
    provider.files.answers["/long"] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more"
    assert (await provider.refused("long")).code == "bad_output"


async def test_a_compressed_answer_is_unpacked(provider: Provider) -> None:
    provider.files.answers["/packed"] = answer(gzip.compress(PNG), Content_Encoding="gzip")
    assert await provider.contents("packed") == [PNG]


async def test_a_page_that_calls_itself_an_image_is_no_image(provider: Provider) -> None:
    provider.files.answers["/page"] = answer(b"<!doctype html><html></html>", Content_Type="image/png")
    provider.files.answers["/svg"] = answer(b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>')
    assert [file.file_type for file in await provider.collect("page", "svg")] == ["html", "svg"]
