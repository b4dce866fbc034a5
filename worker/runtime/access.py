"""Tells why brokers do not let the worker in, or not do its work, in one line that says what to do.

aiokafka's client only says that it found no broker, and writes the reason to its log. So when it found none, each
broker is connected to once more, to see why: what a broker refuses for good is not tried again.
"""

import ssl
from itertools import chain
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from worker.runtime.cluster import DENIED, GRANT, Refused
from worker.settings import PREFIX, Settings

CONNECT_SECONDS: Final = 10

_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL
_ALERT: Final = "_ALERT_"
"""In the reason of an SSLError: the other side has refused, and says why."""


class NotLetIn(Exception):
    """A broker refuses the worker, or the worker the broker; the message says what to do, without any secret."""


async def ask_why(settings: Settings) -> None:
    """Raise NotLetIn when a broker is there and the worker cannot get in; return when none is there."""
    connection = {name: value for name, value in settings.connection().items() if name != "bootstrap_servers"}
    create: Any = _Connection  # which has no types
    for address in settings.brokers.split(","):
        host, _, port = address.rpartition(":")
        try:
            opened = create(host.strip("[]"), int(port), request_timeout_ms=CONNECT_SECONDS * 1000, **connection)
            await opened.connect()
        except (KafkaError, OSError, TimeoutError) as error:
            if told := _told(error, settings):
                raise NotLetIn(f"Kafka at {address} {told}") from error
        else:
            opened.close()


def explained(error: Exception) -> Exception:
    """Add what to do to an answer that the worker has no right to what it asked for; give any other error as it is."""
    if isinstance(error, Refused) and error.code in DENIED:
        return NotLetIn(f"{error}: {GRANT}")
    if isinstance(error, KafkaError) and getattr(error, "errno", None) in DENIED:
        names = ", ".join(sorted(chain.from_iterable([it] if isinstance(it, str) else it for it in error.args)))
        return NotLetIn(f"{names}: {type(error).__name__}: {GRANT}")
    return error


class _Login(OAuthAuthenticator):
    """Waits for the answer to a token: a broker that refuses it says so only after one more step (RFC 7628, 3.2.3).

    aiokafka takes its first answer for the end, and finds the connection closed a moment later.
    """

    async def step(self, payload: bytes | None) -> Any:
        """Send the token, and where that is answered with an error, what asks for the end."""
        if self._token_sent and payload:
            return b"\x01", True
        go_on: Any = super().step
        return await go_on(payload)


class _Connection(AIOKafkaConnection):
    def authenticator_oauth(self) -> Any:
        create: Any = _Login
        return create(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


def _told(error: BaseException, settings: Settings) -> str:
    """Say what was refused and what to do; nothing when it may pass."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case SaslAuthenticationFailed():
                if settings.sasl_mechanism == "OAUTHBEARER":
                    return f"refuses the token: put one into {PREFIX}SASL_TOKEN_FILE that is valid and has not expired"
                return f"refuses the login: check {PREFIX}SASL_USERNAME and the secret that goes with it"
            case UnsupportedSaslMechanismError() | IllegalSaslStateError():
                return f"does not know the way to log in: set {PREFIX}SASL_MECHANISM to one that it has"
            case ssl.SSLCertVerificationError() if cause.verify_code == _EXPIRED:
                return "shows a certificate that has expired: give that broker a new one"
            case ssl.SSLCertVerificationError():
                what = f"shows a certificate that is not believed ({cause.verify_message})"
                return f"{what}: name the CA that signed it in {PREFIX}SSL_CAFILE, or give that broker another"
            case ssl.SSLError() if _ALERT in (cause.reason or ""):
                reason = (cause.reason or "").partition(_ALERT)[2].replace("_", " ").lower()
                what = f"refuses the worker's certificate ({reason})"
                return f"{what}: put one into {PREFIX}SSL_CERTFILE that is valid and that the brokers believe"
        cause = cause.__cause__
    return ""
