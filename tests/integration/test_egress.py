"""The egress guard where it matters: at the dialled address, of real connections."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from libs.common.adapters.egress import EgressGuard
from libs.common.adapters.models.plain_http import open_plain_http
from libs.common.adapters.staging import Staging, open_staging
from libs.common.domain.model_errors import EgressRefused, ModelError
from libs.common.ports_execution import ModelCall
from tests.support.misbehaving_model import MisbehavingModel
from tests.support.misbehaving_model import misbehaving_model as open_model


@pytest.fixture
async def model() -> AsyncIterator[MisbehavingModel]:
    async with open_model() as model:
        yield model


@pytest.fixture
async def staging(tmp_path: Path) -> AsyncIterator[Staging]:
    async with open_staging(tmp_path, "local", max_file_bytes=2**20, max_total_bytes=2**30) as staging:
        yield staging


def _port(model: MisbehavingModel) -> int:
    return int(model.url.rpartition(":")[2])


async def _call(allow: str, url: str, staging: Staging) -> int:
    call = ModelCall(base_url=url, route="ok", method="POST", payload=b"{}", timeout_seconds=5)
    async with (
        open_plain_http(EgressGuard.from_setting(allow), 2**20) as adapter,
        staging.create(uuid4(), 1, 7) as sink,
    ):
        return (await adapter.invoke(call, sink)).size


def _resolves_to(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> None:
    """Names of this test's own; the guard and the client ask for them as for any other."""

    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        addresses = names.get(host, [host] if host[0].isdigit() else [])
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


async def test_a_private_address_is_refused_for_good_and_hears_nothing(
    model: MisbehavingModel, staging: Staging
) -> None:
    with pytest.raises(EgressRefused, match=f"SLUICEWAY_EGRESS_ALLOW=127.0.0.1:{_port(model)}$") as refusal:
        await _call("", model.url, staging)
    assert (refusal.value.code, refusal.value.retryable) == ("egress_refused", False)
    assert model.connections == 0


@pytest.mark.parametrize("allow", ["127.0.0.0/8", "127.0.0.1", "127.0.0.1:{port}", "::1,127.0.0.0/8:{port}"])
async def test_a_listed_address_is_called(model: MisbehavingModel, staging: Staging, allow: str) -> None:
    assert await _call(allow.format(port=_port(model)), model.url, staging) == 64


@pytest.mark.parametrize("allow", ["10.0.0.0/8", "127.0.0.1:1", "localhost"])
async def test_an_entry_for_something_else_opens_nothing(model: MisbehavingModel, staging: Staging, allow: str) -> None:
    with pytest.raises(EgressRefused):
        await _call(allow, model.url, staging)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "localhost"])
async def test_no_other_spelling_gets_through(model: MisbehavingModel, staging: Staging, host: str) -> None:
    with pytest.raises(EgressRefused):
        await _call("", f"http://{host}:{_port(model)}", staging)
    assert model.connections == 0


async def test_a_name_that_resolves_to_this_machine_is_refused(
    model: MisbehavingModel, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resolves_to(monkeypatch, {"model.example": ["127.0.0.1"]})
    url = f"http://model.example:{_port(model)}"
    with pytest.raises(EgressRefused) as refusal:
        await _call("", url, staging)
    assert "127.0.0.1" not in refusal.value.message
    assert await _call(f"model.example:{_port(model)}", url, staging) == 64


async def test_a_listed_name_opens_its_address_under_that_name_only(
    model: MisbehavingModel, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resolves_to(monkeypatch, {"listed.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    assert await _call("listed.example", f"http://listed.example:{_port(model)}", staging) == 64
    for host in ("other.example", "127.0.0.1"):
        with pytest.raises(EgressRefused):
            await _call("listed.example", f"http://{host}:{_port(model)}", staging)


async def test_a_name_with_a_private_and_a_public_address_reaches_only_the_public_one(
    model: MisbehavingModel, staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second address is public by the list of this test and refuses the connection: that is no refusal of ours."""
    _resolves_to(monkeypatch, {"mixed.example": ["127.0.0.1", "127.0.0.2"]})
    with pytest.raises(ModelError) as error:
        await _call("127.0.0.2", f"http://mixed.example:{_port(model)}", staging)
    assert (error.value.code, error.value.retryable) == ("model_unreachable", True)
    assert model.connections == 0


@pytest.mark.parametrize("address", ["169.254.169.254", "168.63.129.16", "100.100.100.200"])
async def test_metadata_is_refused_under_any_list(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    _resolves_to(monkeypatch, {"metadata.google.internal": [address]})
    for host in (address, "metadata.google.internal"):
        with pytest.raises(EgressRefused):
            await _call("0.0.0.0/0,::/0,metadata.google.internal", f"http://{host}", staging)


async def test_saving_looks_the_name_up(monkeypatch: pytest.MonkeyPatch) -> None:
    _resolves_to(
        monkeypatch,
        {"inner.example": ["10.0.0.1"], "outer.example": ["8.8.8.8"], "both.example": ["10.0.0.1", "8.8.8.8"]},
    )
    guard = EgressGuard()
    for url in ("http://outer.example", "http://both.example", "http://unknown.example", "http://8.8.8.8"):
        await guard.check_resolved(url)
    for url in ("http://inner.example", "http://10.0.0.1", "http://localhost"):
        with pytest.raises(EgressRefused):
            await guard.check_resolved(url)
    await EgressGuard(["inner.example"]).check_resolved("http://inner.example")


async def test_an_unlistening_resolver_does_not_hold_up_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, resolve = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **named: Any) -> Any:
        if host == "slow.example":
            answered.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return resolve(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("libs.common.adapters.egress._RESOLVE_SECONDS", 0.05)
    guard = EgressGuard()
    try:
        await asyncio.gather(*(guard.check_resolved("http://slow.example") for _ in range(100)))
        async with asyncio.timeout(3):
            await asyncio.get_running_loop().getaddrinfo("localhost", 80)  # as for a server of ours
    finally:
        answered.set()
