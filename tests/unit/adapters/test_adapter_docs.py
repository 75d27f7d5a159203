"""The models that the pages about adapters show can be saved, and no option of an adapter is missing there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from libs.common.adapters.models.cog import CogConfig
from libs.common.adapters.models.provider_config import Config
from libs.common.adapters.models.registry import checking_adapters
from libs.common.adapters.models.replicate import ReplicateConfig
from libs.common.adapters.models.submit_poll import FindConfig, RequestConfig, SubmitPollConfig

DOCS = Path(__file__).parents[3] / "docs"
PAGES = {name: (DOCS / name).read_text() for name in ("adapters.md", "cog.md")}
BLOCKS = [block for page in PAGES.values() for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
MODELS = [block for block in BLOCKS if "adapter:" in block]


def test_there_are_examples() -> None:
    assert len(MODELS) == 3


@pytest.mark.parametrize("text", MODELS)
def test_every_example_can_be_saved(text: str) -> None:
    model = yaml.safe_load(text)
    checking_adapters().check(model["adapter"], "http://x", model.get("route", ""), model.get("adapter_config", {}))


@pytest.mark.parametrize("kind", [ReplicateConfig, SubmitPollConfig, FindConfig, RequestConfig, CogConfig])
def test_every_option_is_described(kind: type[Config]) -> None:
    assert [name for name in kind.model_fields if f"`{name}`" not in PAGES["adapters.md"]] == []
