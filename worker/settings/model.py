"""What an operator may set, each setting with its type, its default and its text."""

import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from platformdirs import user_data_path
from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from worker.domain.limits import Rules
from worker.kafka.credentials import FreshContext, PasswordFile, TokenFile
from worker.pipeline.topology import MAX_PARTITIONS, TOPICS, Topology
from worker.settings.sources import PREFIX, TOML_FILE, sources_of, variable
from worker.signals import STOP_SECONDS

_NAMES: Final = Topology(partitions=None)


def _addresses(text: str) -> str:
    """Refuse what is not `host:port,…`; spaces around the commas are left out."""
    addresses = [address.strip() for address in text.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not re.fullmatch(r"[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]", host) or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError("each broker is host:port, with a comma between two")
        if not 0 < int(port) < 1 << 16:
            raise ValueError("a port is a number from 1 to 65535")
    return ",".join(addresses)


def _legal_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in {".", ".."}:
        raise ValueError("a name in Kafka is 1 to 249 characters of a-z, A-Z, 0-9, '.', '_', '-'; not '.', not '..'")
    return name


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    return path


Brokers = Annotated[str, AfterValidator(_addresses)]


def _replicas(number: int) -> int:
    if number == 0:
        raise ValueError("-1, or at least 1")
    return number


Replicas = Annotated[int, Field(ge=-1, lt=1 << 15), AfterValidator(_replicas)]
KafkaName = Annotated[str, AfterValidator(_legal_name)]
File = Annotated[Path, AfterValidator(_readable)]
Bytes = Annotated[int, Field(ge=1, le=1 << 30)]
Text = Annotated[str, Field(min_length=1)]


class Settings(BaseSettings):
    """The settings in force; a wrong one is a ValidationError, before anything is opened."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        dotenv_filtering="match_prefix",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    config: File | None = Field(
        default=None, description=f"The TOML file; without it `{TOML_FILE}` in the working directory, if that is there."
    )
    brokers: Brokers = Field(default="localhost:9092", description="Where Kafka is: `host:port,…`.")
    app_id: KafkaName = Field(
        default="session-worker", max_length=200, description="The consumer group, and the prefix of transactional ids."
    )
    application_id: int = Field(default=1, ge=0, description="The application whose sessions these are.")
    other_applications: Literal["reject", "skip"] = Field(
        default="reject", description="Update records of another application: `reject` or `skip`."
    )
    unknown_fields: Literal["reject", "ignore"] = Field(
        default="reject", description="Fields that the contract does not know: `reject` or `ignore`."
    )
    cloudevents: bool = Field(
        default=False,
        description="Whether `ce_id`, `ce_time` and `ce_subject` stand in for an eventId, an occurredAt and an integrationId "
        "that the update record and its key lack.",
    )
    max_record_bytes: Bytes = Field(default=1 << 20, description="The largest value of an update record.")
    max_snapshot_bytes: Bytes = Field(default=1 << 20, description="The largest value of a snapshot.")

    on_data_loss: Literal["fail", "earliest"] = Field(
        default="fail",
        description="Update records that were deleted before they were read: `fail`, or go on from the `earliest`.",
    )
    max_rejection_ratio: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="The worker stops, and commits nothing more, when this share of its last 1,000 to 2,000 update records "
        "is rejected; without it, it never does.",
    )

    updates_topic: KafkaName = Field(default=_NAMES.updates, description="Where update records arrive.")
    rekeyed_topic: KafkaName = Field(default=_NAMES.rekeyed, description="Where strays are sent home.")
    sessions_topic: KafkaName = Field(default=_NAMES.sessions, description="Where snapshots are published.")
    rejections_topic: KafkaName = Field(default=_NAMES.rejections, description="Where rejections are published.")
    dry_runs_topic: KafkaName = Field(default=_NAMES.dry_runs, description="Where dry runs are published.")
    claims_topic: KafkaName = Field(
        default=_NAMES.claims, description="Where sessions ask whether they are their profile's first."
    )
    verdicts_topic: KafkaName = Field(default=_NAMES.verdicts, description="Where they are answered.")
    first_sessions_topic: KafkaName = Field(
        default=_NAMES.first_sessions, description="The changelog of the profiles table."
    )
    v1_topic: KafkaName | None = Field(default=None, description="Where to publish the v1 view, if at all.")
    partitions: int = Field(
        default=8,
        ge=1,
        le=MAX_PARTITIONS,
        description="How many each topic gets, where the updates topic has to be created.",
    )
    replication_factor: Replicas = Field(
        default=-1, description="Of topics that have to be created; -1: the broker's default."
    )

    store: Literal["memory://", "rocksdb://"] = Field(
        default="memory://", description="Where tables are kept: `memory://` or `rocksdb://`."
    )
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("session-worker"), description="The folder of tables on disk."
    )
    instance: KafkaName | None = Field(
        default=None,
        max_length=100,
        description="A name that no other worker of the app has and that a restart keeps, such as the name of a pod of a "
        "StatefulSet. Without it the worker keeps a random one in a file below `data_dir`.",
    )
    standby_replicas: int = Field(default=0, ge=0, description="How many other workers keep a copy of each table.")
    session_timeout_seconds: int = Field(
        default=10,
        ge=1,
        le=1800,
        description="So long a worker may be silent before others take over. Brokers refuse less than their "
        "`group.min.session.timeout.ms`, which is 6 s by default.",
    )
    transaction_timeout_seconds: int = Field(
        default=10, ge=1, le=900, description="So long a dead worker's transaction may stay open."
    )
    stop_seconds: int = Field(
        default=STOP_SECONDS,
        ge=1,
        le=3600,
        description="Upper bound in seconds for the end of a worker after a signal or an error; set it below the grace period of the container.",
    )
    web_host: Text = Field(default="127.0.0.1", description="The address at which the worker's web server listens.")
    web_port: int | None = Field(
        default=None, ge=0, le=65535, description="Its port; 0: any free port. Without it there is no web server."
    )

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="How to speak to Kafka: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="PLAIN", description="How to log in: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`."
    )
    sasl_username: Text | None = Field(default=None, description="Who the worker logs in as.")
    sasl_password: SecretStr | None = Field(default=None, min_length=1, description="Its password.")
    sasl_password_file: File | None = Field(
        default=None, description="The file with its password, instead; it is read again for each new connection."
    )
    sasl_token_file: File | None = Field(
        default=None, description="The file with the token of `OAUTHBEARER`; it is read again for each new connection."
    )
    ssl_cafile: File | None = Field(
        default=None, description="Certificates (PEM) by which brokers are believed; the system's by default."
    )
    ssl_certfile: File | None = Field(default=None, description="The worker's own certificate (PEM).")
    ssl_keyfile: File | None = Field(default=None, description="The key of that certificate (PEM).")
    ssl_password: SecretStr | None = Field(default=None, min_length=1, description="The password of that key.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (ours tells unknown variables, too)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read, the strongest first: what the call gives, the environment, the .env file, the TOML file."""
        return init_settings, *sources_of(settings_cls).values()

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        """Refuse equal names, and those that Kafka takes for equal in its metrics: '.' and '_' are one there."""
        seen: dict[str, str] = {}
        for field in TOPICS:
            setting = f"{field}_topic"
            if name := getattr(self, setting):
                other = seen.setdefault(name.replace(".", "_"), setting)
                if other != setting:
                    both = f"{variable(other)} and {variable(setting)}"
                    raise ValueError(f"{both} are {getattr(self, other)!r} and {name!r}: topics need names that differ")
        return self

    @model_validator(mode="after")
    def _security_is_whole(self) -> Self:
        """Refuse half a login and half a certificate, and either where the protocol would silently leave it out."""
        fields = type(self).model_fields
        secret = "sasl_password_file" if self.sasl_password_file else "sasl_password"
        login, useless = ["sasl_username", secret], ["sasl_token_file"]
        if self.sasl_mechanism == "OAUTHBEARER":
            login, useless = useless, ["sasl_username", "sasl_password", "sasl_password_file"]
        unused = [kind for kind, is_used in (("sasl_", self._has_sasl), ("ssl_", self._has_ssl)) if not is_used]
        ineffective = [("security_protocol", name) for name in fields if name.startswith(tuple(unused))]
        for cause, name in [*ineffective, *(("sasl_mechanism", name) for name in useless)]:
            if getattr(self, name) != fields[name].default:
                how = f"{variable(cause)} {getattr(self, cause)}"
                raise ValueError(f"{variable(name)}: has no effect with {how}")
        pairs = [("ssl_certfile", "ssl_keyfile"), ("ssl_keyfile", "ssl_certfile"), ("ssl_password", "ssl_keyfile")]
        if self._has_sasl:
            pairs += [("security_protocol", name) for name in login]
        for name, needed in pairs:
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"{variable(needed)}: is missing, and {variable(name)} needs it")
        if self.sasl_password and self.sasl_password_file:
            both = f"{variable('sasl_password')} and {variable('sasl_password_file')}"
            raise ValueError(f"{both} are both set: set one of them")
        if self._has_ssl or self._has_sasl:
            try:
                self.connection()
            except OSError as error:
                raise ValueError(str(error)) from error
        return self

    def rules(self) -> Rules:
        """Give the rules that the pure code needs to know."""
        return Rules(
            application_id=self.application_id,
            other_applications=self.other_applications,
            unknown_fields=self.unknown_fields,
            cloudevents=self.cloudevents,
            max_record_bytes=self.max_record_bytes,
            max_snapshot_bytes=self.max_snapshot_bytes,
        )

    def topology(self, partitions: int | None) -> Topology:
        """Name the topics, of which each has so many partitions."""
        return Topology(partitions, **{field: getattr(self, f"{field}_topic") for field in TOPICS})

    def connection(self) -> dict[str, Any]:
        """Give what each client of aiokafka needs to know to reach the brokers; the SASL secrets are in it."""
        keywords: dict[str, Any] = {
            "bootstrap_servers": self.brokers,
            "client_id": self.app_id,
            "security_protocol": self.security_protocol,
        }
        if self._has_ssl:
            self._ssl_context()  # raises ValueError
            context = FreshContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load = self._ssl_context
            keywords["ssl_context"] = context
        if self._has_sasl:
            keywords["sasl_mechanism"] = self.sasl_mechanism
        if self._has_sasl and self.sasl_password is not None:
            keywords["sasl_plain_username"] = self.sasl_username
            keywords["sasl_plain_password"] = self.sasl_password.get_secret_value()
        if self._has_sasl and self.sasl_password_file is not None:
            keywords["sasl_plain_username"] = self.sasl_username
            keywords["sasl_plain_password"] = PasswordFile(self.sasl_password_file)
        if self._has_sasl and self.sasl_token_file is not None:
            keywords["sasl_oauth_token_provider"] = TokenFile(self.sasl_token_file)
        return keywords

    @property
    def tool(self) -> str:
        """The words with which Kafka's own tools connect."""
        security = "" if self.security_protocol == "PLAINTEXT" else " --command-config client.properties"
        return f"--bootstrap-server {self.brokers}{security}"

    @property
    def _has_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    @property
    def _has_ssl(self) -> bool:
        return self.security_protocol.endswith("SSL")

    def _ssl_context(self) -> ssl.SSLContext:
        """Load the certificates; a key that needs a password is refused without one, where OpenSSL would ask for it."""
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
        except OSError as error:
            raise ValueError(f"{variable('ssl_cafile')}: cannot be loaded: {error}") from error
        if self.ssl_certfile is not None:
            password = self.ssl_password.get_secret_value() if self.ssl_password else ""
            try:
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
            except OSError as error:
                told = f"cannot be loaded with {variable('ssl_keyfile')} and {variable('ssl_password')}: {error}"
                raise ValueError(f"{variable('ssl_certfile')}: {told}") from error
        return context
