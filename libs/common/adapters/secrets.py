"""Secrets at rest: AES-256-GCM under a ring of keys."""

from __future__ import annotations

import base64
import binascii
import os
from collections import Counter
from collections.abc import Set
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from libs.common.domain.errors import WrongSetting
from libs.common.ports_secrets import KeyMissing, SealError

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class BadKeyRing(WrongSetting):
    """The setting SLUICEWAY_SECRET_KEYS cannot be used; the text says why and never shows a key."""

    def __init__(self, why: str) -> None:
        super().__init__(f"SLUICEWAY_SECRET_KEYS: {why}")


class KeyRing:
    """Seals with the first key, opens with any. A sealed value is bound to its owner and opens nowhere else."""

    def __init__(self, text: str) -> None:
        keys = [_key(part) for part in text.split(",") if part.strip()]
        if not keys:
            raise BadKeyRing("it is empty; `sluiceway secrets new` prints a key")
        self.newest = keys[0][0]
        self._ciphers = {name: AESGCM(key) for name, key in keys}
        if len(self._ciphers) < len(keys):
            twice = next(name for name, count in Counter(name for name, _ in keys).items() if count > 1)
            raise BadKeyRing(f"it has two keys of the same id, {twice!r}")

    @property
    def names(self) -> Set[str]:
        """The ids of all keys."""
        return self._ciphers.keys()

    def seal(self, clear: bytes, owner: str) -> bytes:
        """Encrypt for `owner` (for example `model:7`)."""
        nonce = os.urandom(_NONCE_BYTES)
        name = self.newest.encode()
        return bytes([len(name)]) + name + nonce + self._ciphers[self.newest].encrypt(nonce, clear, owner.encode())

    def key_of(self, sealed: bytes) -> str:
        """The id of the key that sealed a value."""
        return sealed[1 : 1 + sealed[0]].decode(errors="replace") if sealed else ""

    def open(self, sealed: bytes, owner: str) -> bytes:
        """Decrypt; raises SealError."""
        name = self.key_of(sealed)
        end = 1 + sealed[0] if sealed else 0
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise KeyMissing(f"no key {name!r} in SLUICEWAY_SECRET_KEYS: put the old key back at the end of the ring")
        try:
            return cipher.decrypt(sealed[end : end + _NONCE_BYTES], sealed[end + _NONCE_BYTES :], owner.encode())
        except (InvalidTag, ValueError) as error:
            raise SealError(f"the sealed value of {owner} is damaged or not its own") from error


def new_key() -> str:
    """A random key in the form that the setting takes, under a name of its own."""
    return f"k{os.urandom(3).hex()}:{base64.b64encode(os.urandom(_KEY_BYTES)).decode()}"


def _key(part: str) -> tuple[str, bytes]:
    name, mark, encoded = part.strip().partition(":")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadKeyRing(f"key {name!r} is not base64") from error
    if not mark or not name.isalnum() or len(name) > 64:
        raise BadKeyRing("each key is written id:base64, the id of letters and digits")
    if len(key) != _KEY_BYTES:
        raise BadKeyRing(f"key {name!r} has {len(key)} bytes, 32 are needed")
    return name, key
