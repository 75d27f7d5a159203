"""Adapters by name: ours, those of packages, and packages that are broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

import pytest

from libs.common.adapters.models import registry
from libs.common.adapters.models.replicate import Replicate
from libs.common.domain.errors import Invalid
from libs.common.operations.doctor_places import examine_adapters


class Own(Replicate):
    """What a package might bring."""


class Careless(Replicate):
    def check(self, base_url: str, route: str, config: Any) -> None:
        raise KeyError("model")


class Empty:
    def __init__(self, http: Any) -> None:
        pass


def install(monkeypatch: pytest.MonkeyPatch, **entries: str) -> registry.Adapters:
    """The adapters of an installation with these entry points."""
    found = [EntryPoint(name.replace("_", "-"), value, registry.GROUP) for name, value in entries.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == registry.GROUP else [])
    return registry.checking_adapters()


def test_ours_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = install(monkeypatch)
    assert adapters.names() == ["cog", "plain-http", "replicate", "submit-poll"]
    assert adapters.broken == ()


def test_a_package_brings_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = install(monkeypatch, own_one=f"{__name__}:Own")
    assert "own-one" in adapters.names()
    assert isinstance(adapters.jobs["own-one"], Own)
    adapters.check("own-one", "http://x", "", {})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("gone", "no_such_package:Adapter", "ModuleNotFoundError"),
        ("nothing", f"{__name__}:Nothing", "AttributeError"),
        ("empty", f"{__name__}:Empty", "it has no dedupes, polls, keyed, check"),
        ("cog", f"{__name__}:Own", "there is an adapter of this name already"),
        ("plain-http", f"{__name__}:Own", "there is an adapter of this name already"),
        ("Bad Name", f"{__name__}:Own", "a name has lower case letters"),
    ],
)
async def test_a_broken_one_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    adapters = install(monkeypatch, **{name: value, "good": f"{__name__}:Own"})
    assert "good" in adapters.names()
    assert len(adapters.jobs) == 4
    [broken] = adapters.broken
    assert reason in str(broken)
    findings = await examine_adapters()
    assert [finding.level for finding in findings] == ["problem", "ok"]
    assert name in findings[0].what
    if name not in registry.load_adapters(registry._NoHttp()).names():
        with pytest.raises(Invalid) as raised:
            adapters.check(name, "http://x", "", {})
        assert reason in raised.value.message


def test_a_package_that_fails_to_check_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = install(monkeypatch, careless=f"{__name__}:Careless")
    with pytest.raises(Invalid) as raised:
        adapters.check("careless", "http://x", "", {})
    assert raised.value.field == "/adapter_config"


def test_unknown_names_are_refused_with_those_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Invalid) as raised:
        install(monkeypatch).check("replicat", "http://x", "", {})
    assert (raised.value.code, raised.value.field) == ("model_adapter", "/adapter")
    assert "cog, plain-http, replicate, submit-poll" in raised.value.message


def test_plain_http_has_no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = install(monkeypatch)
    adapters.check("plain-http", "http://x", "", {})
    with pytest.raises(Invalid):
        adapters.check("plain-http", "http://x", "", {"model": "x"})


POLLED = {
    "submit": {"path": "jobs"},
    "job_id": "id",
    "poll": {"path": "jobs/{{job_id}}"},
    "status": "status",
    "statuses": {"succeeded": ["done"]},
    "outputs": "output",
}


@pytest.mark.parametrize(
    ("name", "base_url", "changes", "field"),
    [
        ("cog", "http://x?key=1", {}, "/base_url"),
        ("replicate", "https://x/api?key=1", {}, "/base_url"),
        ("submit-poll", "https://x?key=1", POLLED, "/adapter_config/submit/path"),
        *(
            ("submit-poll", "https://x", POLLED | {"poll": {"path": path}}, "/adapter_config/poll/path")
            for path in (
                "https://other/{{job_id}}",
                "http://x/{{job_id}}",
                "https://x.{{job_id}}/",
                "jobs/{{job_id}}#a",
            )
        ),
        ("submit-poll", "https://x", POLLED | {"cancel": {"path": "a b/{{job_id}}"}}, "/adapter_config/cancel/path"),
    ],
)
def test_requests_that_could_go_nowhere_are_refused_when_the_model_is_saved(
    monkeypatch: pytest.MonkeyPatch, name: str, base_url: str, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as raised:
        install(monkeypatch).check(name, base_url, "", changes)
    assert raised.value.field == field


@pytest.mark.parametrize("path", ["https://x/jobs/{{job_id}}", "/jobs?id={{job_id}}", "jobs/{{job_id}}"])
def test_requests_may_name_paths_and_addresses_of_the_same_origin(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    install(monkeypatch).check("submit-poll", "https://x", "", POLLED | {"poll": {"path": path}})
