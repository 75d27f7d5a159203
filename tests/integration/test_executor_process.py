"""What an executor's probes say."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from libs.common.runtime.health import Health
from libs.common.settings import Settings
from services.executor.wiring import open_executor


async def test_an_executor_whose_time_zone_the_database_does_not_know_is_not_ready(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    usual = Settings(
        database_url=SecretStr(database_url),
        redis_url=SecretStr(redis_url),
        kafka_bootstrap="127.0.0.1:1",
        staging_dir=str(tmp_path / "staging"),
        storage_url=f"file://{tmp_path / 'results'}",
    )
    seen = []
    for zone in ("Europe/Berlin", "Europe/Newtown"):
        health = Health("executor")
        async with open_executor(usual.model_copy(update={"timezone": zone}), health):
            seen.append((await health.ready())["postgres"])
    assert seen == ["ok", "InvalidParameterValueError"]
