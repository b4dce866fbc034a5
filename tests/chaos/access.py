"""How the brokers let workers in: over TLS, with a certificate and a password, all of which may be replaced."""

from pathlib import Path
from typing import Any

from tests.kafka.rotation import LISTENERS, SCRAM, Certificates, alter_scram, scram_login
from tests.kafka.test_access import PASSWORD, USER

PROTOCOL = "SASL_SSL"


class Access:
    """The certificates and the password in force, with the files in a new folder from which workers read theirs."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.certificates = Certificates(folder)
        self._password = PASSWORD
        self._file = folder / "password"
        self.hand_out()

    def withdraw(self, broker: str, password: str) -> None:
        """Give the workers' principal another password, by a broker's internal address."""
        alter_scram(broker, USER, password)
        self._password = password

    def hand_out(self) -> None:
        """Write the password in force into the workers' file."""
        self._file.write_text(self._password + "\n", "utf-8")

    def logins(self) -> list[str]:
        """Return the logins of a new cluster."""
        return [scram_login(USER, self._password)]

    def properties(self) -> dict[str, str]:
        """Return the properties of brokers."""
        protocols = {"listener.security.protocol.map": LISTENERS.format(PROTOCOL)}
        return {**protocols, **SCRAM, **self.certificates.properties()}

    def settings(self) -> dict[str, Any]:
        """Return the settings of workers."""
        login = {"sasl_mechanism": "SCRAM-SHA-512", "sasl_username": USER, "sasl_password_file": self._file}
        return {"security_protocol": PROTOCOL, **login, **self.certificates.settings()}
