"""The settings, each with its type, its default and its description."""

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from platformdirs import user_data_path
from pydantic import AfterValidator, Field, SecretStr, create_model, model_validator
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
    """Return broker addresses without spaces around the commas. Raise ValueError for text that is not `host:port,…`."""
    addresses = [address.strip() for address in text.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not re.fullmatch(r"[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]", host) or not re.fullmatch(r"[0-9]{1,5}", port):
            raise ValueError("must be host:port, or several of them separated by commas")
        if not 0 < int(port) < 1 << 16:
            raise ValueError("each port must be a number from 1 to 65535")
    return ",".join(addresses)


def _legal_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name) or name in {".", ".."}:
        raise ValueError("must be 1 to 249 characters of a-z, A-Z, 0-9, '.', '_' and '-', and not '.' or '..'")
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
        raise ValueError("must be -1, or at least 1")
    return number


Replicas = Annotated[int, Field(ge=-1, lt=1 << 15), AfterValidator(_replicas)]
KafkaName = Annotated[str, AfterValidator(_legal_name)]
File = Annotated[Path, AfterValidator(_readable)]
Bytes = Annotated[int, Field(ge=1, le=1 << 30)]
Text = Annotated[str, Field(min_length=1)]


class _StreamSettings(BaseSettings):
    """The settings of what the worker folds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        dotenv_filtering="match_prefix",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    config: File | None = Field(
        default=None,
        description=f"Path of the TOML file with settings; by default `{TOML_FILE}` in the working directory, if it exists.",
    )
    brokers: Brokers = Field(default="localhost:9092", description="Addresses of Kafka brokers: `host:port,…`.")
    app_id: KafkaName = Field(
        default="session-worker",
        max_length=200,
        description="Name of the consumer group, and prefix of transactional ids.",
    )
    application_id: int = Field(
        default=1, ge=0, description="The application of all sessions: `applicationId` in snapshots."
    )
    other_applications: Literal["reject", "skip"] = Field(
        default="reject", description="What to do with update records of another application: `reject` or `skip`."
    )
    unknown_fields: Literal["reject", "ignore"] = Field(
        default="reject", description="What to do with fields that are not in the contract: `reject` or `ignore`."
    )
    cloudevents: bool = Field(
        default=False,
        description="Read the headers `ce_id`, `ce_time` and `ce_subject` as the eventId, occurredAt and integrationId of "
        "update records that lack them.",
    )
    max_record_bytes: Bytes = Field(default=1 << 20, description="Upper bound in bytes of an update record's value.")
    max_snapshot_bytes: Bytes = Field(default=1 << 20, description="Upper bound in bytes of a snapshot's value.")

    on_data_loss: Literal["fail", "earliest"] = Field(
        default="fail",
        description="What to do if update records were deleted before the worker read them: `fail`, or continue at the "
        "`earliest` record.",
    )
    max_rejection_ratio: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="The worker stops without a further commit if it rejects more than this share of its last 1,000 to "
        "2,000 update records; by default it never stops for this reason.",
    )


def _topic_field(topic: str) -> tuple[Any, Any]:
    """Return the type and the field of the setting that names a topic."""
    default = getattr(_NAMES, topic)
    kind: Any = KafkaName | None if default is None else KafkaName
    return kind, Field(default=default, description=TOPICS[topic].setting)


if TYPE_CHECKING:

    class _TopicSettings(_StreamSettings):
        def __init__(self, **settings: Any) -> None: ...

        def __getattr__(self, setting: str) -> Any: ...
else:
    _TopicSettings = create_model(
        "_TopicSettings", __base__=_StreamSettings, **{f"{topic}_topic": _topic_field(topic) for topic in TOPICS}
    )


class Settings(_TopicSettings):
    """The settings in force; a wrong one is a ValidationError, before anything is opened."""

    partitions: int = Field(
        default=8,
        ge=1,
        le=MAX_PARTITIONS,
        description="Number of partitions of each topic, if the worker creates the input topic.",
    )
    replication_factor: Replicas = Field(
        default=-1, description="Replication factor of topics that the worker creates; -1: the default of the broker."
    )

    store: Literal["memory://", "rocksdb://"] = Field(
        default="memory://", description="Where the worker keeps its tables: `memory://` or `rocksdb://`."
    )
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("session-worker"),
        description="Folder of tables on disk and of instance names.",
    )
    instance: KafkaName | None = Field(
        default=None,
        max_length=100,
        description="Unique name of this worker in its group that survives a restart, such as the name of a pod of a "
        "StatefulSet. By default the worker keeps a random name in a file below SESSION_WORKER_DATA_DIR.",
    )
    standby_replicas: int = Field(
        default=0, ge=0, description="Number of other workers that keep a copy of each table."
    )
    session_timeout_seconds: int = Field(
        default=10,
        ge=1,
        le=1800,
        description="Seconds without a heartbeat after which the group assigns a worker's partitions to others. Brokers "
        "refuse less than their `group.min.session.timeout.ms`, which is 6 s by default.",
    )
    transaction_timeout_seconds: int = Field(
        default=10,
        ge=1,
        le=900,
        description="Seconds after which the broker aborts the open transaction of a dead worker.",
    )
    stop_seconds: int = Field(
        default=STOP_SECONDS,
        ge=1,
        le=3600,
        description="Upper bound in seconds of a worker's stop after a signal or an error; it must be less than the grace "
        "period of the container.",
    )
    web_host: Text = Field(default="127.0.0.1", description="Address at which the web server of the worker listens.")
    web_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of the web server; 0: any free port. By default there is no server.",
    )

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="Protocol to the brokers: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        default="PLAIN", description="SASL mechanism: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`."
    )
    sasl_username: Text | None = Field(default=None, description="User name for SASL.")
    sasl_password: SecretStr | None = Field(default=None, min_length=1, description="Password for SASL.")
    sasl_password_file: File | None = Field(
        default=None, description="File with the password for SASL; the worker reads the file for each new connection."
    )
    sasl_token_file: File | None = Field(
        default=None,
        description="File with the token for `OAUTHBEARER`; the worker reads the file for each new connection.",
    )
    ssl_cafile: File | None = Field(
        default=None,
        description="File with the certificates (PEM) of trusted authorities; by default those of the system.",
    )
    ssl_certfile: File | None = Field(default=None, description="File with the certificate (PEM) of the worker.")
    ssl_keyfile: File | None = Field(
        default=None, description="File with the private key (PEM) of the worker's certificate."
    )
    ssl_password: SecretStr | None = Field(default=None, min_length=1, description="Password of the private key.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (ours also reports unknown variables)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence: arguments of the call, environment, .env file, TOML file."""
        return init_settings, *sources_of(settings_cls).values()

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        """Raise ValueError for names that are equal, also after '.' and '_' collide in Kafka's metrics."""
        seen: dict[str, str] = {}
        for field in TOPICS:
            setting = f"{field}_topic"
            if name := getattr(self, setting):
                other = seen.setdefault(name.replace(".", "_"), setting)
                if other != setting:
                    both = f"{variable(other)} and {variable(setting)}"
                    raise ValueError(f"{both} are {getattr(self, other)!r} and {name!r}: set different names")
        return self

    @model_validator(mode="after")
    def _security_is_whole(self) -> Self:
        """Raise ValueError for an incomplete login or certificate, and for one that the protocol does not use."""
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
                raise ValueError(f"{variable(name)}: has no effect with {how}; remove one of the two settings")
        pairs = [("ssl_certfile", "ssl_keyfile"), ("ssl_keyfile", "ssl_certfile"), ("ssl_password", "ssl_keyfile")]
        if self._has_sasl:
            pairs += [("security_protocol", name) for name in login]
        for name, needed in pairs:
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"{variable(needed)}: is missing, but {variable(name)} requires it")
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
        """Return the rules of the contract that the settings change."""
        return Rules(
            application_id=self.application_id,
            other_applications=self.other_applications,
            unknown_fields=self.unknown_fields,
            cloudevents=self.cloudevents,
            max_record_bytes=self.max_record_bytes,
            max_snapshot_bytes=self.max_snapshot_bytes,
        )

    def topology(self, partitions: int | None) -> Topology:
        """Return the topology with the names of the topics; each topic has *partitions* partitions."""
        return Topology(partitions, **{field: getattr(self, f"{field}_topic") for field in TOPICS})

    def connection(self) -> dict[str, Any]:
        """Return the arguments with which each client of aiokafka connects to the brokers, SASL secrets included."""
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
        """Return a context with the certificates. Raise ValueError, also for an encrypted key without a password."""
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
        except OSError as error:
            raise ValueError(f"{variable('ssl_cafile')}: cannot be loaded: {error}") from error
        if self.ssl_certfile is not None:
            password = self.ssl_password.get_secret_value() if self.ssl_password else ""
            try:
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
            except OSError as error:
                why = f"cannot be loaded with {variable('ssl_keyfile')} and {variable('ssl_password')}: {error}"
                raise ValueError(f"{variable('ssl_certfile')}: {why}") from error
        return context
