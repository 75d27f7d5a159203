"""The canary helper finds a secret wherever it was spilled, in the shapes that secrets take."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from libs.common.adapters.secrets import KeyRing
from tests.support import canaries
from tests.support.auditing import FakeLog
from tests.support.house import House

CANARY = 'X-API-Key:"c4nary/s3cret+value"'


@pytest.mark.parametrize("lead", ["", "a", "ab", "abc"])
def test_it_is_seen_in_every_shape(lead: str) -> None:
    clear = f"{lead}{CANARY} and more".encode()
    for spilled in (
        clear,
        base64.b64encode(clear),
        clear.hex().encode(),
        b"?q=X-API-Key%3A%22c4nary%2Fs3cret%2Bvalue%22",
    ):
        assert canaries.in_bytes("here", spilled, [CANARY]), spilled
    assert not canaries.in_bytes("here", b"something else", [CANARY])
    assert CANARY not in canaries.in_bytes("here", clear, [CANARY])[0]


async def test_it_is_found_in_every_store(house: House, tmp_path: Path) -> None:
    model = await house.model(remark="fine")
    await house.tasks(model)
    sealed = KeyRing("t:" + base64.b64encode(b"t" * 32).decode()).seal(CANARY.encode(), "tenant:1")
    await house.sql("UPDATE model SET bindings = $1", sealed)
    assert await canaries.in_database(house.database_url, [CANARY]) == []
    assert await canaries.in_redis(house.redis, [CANARY]) == []
    await house.sql("UPDATE task SET error_message = $1", f"bad header {CANARY}")
    await house.sql("UPDATE model SET bindings = $1", CANARY.encode())
    await house.redis.command_many([("SET", "oops", CANARY)])
    log = FakeLog()
    log.append("t", b"{}", headers=[("h", CANARY.encode())])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.log").write_text(f"key={CANARY}\n")
    assert {line.partition(":")[0] for line in await canaries.in_database(house.database_url, [CANARY])} == {
        "task.error_message", "model.bindings"
    }  # fmt: skip
    assert len(await canaries.in_database(house.database_url, [CANARY], except_columns=["model.bindings"])) == 1
    assert len(await canaries.in_redis(house.redis, [CANARY])) == 1
    assert len(await canaries.in_topics(log, ["t"], [CANARY])) == 1
    assert canaries.in_folders([tmp_path / "logs"], [CANARY]) == ["logs/a.log: canary X-AP..."]
    assert len(canaries.in_texts({"/metrics": f'x{{y="{CANARY}"}} 1'}, [CANARY])) == 1
