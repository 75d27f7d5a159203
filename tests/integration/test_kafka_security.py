"""Kafka with passwords and TLS: the right settings work, wrong ones are told apart, refused topics are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest
from pydantic import SecretStr

from libs.common.adapters.kafka.carrier import KafkaCarrier
from libs.common.adapters.kafka.connection import KafkaConnection
from libs.common.adapters.kafka.topics import KafkaTopics
from libs.common.embedded import kafka_jars
from libs.common.ports_dispatch import Record, TopicPlan
from libs.common.settings import Settings
from tests.support.broker import connection_to
from tests.support.secure_kafka import PASSWORD, USER, SecureKafka, self_signed

#: Numbers of Kafka's protocol.
_TOPIC, _LITERAL, _ALLOW = 2, 3, 3
_CREATE, _DESCRIBE = 5, 8


@pytest.fixture
async def broker(servers_folder: Path) -> AsyncIterator[SecureKafka]:
    if not kafka_jars.can_fetch():
        pytest.skip("needs Apache Kafka: Maven and a JDK")
    server = SecureKafka(servers_folder / "secure")
    await server.start()
    yield server
    await server.kill()


def settings_for(broker: SecureKafka, password: str = PASSWORD, ca_file: str = "") -> Settings:
    return Settings(
        kafka_bootstrap=broker.secure_address,
        kafka_security="SASL_SSL",
        kafka_sasl_mechanism="PLAIN",
        kafka_username=USER,
        kafka_password=SecretStr(password),
        kafka_ca_file=ca_file or str(broker.ca_file),
    )


async def test_passwords_tls_and_refused_topics(broker: SecureKafka, tmp_path: Path) -> None:
    good = KafkaConnection.of(settings_for(broker))
    assert await good.diagnose() == ""
    assert PASSWORD not in repr(good)

    wrong_password = KafkaConnection.of(settings_for(broker, password="wrong"))
    assert "uthenticat" in await said_by_a_carrier(wrong_password)

    other_ca = tmp_path / "other.pem"
    other_ca.write_bytes(self_signed()[0])
    unknown_ca = KafkaConnection.of(settings_for(broker, ca_file=str(other_ca)))
    assert "certificate verify failed" in await said_by_a_carrier(unknown_ca)

    plaintext = replace(good, security="PLAINTEXT", ssl_context=None)
    assert broker.secure_address in await said_by_a_carrier(plaintext)

    await certificates_of_ours(broker, tmp_path)
    await topic_refusals(broker, good)
    await topics_of_operators(broker, good)


async def certificates_of_ours(broker: SecureKafka, folder: Path) -> None:
    """The broker's listener for certificates lets in who has one that it trusts."""
    address = {"kafka_bootstrap": broker.mutual_address, "kafka_security": "SSL", "kafka_ca_file": str(broker.ca_file)}

    def presenting(certificate: Path, key: Path | str = "") -> KafkaConnection:
        settings = Settings(**address, kafka_cert_file=str(certificate), kafka_key_file=str(key))
        return KafkaConnection.of(settings)

    assert await presenting(broker.certificate_file).diagnose() == ""
    stranger, key = self_signed()
    (folder / "stranger.pem").write_bytes(stranger)
    (folder / "stranger.key").write_bytes(key)
    assert await presenting(folder / "stranger.pem", folder / "stranger.key").diagnose() != ""
    assert await KafkaConnection.of(Settings(**address)).diagnose() != ""


async def said_by_a_carrier(connection: KafkaConnection) -> str:
    carrier = KafkaCarrier(connection, client_id="test")
    assert not await carrier.probe()
    await carrier.close()
    return carrier.last_error


async def topic_refusals(broker: SecureKafka, good: KafkaConnection) -> None:
    """User app may not write."""
    topics = KafkaTopics(connection_to(broker), client_id="t", replication=1)
    await topics.ensure({"secret": TopicPlan(1)})
    await topics.close()
    # An account that may write nowhere gets no idempotent producer at all: that is said, and nothing is burnt.
    carrier = KafkaCarrier(good, client_id="t")
    assert not any(verdict.refused for verdict in await carrier.send([Record("secret", 0, b"k", b"v")]))
    assert "ClusterAuthorizationFailed" in carrier.last_error
    await carrier.close()
    carrier = KafkaCarrier(replace(good, broker="tansu"), client_id="t")  # without idempotence
    verdicts = await carrier.send([Record("secret", 0, b"k", b"v")] * 3)
    assert [verdict.acknowledged for verdict in verdicts] == [False] * 3
    assert all("TopicAuthorizationFailed" in verdict.refused for verdict in verdicts)
    assert carrier.reachable
    await carrier.close()


async def topics_of_operators(broker: SecureKafka, good: KafkaConnection) -> None:
    """User app may make one topic, and use another one that is there."""
    operator = KafkaTopics(connection_to(broker), client_id="o", replication=1)
    await operator.ensure({"made": TopicPlan(1)})
    await allow(broker, ("ours", _CREATE), ("ours", _DESCRIBE), ("made", _DESCRIBE))
    topics = KafkaTopics(good, client_id="t", replication=1)
    assert await topics.ensure({"ours": TopicPlan(1), "made": TopicPlan(1), "secret": TopicPlan(1)}) == {
        "ours": 1,
        "made": 1,
    }
    assert list(topics.refused) == ["secret"]
    await operator.close()
    await topics.close()


async def allow(broker: SecureKafka, *grants: tuple[str, int]) -> None:
    """Let user app do these to these topics."""
    admin = AIOKafkaAdminClient(**connection_to(broker).arguments())
    await admin.start()
    try:
        for name, operation in grants:
            grant = CreateAclsRequest(_TOPIC, name, _LITERAL, f"User:{USER}", "*", operation, _ALLOW)
            answer = await admin._client.send(admin._client.get_random_node(), grant)
            assert [code for code, *_ in answer.creation_responses] == [0]
    finally:
        await admin.close()
