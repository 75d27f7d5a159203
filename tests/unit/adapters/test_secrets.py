"""Sealed values that are not what was sealed."""

from __future__ import annotations

import pytest

from libs.common.adapters.secrets import KeyRing, new_key
from libs.common.ports_secrets import SealError


def test_a_sealed_value_that_was_cut_anywhere_is_damaged() -> None:
    ring = KeyRing(new_key())
    sealed = ring.seal(b"secret", "model:7")
    assert ring.open(sealed, "model:7") == b"secret"
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            ring.open(sealed[:length], "model:7")
