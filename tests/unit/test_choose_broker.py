"""Which broker the tests run on."""

from __future__ import annotations

import pytest

from libs.common.embedded import kafka_jars
from tests.support import servers
from tests.support.kafka_container import variables


@pytest.mark.parametrize(
    ("environment", "docker", "maven", "source", "kind"),
    [
        ({"SLUICEWAY_KAFKA_BOOTSTRAP": "broker:9092"}, True, True, "environment", "kafka"),
        ({"SLUICEWAY_KAFKA_BOOTSTRAP": "broker:9092", "SLUICEWAY_BROKER": "tansu"}, True, True, "environment", "tansu"),
        ({}, True, True, "docker", "kafka"),
        ({}, "from within a container", True, "maven", "kafka"),
        ({}, False, True, "maven", "kafka"),
        ({}, False, False, "embedded", "tansu"),
        ({"SLUICEWAY_BROKER": "tansu"}, True, True, "embedded", "tansu"),
        ({"SLUICEWAY_BROKER": "kafka"}, False, False, "maven", "kafka"),
    ],
)
def test_the_first_there_is_wins(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    docker: bool | str,
    maven: bool,
    source: str,
    kind: str,
) -> None:
    monkeypatch.setattr(servers, "docker_answers", lambda: bool(docker))
    monkeypatch.setattr(servers, "has_a_host", lambda: docker is True)
    monkeypatch.setattr(kafka_jars, "can_fetch", lambda: maven)
    choice = servers.choose_broker(environment)
    assert (choice.source, choice.kind) == (source, kind)


def test_a_docker_client_without_an_engine_is_no_docker() -> None:
    assert not servers.docker_answers({"DOCKER_HOST": "unix:///nowhere/docker.sock"})
    assert not servers.docker_answers({"DOCKER_HOST": "tcp://127.0.0.1:1"})


def test_the_container_gets_the_settings_of_the_embedded_broker() -> None:
    given = variables(20_001, "localhost")
    assert given["KAFKA_NODE_ID"] == "1"
    assert given["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert given["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://localhost:20001"
    assert not any(value.count("$") for value in given.values())
