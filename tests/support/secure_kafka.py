"""An Apache Kafka with passwords, TLS and an authorizer: user `app` may do nothing, the plain listener everything."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from libs.common.embedded.kafka import EmbeddedKafka
from libs.common.embedded.ports import LOOPBACK, free_port

USER: Final = "app"
PASSWORD: Final = "app-secret"

_LOGIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SETTINGS: Final = """
listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{secure},SSL://{host}:{mutual},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{secure},SSL://{host}:{mutual}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config={login} required user_{user}="{password}";
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.ssl.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=false
"""


class SecureKafka(EmbeddedKafka):
    """Its `secure_address` wants SASL PLAIN over TLS, its `mutual_address` a certificate; `ca_file` is whom to trust,
    and `certificate_file`, with its key, whom it trusts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._secure_port, self._mutual_port = free_port(), free_port()
        self.ca_file, self.certificate_file = folder / "ca.pem", folder / "server.pem"

    @property
    def secure_address(self) -> str:
        return f"{LOOPBACK}:{self._secure_port}"

    @property
    def mutual_address(self) -> str:
        return f"{LOOPBACK}:{self._mutual_port}"

    def _write_settings(self) -> None:
        super()._write_settings()
        certificate, key = self_signed()
        self.certificate_file.write_bytes(key + certificate)
        self.ca_file.write_bytes(certificate)
        ports = {"secure": self._secure_port, "mutual": self._mutual_port, "controller": self.controller_port}
        files = {"keystore": self.certificate_file, "ca": self.ca_file}
        ours = _SETTINGS.format(
            host=LOOPBACK, port=self.port, login=_LOGIN, user=USER, password=PASSWORD, **ports, **files
        )
        replace_settings(self._settings_file, ours)


def replace_settings(file: Path, ours: str) -> None:
    """Lines `name=value` in place of those of the same names."""
    replaced = {line.partition("=")[0] for line in ours.splitlines() if "=" in line}
    kept = [line for line in file.read_text().splitlines() if line.partition("=")[0] not in replaced]
    file.write_text("\n".join(kept) + ours)


def self_signed() -> tuple[bytes, bytes]:
    """A certificate for 127.0.0.1 that is its own authority, and its key; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain),
    )


def locked(key: bytes) -> bytes:
    """The same key behind a password."""
    sealed = serialization.BestAvailableEncryption(b"secret")
    opened = serialization.load_pem_private_key(key, None)
    return opened.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)
