"""Secrets that change while workers run: the certificates of both sides, and the password of a SCRAM login."""

import hashlib
import shutil
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kafka.test_access import KEY_PASSWORD, Authority

LISTENERS = "CLIENT:{},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT"
SCRAM = {
    "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
    "listener.name.client.scram-sha-512.sasl.jaas.config": (
        "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    ),
}
FILES = "ca", "certificate", "key", "broker", "trusted"


class Certificates:
    """The files that workers and brokers read their certificates from, in a folder, signed by a first authority."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authorities = 0
        self.files = {name: folder / f"{name}.pem" for name in FILES}
        self.put(self.issue(), *FILES)

    def issue(self) -> dict[str, Path]:
        """Issue certificates for both sides by another authority, and return where each is."""
        self._authorities += 1
        authority = Authority(self._folder / f"authority-{self._authorities}")
        worker, broker = authority.issue("worker"), authority.issue("broker")
        sources = authority.file, worker.certificate, worker.key, broker.both, authority.file
        return dict(zip(FILES, sources, strict=True))

    def put(self, papers: Mapping[str, Path], *names: str) -> None:
        """Replace files by what was issued."""
        for name in names:
            shutil.copy(papers[name], self.files[name])

    def properties(self) -> dict[str, str]:
        """Return the properties of brokers whose clients' listener asks for a certificate."""
        return {
            "listener.name.client.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.files["broker"]),
            "ssl.key.password": KEY_PASSWORD,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.files["trusted"]),
        }

    def settings(self) -> dict[str, Any]:
        """Return the settings of workers."""
        return {
            "ssl_cafile": self.files["ca"],
            "ssl_certfile": self.files["certificate"],
            "ssl_keyfile": self.files["key"],
            "ssl_password": KEY_PASSWORD,
        }


def scram_login(user: str, password: str) -> str:
    """Return a login that a new cluster has, as StorageTool's `--add-scram` takes it."""
    return f"SCRAM-SHA-512=[name={user},password={password}]"


def alter_scram(address: str, user: str, password: str) -> None:
    """Send an AlterUserScramCredentials request, which aiokafka does not have."""
    salt = b"grain"
    salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 4096)
    upsertion = _bytes(user.encode()) + struct.pack(">bi", 2, 4096) + _bytes(salt) + _bytes(salted) + b"\0"
    request = struct.pack(">hhih", 51, 0, 7, -1) + b"\0" + b"\1" + b"\2" + upsertion + b"\0"
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rb") as answers:
        connection.sendall(struct.pack(">i", len(request)) + request)
        answer = answers.read(*struct.unpack(">i", answers.read(4)))
    at = 4 + 1 + 4 + 1 + 1 + len(user)  # correlation id, tags, throttle time, number of results, user
    assert struct.unpack_from(">h", answer, at) == (0,)


def _bytes(value: bytes) -> bytes:
    """Encode bytes with their length in front, as Kafka's compact type."""
    return bytes([len(value) + 1]) + value
