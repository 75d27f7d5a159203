"""Whom a request is believed to come from."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, cast

import pytest

from libs.common.domain.errors import WrongSetting
from libs.common.ports_tasks import Credentials, KeyOwner
from services.api.auth import Callers
from services.api.identity import (
    Identity,
    TrustedPeers,
    default_identity,
    names_of,
    tenants_of,
)
from services.api.problems import Problem
from services.api.user_info import UserInfoReader

KEY = b"sw_" + b"k" * 43
OWNER = KeyOwner(1, 7, "shop", frozenset({"read"}))
INFO = b'{"tenantId":"9","userName":"ann"}'
NEAR, FAR = "10.1.2.3", "192.0.2.1"


class Keys:
    async def find(self, digest: bytes) -> KeyOwner | None:
        return OWNER if digest == sha256(KEY).digest() else None


def identity(peers: str = "10.0.0.0/8, fd00::/8", secret: str = "", default: str = "") -> Identity:
    reader = UserInfoReader(["tenantId"], ["userName"])
    return Identity(Callers(cast(Any, Keys())), TrustedPeers(peers, secret), reader, default_identity(default))


async def ask(identity: Identity, host: str | None, **headers: bytes) -> KeyOwner:
    named = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return await identity.identify({"client": (host, 1234) if host else None}, named)


@pytest.mark.parametrize("host", [NEAR, "::ffff:10.9.9.9", "fd00::1", "fd00::1%eth0"])
async def test_a_trusted_peer_is_believed(host: str) -> None:
    caller = await ask(identity(), host, x_user_info=INFO, authorization=b"Bearer \xe4nything")
    assert (caller.tenant_id, caller.name) == (9, "ann")
    assert caller.scopes == {"submit", "read", "admin"}
    assert caller.credentials == Credentials("Bearer \xe4nything", INFO.decode())
    assert "nything" not in repr(caller)
    assert "ann" not in repr(caller.credentials)


@pytest.mark.parametrize("host", [FAR, "::1", "", None, "unix:"])
async def test_nobody_else_is(host: str | None) -> None:
    with pytest.raises(Problem) as caught:
        await ask(identity(default="3:poller"), host, x_user_info=INFO)
    assert caught.value.code == "unauthenticated"
    caller = await ask(identity(), host, x_user_info=INFO, authorization=b"Bearer " + KEY)
    assert caller is OWNER
    assert caller.credentials is None


@pytest.mark.parametrize("headers", [{}, {"authorization": b"Bearer their-own"}, {"x_sluiceway_peer": b"wrong"}])
async def test_who_is_not_believed_is_told_what_would_make_it_so(headers: dict[str, bytes]) -> None:
    """A caller of the old gateway was told to send a key, and its operator not that an address was missing."""
    with pytest.raises(Problem, match="SLUICEWAY_TRUSTED_PEERS") as caught:
        await ask(identity(secret="open sesame"), FAR, x_user_info=INFO, **headers)
    assert str(caught.value.detail).startswith("X-User-Info is not believed")
    assert "Send Authorization" in str(caught.value.detail)


async def test_without_settings_nobody_is_trusted() -> None:
    with pytest.raises(Problem):
        await ask(identity(peers=""), NEAR, x_user_info=INFO, x_sluiceway_peer=b"")


async def test_a_shared_secret_makes_a_peer_trusted_wherever_it_is() -> None:
    shared = identity(peers="", secret="open sesame")
    assert (await ask(shared, FAR, x_user_info=INFO, x_sluiceway_peer=b"open sesame")).tenant_id == 9
    for wrong in (b"", b"open", b"open sesame!", b"\xff"):
        with pytest.raises(Problem):
            await ask(shared, FAR, x_user_info=INFO, x_sluiceway_peer=wrong)
    with pytest.raises(Problem):
        await ask(shared, FAR, x_user_info=INFO)


async def test_a_trusted_peer_without_user_info_needs_a_key_or_the_default() -> None:
    assert await ask(identity(), NEAR, authorization=b"Bearer " + KEY) is OWNER
    for token in ({}, {"authorization": b"Bearer their-own"}):
        with pytest.raises(Problem) as caught:
            await ask(identity(), NEAR, **token)
        assert str(caught.value.detail).startswith("X-User-Info is missing")
    poller = await ask(identity(default="-3:poller"), NEAR)
    assert (poller.tenant_id, poller.name, poller.credentials) == (-3, "poller", None)
    # It sends neither: who sends a wrong Authorization wants to be somebody else.
    with pytest.raises(Problem):
        await ask(identity(default="3:poller"), NEAR, authorization=b"Bearer other")


@pytest.mark.parametrize("info", [b"", b"{}", b"[]", b"nonsense", b'{"tenantId":"x"}'])
async def test_unreadable_user_info_is_nobody_even_with_a_default_or_a_key(info: bytes) -> None:
    with pytest.raises(Problem) as caught:
        await ask(identity(default="3:poller"), NEAR, x_user_info=info, authorization=b"Bearer " + KEY)
    assert caught.value.code == "unauthenticated"


async def test_headers_that_nobody_could_keep_are_refused() -> None:
    for name in ("authorization", "x_user_info"):
        with pytest.raises(Problem) as caught:
            await ask(identity(), NEAR, **{"x_user_info": INFO, name: b"x" * 65_536})
        assert caught.value.code == "invalid"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: TrustedPeers("10.0.0.1/8", ""), "SLUICEWAY_TRUSTED_PEERS"),
        (lambda: TrustedPeers("gateway", ""), "SLUICEWAY_TRUSTED_PEERS"),
        (lambda: default_identity("shop"), "SLUICEWAY_DEFAULT_IDENTITY"),
        (lambda: default_identity("x:shop"), "SLUICEWAY_DEFAULT_IDENTITY"),
        (lambda: names_of("SLUICEWAY_USER_INFO_USER", " , "), "SLUICEWAY_USER_INFO_USER"),
        (lambda: tenants_of("SLUICEWAY_STAT_READERS", "1,x"), "SLUICEWAY_STAT_READERS"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(make: Any, named: str) -> None:
    with pytest.raises(WrongSetting, match=named):
        make()


def test_settings_as_they_are_written() -> None:
    assert default_identity("") is None
    assert names_of("X", " a, b ,") == ["a", "b"]
    assert tenants_of("X", "1, -2,") == {1, -2}


@pytest.mark.parametrize(
    ("host", "forwarded", "sender"),
    [
        (NEAR, b"198.51.100.7, 10.0.0.9", "198.51.100.7"),
        (NEAR, b"2001:db8::1", "2001:db8::1"),
        (NEAR, b"unknown, 198.51.100.7", ""),
        (NEAR, b"\xff" * 100, ""),
        (FAR, b"198.51.100.7", None),
    ],
)
async def test_only_a_trusted_peer_says_for_whom_it_speaks(host: str, forwarded: bytes, sender: str | None) -> None:
    scope: dict[str, Any] = {"client": (host, 1234)}
    named = {b"x-forwarded-for": forwarded, b"authorization": b"Bearer " + KEY}
    await identity().identify(scope, named)
    assert scope.get("sender") == sender
