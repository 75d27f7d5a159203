"""Which addresses tenants may make us call: the rules, without a network."""

from __future__ import annotations

import ipaddress
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.egress import BadAllowList, EgressGuard
from libs.common.domain.endpoint import InvalidEndpoint, parse_endpoint
from libs.common.domain.model_errors import EgressRefused

_CLOSED = EgressGuard()

_PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "169.254.1.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "192.0.0.8",
    "198.18.0.1",
    "203.0.113.9",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "100::1",
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
]
_PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::200e"]
_PUBLIC += ["64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", _PRIVATE)
def test_what_is_not_public_is_not_dialled(address: str) -> None:
    assert not _CLOSED.permits("model.example", address, 80)


@pytest.mark.parametrize("address", _PUBLIC)
def test_what_is_public_is_dialled(address: str) -> None:
    assert _CLOSED.permits("model.example", address, 80)


@given(st.ip_addresses(v=4))
def test_whatever_python_calls_private_is_not_dialled(address: ipaddress.IPv4Address) -> None:
    """Python's own table differs between patch releases, but what it calls private, multicast or reserved stays so."""
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert not _CLOSED.permits("model.example", str(address), 80)


@given(st.ip_addresses(v=6))
def test_nothing_outside_the_public_range_of_version_6_is_dialled(address: ipaddress.IPv6Address) -> None:
    if _CLOSED.permits("model.example", str(address), 80) and address.ipv4_mapped is None:
        assert address in ipaddress.ip_network("2000::/3") or address in ipaddress.ip_network("64:ff9b::/96")


@pytest.mark.parametrize(
    ("entry", "allowed", "refused"),
    [
        ("10.0.0.0/8", [("h", "10.9.9.9", 1)], [("h", "11.0.0.1", 1, True), ("h", "192.168.0.1", 1)]),
        ("10.0.0.0/8:8000", [("h", "10.9.9.9", 8000)], [("h", "10.9.9.9", 8001)]),
        ("10.0.0.7", [("h", "10.0.0.7", 1)], [("h", "10.0.0.8", 1)]),
        ("10.0.0.7:81", [("h", "10.0.0.7", 81), ("h", "::ffff:10.0.0.7", 81)], [("h", "10.0.0.7", 80)]),
        ("::1", [("h", "::1", 1)], [("h", "127.0.0.1", 1)]),
        ("[::1]:81", [("h", "::1", 81)], [("h", "::1", 80)]),
        ("fd00::/8", [("h", "fd00::1", 1)], [("h", "fe80::1", 1), ("h", "fd00:ec2::254", 1)]),
        ("[fd00::/8]:81", [("h", "fd00::1", 81)], [("h", "fd00::1", 80)]),
        ("Models.Internal", [("models.internal.", "10.0.0.1", 1)], [("other", "10.0.0.1", 1)]),
        ("models:81", [("models", "10.0.0.1", 81)], [("models", "10.0.0.1", 80), ("a.models", "10.0.0.1", 81)]),
        ("models", [("models", "127.0.0.1", 1)], [("models", "169.254.169.254", 1), ("10.0.0.1", "10.0.0.1", 1)]),
        ("0.0.0.0/0", [("h", "127.0.0.1", 1)], [("h", "169.254.169.254", 80), ("h", "168.63.129.16", 80)]),
        ("169.254.0.0/16", [("h", "169.254.1.1", 1)], [("h", "169.254.169.254", 80)]),
        ("169.254.169.254", [("h", "169.254.169.254", 80), ("h", "64:ff9b::a9fe:a9fe", 80)], [("h", "127.0.0.1", 80)]),
    ],
)
def test_what_a_list_opens(
    entry: str, allowed: list[tuple[str, str, int]], refused: list[tuple[str, str, int] | tuple[str, str, int, bool]]
) -> None:
    guard = EgressGuard.from_setting(f" , {entry} ,")
    for host, address, port in allowed:
        assert guard.permits(host, address, port)
    for host, address, port, *public in refused:
        assert guard.permits(host, address, port) is bool(public)


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/33", "http://x", "a b", "-", "1.2.3", "x:0", "x:70000", "[::1", "a/b", "*"]
)
def test_an_unreadable_list_stops_the_process_and_names_the_setting(entry: str) -> None:
    with pytest.raises(BadAllowList, match="SLUICEWAY_EGRESS_ALLOW"):
        EgressGuard.from_setting(entry)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://127.1",
        "http://2130706433",
        "http://0x7f000001",
        "http://0177.0.0.1",
        "http://[::1]:8000",
        "http://[::ffff:127.0.0.1]",
        "http://[::ffff:7f00:1]",
        "http://[64:ff9b::10.0.0.1]",
        "http://10.0.0.1:8080/v1",
        "http://localhost",
        "http://LOCALHOST.:8000",
        "http://a.localhost",
        "http://169.254.169.254/latest/meta-data",
        "http://metadata.google.internal/computeMetadata",
        "http://0",
    ],
)
def test_private_addresses_are_refused_when_saved(url: str) -> None:
    with pytest.raises(EgressRefused, match="SLUICEWAY_EGRESS_ALLOW=") as refusal:
        _CLOSED.check_url(url)
    assert refusal.value.code == "egress_refused"
    assert not refusal.value.retryable


@pytest.mark.parametrize("url", ["http://8.8.8.8", "https://model.example/v1", "http://models.internal:8000"])
def test_other_addresses_are_accepted_when_saved(url: str) -> None:
    _CLOSED.check_url(url)


def test_the_refusal_says_what_to_set() -> None:
    """Following the advice opens exactly that."""
    for url in ("http://10.0.0.1:8080/v1", "http://[fd00::1]", "http://localhost:81", "http://169.254.169.254"):
        with pytest.raises(EgressRefused) as refusal:
            _CLOSED.check_url(url)
        EgressGuard.from_setting(refusal.value.message.rpartition("=")[2]).check_url(url)


def test_metadata_is_refused_under_a_listed_range_and_name() -> None:
    guard = EgressGuard.from_setting("0.0.0.0/0,metadata.google.internal")
    for url in ("http://169.254.169.254", "http://metadata.google.internal", "http://[::ffff:169.254.169.254]"):
        with pytest.raises(EgressRefused, match="metadata"):
            guard.check_url(url)


def test_a_saved_localhost_needs_one_of_its_addresses_or_its_name() -> None:
    for setting in ("localhost", "127.0.0.0/8", "::1", "localhost:81"):
        EgressGuard.from_setting(setting).check_url("http://localhost:81")
    with pytest.raises(EgressRefused):
        EgressGuard.from_setting("localhost:82").check_url("http://localhost:81")


@given(st.ip_addresses(v=4), st.integers(0, 3))
def test_no_notation_of_an_address_gets_around_the_guard(address: ipaddress.IPv4Address, notation: int) -> None:
    number = int(address)
    host = [str(number), hex(number), f"[::ffff:{address}]", f"{number >> 24}.{number & 0xFFFFFF}"][notation]
    try:
        endpoint = parse_endpoint(f"http://{host}/")
    except InvalidEndpoint:
        return
    assert _CLOSED.permits(host, endpoint.host, 80) == _CLOSED.permits(host, str(address), 80)


async def test_names_that_no_thread_can_ask_for_are_judged_when_they_are_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(100):
            await _CLOSED.check_resolved("http://inside.example/")
    with pytest.raises(EgressRefused):
        await _CLOSED.check_resolved("http://inside.example/")
