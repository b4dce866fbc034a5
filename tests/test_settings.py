"""What an operator may set: where it is read from, what is refused, and that no secret is ever shown."""

import asyncio
import os
import socket
import ssl
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pydantic import ValidationError

from worker.cli import main
from worker.domain.limits import Rules
from worker.kafka.credentials import UnusableFile
from worker.pipeline.topology import TOPICS, Topology
from worker.runtime.faust.app import build_app
from worker.settings.model import Settings
from worker.settings.report import WrongSetting, example_file, load
from worker.settings.sources import PREFIX

ROOT = Path(__file__).parents[1]
TLS = Path(__file__).parent / "tls"
CERTIFICATE, KEY, KEY_SECRET = str(TLS / "certificate.pem"), str(TLS / "key.pem"), "key-secret"
SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """Run in an empty folder, with nothing set."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.lower().startswith(PREFIX.lower())]:
        monkeypatch.delenv(name)


def run(*arguments: str, **given: str):
    return CliRunner().invoke(main, arguments, env={PREFIX + name.upper(): value for name, value in given.items()})


def in_force(**given: str):
    """Give value and source of each setting, as the command prints them."""
    result = run("settings", **given)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = (line.split(maxsplit=2) for line in result.stdout.splitlines())
    return {name.removeprefix(PREFIX).lower(): (value, source) for name, value, source in rows}


def refused(**given: str):
    """Give the line that says why the settings are wrong; every command reads them before all else."""
    errors = set()
    for command in (["settings"], ["replay", "-"]):
        result = run(*command, **given)
        assert (result.exit_code, result.stdout) == (2, "")
        assert SECRET not in result.stderr
        errors.add(result.stderr)
    (line,) = errors
    assert line.startswith("Error: ")
    assert line.endswith("\n")
    assert line.count("\n") == 1
    return line.removeprefix("Error: ").rstrip()


# ------------------------------------------------------------------------------------------------------- defaults


def test_the_defaults_are_those_of_the_contract():
    settings = Settings()
    assert settings.rules() == Rules()
    assert settings.topology(8) == Topology(8)
    assert settings.topology(None) == Topology(None)
    assert settings.connection() == {
        "bootstrap_servers": "localhost:9092",
        "client_id": "session-worker",
        "security_protocol": "PLAINTEXT",
    }
    assert settings.data_dir.name == "session-worker"
    assert (settings.app_id, settings.partitions, settings.replication_factor) == ("session-worker", 8, -1)
    assert (settings.store, settings.standby_replicas, settings.web_port) == ("memory://", 0, None)
    assert (settings.session_timeout_seconds, settings.transaction_timeout_seconds) == (10, 10)
    assert {source for _value, source in in_force().values()} == {"default"}


def test_every_rule_and_every_topic_can_be_set():
    names = {field: f"my.{field}" for field in TOPICS}
    rules: dict[str, Any] = {
        "application_id": 7,
        "other_applications": "skip",
        "unknown_fields": "ignore",
        "max_record_bytes": 100,
        "max_snapshot_bytes": 200,
    }
    settings = Settings(**rules, **{f"{field}_topic": name for field, name in names.items()})  # type: ignore[arg-type]
    assert settings.rules() == Rules(**rules)
    assert settings.topology(4) == Topology(4, **names)
    assert settings.topology(4).named() == names


# -------------------------------------------------------------------------------------------------------- sources


def test_the_environment_goes_over_the_env_file_and_that_over_the_toml_file():
    Path(".env").write_text("SESSION_WORKER_PARTITIONS=2\nSESSION_WORKER_APP_ID=two\nOTHER=1\n# a comment\n", "utf-8")
    Path("session-worker.toml").write_text('partitions = 3\napp_id = "three"\nweb_port = 3\n', "utf-8")
    found = in_force(partitions="1")
    assert found["partitions"] == ("1", "environment")
    assert found["app_id"] == ("two", ".env")
    assert found["web_port"] == ("3", "session-worker.toml")
    assert found["standby_replicas"] == ("0", "default")


def test_settings_in_force_are_those_that_were_loaded(monkeypatch):
    Path("session-worker.toml").write_text('partitions = 3\ndata_dir = "tables"\n', "utf-8")
    monkeypatch.setenv("SESSION_WORKER_BROKERS", "a:1, b:2")
    settings = load()
    shown = {name: value for name, (value, _source) in in_force().items() if name != "brokers"}
    assert settings.brokers == "a:1,b:2"
    assert (settings.partitions, settings.data_dir) == (3, Path("tables"))
    loaded = settings.model_dump(exclude={"brokers"})
    assert shown == {name: "–" if value is None else str(value) for name, value in loaded.items()}


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_another_toml_file_can_be_named(where):
    Path("session-worker.toml").write_text("partitions = 3\n", "utf-8")
    Path("other.toml").write_text("partitions = 4\n", "utf-8")
    given = {"config": "other.toml"} if where == "environment" else {}
    if where == ".env":
        Path(".env").write_text("SESSION_WORKER_CONFIG=other.toml\n", "utf-8")
    found = in_force(**given)
    assert found["config"] == ("other.toml", where)
    assert found["partitions"] == ("4", "other.toml")


def test_the_example_is_a_toml_file_of_the_defaults():
    assert tomllib.loads(example_file()) == {}
    lines = [line.removeprefix("# ") for line in run("settings", "--example").stdout.splitlines() if " = " in line]
    assert [line.partition(" = ")[0] for line in lines] == [name for name in Settings.model_fields if name != "config"]
    Path("session-worker.toml").write_text("\n".join(line for line in lines if not line.endswith(' = ""')), "utf-8")
    assert load().model_dump() == Settings.model_construct().model_dump()


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("brokers", "", "must be host:port"),
        ("brokers", "kafka", "must be host:port"),
        ("brokers", "kafka:9092,", "must be host:port"),
        ("brokers", "kafka:9092;kafka:9093", "must be host:port"),
        ("brokers", "http://kafka:9092", "must be host:port"),
        ("brokers", "::1:9092", "must be host:port"),
        ("brokers", "kafka:0", "each port must be a number from 1 to 65535"),
        ("brokers", "kafka:65536", "each port must be a number from 1 to 65535"),
        ("app_id", "my worker", "must be 1 to 249 characters"),
        ("app_id", "x" * 201, "at most 200 characters"),
        ("application_id", "one", "valid integer"),
        ("application_id", "-1", "greater than or equal to 0"),
        ("other_applications", "drop", "'reject' or 'skip'"),
        ("unknown_fields", "keep", "'reject' or 'ignore'"),
        ("max_record_bytes", "0", "greater than or equal to 1"),
        ("max_record_bytes", "1073741825", "less than or equal to 1073741824"),
        ("max_snapshot_bytes", "1.5", "valid integer"),
        ("partitions", "0", "greater than or equal to 1"),
        ("partitions", "8193", "less than or equal to 8192"),
        ("replication_factor", "0", "must be -1, or at least 1"),
        ("replication_factor", "-2", "greater than or equal to -1"),
        ("store", "rocksdb", "'memory://' or 'rocksdb://'"),
        ("standby_replicas", "-1", "greater than or equal to 0"),
        ("session_timeout_seconds", "0", "greater than or equal to 1"),
        ("session_timeout_seconds", "1801", "less than or equal to 1800"),
        ("transaction_timeout_seconds", "0", "greater than or equal to 1"),
        ("transaction_timeout_seconds", "901", "less than or equal to 900"),
        ("web_host", "", "at least 1 character"),
        ("web_port", "65536", "less than or equal to 65535"),
        ("security_protocol", "TLS", "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        ("sasl_mechanism", "GSSAPI", "'PLAIN', 'SCRAM-SHA-256', 'SCRAM-SHA-512' or 'OAUTHBEARER'"),
        ("sasl_username", "", "at least 1 character"),
        ("ssl_cafile", "missing.pem", "cannot be read: No such file or directory"),
        ("ssl_certfile", ".", "cannot be read: Is a directory"),
        ("config", "missing.toml", "cannot be read: No such file or directory"),
        *[(f"{field}_topic", "a topic", "must be 1 to 249 characters") for field in TOPICS],
        ("v1_topic", "", "must be 1 to 249 characters"),
        ("updates_topic", "..", "and not '.' or '..'"),
        ("updates_topic", "x" * 250, "1 to 249 characters"),
    ],
)
def test_a_wrong_setting_is_one_line_with_its_name_and_status_2(name, value, message):
    line = refused(**{name: value})
    assert line.startswith(f"{PREFIX}{name.upper()}: ")
    assert message in line
    assert len(value) > 100 or line.endswith(f", but it is {value!r}")


@pytest.mark.parametrize(
    "brokers", ["kafka:9092", "a.example.com:1,b-2_c:65535", "127.0.0.1:9092", "[::1]:9092,[fe80::1]:9092"]
)
def test_brokers_are_names_or_addresses_each_with_its_port(brokers):
    assert Settings(brokers=brokers).brokers == brokers


def test_the_source_of_a_wrong_setting_is_named():
    Path("session-worker.toml").write_text("partitions = 0\n", "utf-8")
    assert refused().startswith("partitions in session-worker.toml: Input should be greater than or equal to 1")
    Path(".env").write_text("SESSION_WORKER_PARTITIONS=0\n", "utf-8")
    assert refused().startswith("SESSION_WORKER_PARTITIONS in .env: Input should be greater than or equal to 1")
    assert refused(partitions="0").startswith("SESSION_WORKER_PARTITIONS: Input should be greater than or equal to 1")


def test_a_name_that_is_misspelt_is_refused_with_the_nearest_and_its_value_is_not_shown():
    message = "unknown setting; did you mean"
    assert refused(sasl_pasword=SECRET) == (f"SESSION_WORKER_SASL_PASWORD: {message} SESSION_WORKER_SASL_PASSWORD?")
    assert refused(zzz=SECRET) == "SESSION_WORKER_ZZZ: unknown setting"
    Path("session-worker.toml").write_text(f'sasl_pasword = "{SECRET}"\n', "utf-8")
    assert refused() == f"sasl_pasword in session-worker.toml: {message} sasl_password?"
    Path("session-worker.toml").write_text(f'[sasl]\npassword = "{SECRET}"\n', "utf-8")
    assert refused().startswith("sasl in session-worker.toml: unknown setting")
    Path("session-worker.toml").unlink()
    Path(".env").write_text(f"SESSION_WORKER_SASL_PASWORD={SECRET}\n", "utf-8")
    assert refused() == f"SESSION_WORKER_SASL_PASWORD in .env: {message} SESSION_WORKER_SASL_PASSWORD?"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (".env", b"OTHER=1\nSESSION_WORKER_PARTITIONS 3\n", ".env: line 2 is not NAME=value"),
        (".env", b"SESSION_WORKER_PARTITIONS\n", "SESSION_WORKER_PARTITIONS in .env: Input should be a valid integer"),
        (".env", b"\xff\n", ".env: 'utf-8' codec can't decode"),
        ("session-worker.toml", b"partitions\n", "session-worker.toml: Expected '=' after a key"),
        ("session-worker.toml", b"\xff\n", "session-worker.toml: 'utf-8' codec can't decode"),
        ("session-worker.toml", b'config = "x"\n', "session-worker.toml: config must not be in the TOML file"),
    ],
)
def test_a_file_that_cannot_be_read_as_it_is_meant_is_refused(file, text, message):
    Path(file).write_bytes(text)
    assert refused().startswith(message)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("session-worker.toml", b"partitions = 3\r\n# \xc3\xbc\n"),
        (".env", b"SESSION_WORKER_PARTITIONS=3\r\n"),
    ],
)
def test_a_byte_order_mark_is_skipped(file, text):
    Path(file).write_bytes(b"\xef\xbb\xbf" + text)
    assert in_force()["partitions"] == ("3", file)


@pytest.mark.parametrize("file", ["session-worker.toml", ".env"])
def test_a_file_in_utf_16_is_refused(file):
    Path(file).write_bytes("SESSION_WORKER_PARTITIONS=3".encode("utf-16"))
    assert refused().startswith(f"{file}: 'utf-8' codec can't decode")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SESSION_WORKER_BROKERS = '#'", "SESSION_WORKER_BROKERS in #: unknown setting; write brokers: "),
        ("session_worker_brokers = '#'", "session_worker_brokers in #: unknown setting; write brokers: "),
        ("[worker]\nbrokers = '#'", "worker in #: unknown setting; write brokers above all tables: "),
        (
            "[tool.session-worker]\nBROKERS = '#'",
            "tool in #: unknown setting; write brokers above all tables: ",
        ),
        (
            "[x]\na = 1\nSESSION_WORKER_APP_ID = '#'",
            "x in #: unknown setting; write app_id above all tables: ",
        ),
        ("[[worker]]\nbrokers = '#'", "worker in #: unknown setting"),
        ("[zzz]\na = '#'", "zzz in #: unknown setting"),
    ],
)
def test_a_setting_with_the_prefix_or_in_a_table_of_a_toml_file_is_named_as_it_is_to_be_written(text, message):
    Path("session-worker.toml").write_text(text.replace("#", SECRET), "utf-8")
    line = refused()
    assert line.startswith(message.replace("#", "session-worker.toml"))
    assert ("names in this file are in lower case" in line) == ("write" in message)


def test_a_toml_file_that_cannot_be_opened_is_named(monkeypatch):
    """Root may read everything, so the file is opened by a name that it does not have."""
    Path("session-worker.toml").write_text("partitions = 3\n", "utf-8")
    opened = Path.read_text

    def denied(path, *arguments, **keywords):
        if path.suffix == ".toml":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "read_text", denied)
    assert refused() == "session-worker.toml: cannot be read: Permission denied"


def test_a_web_port_in_use_is_named_with_its_setting():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(WrongSetting) as found:
            build_app(Settings(web_port=port), Topology(8))
    message = (
        "the web server cannot listen at 127.0.0.1: Address already in use; set another port, or 0 for any free one"
    )
    assert str(found.value) == f"SESSION_WORKER_WEB_PORT={port}: {message}"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a..b", "x" * 70])
@pytest.mark.parametrize("port", [None, 0])
def test_a_web_host_that_is_not_of_this_machine_is_named_with_its_setting(host, port):
    with pytest.raises(WrongSetting) as found:
        build_app(Settings(web_host=host, web_port=port), Topology(8))
    assert str(found.value).startswith(f"SESSION_WORKER_WEB_HOST={host}: the web server cannot listen at {host}: ")
    assert str(found.value).endswith("; set an address of this machine, for example 127.0.0.1 or 0.0.0.0")


@pytest.mark.parametrize("data_dir", ["file", "file/inside"])
def test_a_data_folder_that_cannot_be_used_is_named_with_its_setting(data_dir):
    Path("file").touch()
    with pytest.raises(WrongSetting) as found:
        build_app(Settings(store="rocksdb://", data_dir=Path(data_dir)), Topology(8))
    assert str(found.value).startswith(f"SESSION_WORKER_DATA_DIR={data_dir}: ")
    assert str(found.value).endswith("; set a folder that can be written")


def test_what_kubernetes_adds_for_a_service_of_this_name_is_no_setting():
    service = {
        "service_host": "10.0.0.1",
        "service_port": "80",
        "service_port_web": "80",
        "port": "tcp://10.0.0.1:80",
        "port_80_tcp": "tcp://10.0.0.1:80",
        "port_80_tcp_proto": "tcp",
        "port_80_tcp_port": "80",
        "port_80_tcp_addr": "10.0.0.1",
    }
    assert in_force(**service) == in_force()
    assert refused(port="80").startswith("SESSION_WORKER_PORT: unknown setting")


def test_topics_that_kafka_would_confuse_are_refused():
    names = {f"{field}_topic": f"name-{field}" for field in TOPICS}
    load_with = {**names, "v1_topic": "name-sessions"}
    assert refused(**load_with) == (
        "SESSION_WORKER_SESSIONS_TOPIC and SESSION_WORKER_V1_TOPIC are 'name-sessions' and 'name-sessions': "
        "set different names"
    )
    dotted = {**names, "claims_topic": "a.b_c", "verdicts_topic": "a_b.c"}
    assert "SESSION_WORKER_CLAIMS_TOPIC and SESSION_WORKER_VERDICTS_TOPIC are 'a.b_c' and 'a_b.c'" in refused(**dotted)
    assert in_force(**names)["v1_topic"] == ("name-v1", "environment")


# ------------------------------------------------------------------------------------------------------- security


SASL: dict[str, Any] = {"security_protocol": "SASL_PLAINTEXT", "sasl_username": "shop", "sasl_password": SECRET}
TOKEN: dict[str, Any] = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "OAUTHBEARER",
    "sasl_token_file": KEY,
}
TRUSTED: dict[str, Any] = {"security_protocol": "SSL", "ssl_cafile": CERTIFICATE}
KEYED: dict[str, Any] = {**TRUSTED, "ssl_certfile": CERTIFICATE, "ssl_keyfile": KEY, "ssl_password": KEY_SECRET}


def without(given: dict[str, Any], *names: str):
    return {name: value for name, value in given.items() if name not in names}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (without(SASL, "sasl_username"), "SASL_USERNAME: is missing, but SESSION_WORKER_SECURITY_PROTOCOL requires it"),
        (without(SASL, "sasl_password"), "SASL_PASSWORD: is missing, but SESSION_WORKER_SECURITY_PROTOCOL requires it"),
        (
            {**SASL, "sasl_mechanism": "OAUTHBEARER"},
            "SASL_USERNAME: has no effect with SESSION_WORKER_SASL_MECHANISM OAU",
        ),
        ({**SASL, "sasl_token_file": KEY}, "SASL_TOKEN_FILE: has no effect with SESSION_WORKER_SASL_MECHANISM PLAIN"),
        (
            without(TOKEN, "sasl_token_file"),
            "SASL_TOKEN_FILE: is missing, but SESSION_WORKER_SECURITY_PROTOCOL requires",
        ),
        ({**SASL, "sasl_password": ""}, "SASL_PASSWORD: Value should have at least 1 item"),
        (
            {**SASL, "security_protocol": "PLAINTEXT"},
            "SASL_USERNAME: has no effect with SESSION_WORKER_SECURITY_PROTOCOL",
        ),
        ({**TRUSTED, **SASL}, "SSL_CAFILE: has no effect with SESSION_WORKER_SECURITY_PROTOCOL SASL_PLAINTEXT"),
        (without(KEYED, "ssl_certfile"), "SSL_CERTFILE: is missing, but SESSION_WORKER_SSL_KEYFILE requires it"),
        (without(KEYED, "ssl_keyfile"), "SSL_KEYFILE: is missing, but SESSION_WORKER_SSL_CERTFILE requires it"),
        (without(KEYED, "ssl_password"), "SSL_CERTFILE: cannot be loaded with SESSION_WORKER_SSL_KEYFILE and"),
        ({**KEYED, "ssl_password": SECRET}, "SSL_CERTFILE: cannot be loaded with SESSION_WORKER_SSL_KEYFILE and"),
        ({**TRUSTED, "ssl_cafile": KEY}, "SSL_CAFILE: cannot be loaded: "),
        ({**TRUSTED, "ssl_password": SECRET}, "SSL_KEYFILE: is missing, but SESSION_WORKER_SSL_PASSWORD requires it"),
    ],
)
def test_half_a_login_half_a_certificate_and_what_would_be_left_out_are_refused(given, message):
    assert refused(**given).startswith(PREFIX + message)


@pytest.mark.parametrize("value", [f'["{SECRET}"]', "4711"])
def test_a_secret_that_is_wrong_itself_is_not_shown(value):
    Path("session-worker.toml").write_text(f"sasl_password = {value}\n", "utf-8")
    assert refused() == "sasl_password in session-worker.toml: Input should be a valid string"


@pytest.mark.parametrize("times", [1, 30])
def test_a_key_in_the_place_of_its_files_name_is_not_shown(times):
    line = refused(**{**KEYED, "ssl_keyfile": Path(KEY).read_text("utf-8") * times})
    assert line.startswith("SESSION_WORKER_SSL_KEYFILE: cannot be read: ")
    assert "KEY----" not in line


def test_secrets_are_masked_wherever_settings_are_shown(caplog):
    given = {**KEYED, **SASL, "security_protocol": "SASL_SSL"}
    settings = Settings(**given)
    shown = [repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()]
    shown.append(run("settings", **given).stdout)
    shown.append(caplog.text)
    for text in shown:
        assert SECRET not in text
        assert KEY_SECRET not in text
    assert in_force(**given)["sasl_password"] == ("**********", "environment")
    with pytest.raises(ValidationError) as wrong:
        Settings(**{**given, "sasl_password": [SECRET]})
    assert SECRET not in str(wrong.value)


def test_a_client_gets_the_token_that_its_file_holds_at_each_login(tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n", "ascii")
    settings = Settings(**{**TOKEN, "sasl_token_file": file})
    provider = settings.connection()["sasl_oauth_token_provider"]
    assert asyncio.run(provider.token()) == "first"
    file.write_text("second\n", "ascii")
    assert asyncio.run(provider.token()) == "second"


def test_a_client_gets_the_password_that_its_file_holds_at_each_login(tmp_path):
    file = tmp_path / "password"
    file.write_text("first\n", "utf-8")
    given = {name: value for name, value in SASL.items() if name != "sasl_password"}
    password = Settings(**{**given, "sasl_password_file": file}).connection()["sasl_plain_password"]
    assert (password, password.read()) == ("first", "first")
    file.write_text("sec ond", "utf-8")
    assert password.read() == "sec ond"
    file.unlink()
    with pytest.raises(UnusableFile, match="cannot be read"):
        password.read()
    file.write_text("\n", "utf-8")
    with pytest.raises(UnusableFile, match="the file contains no password"):
        password.read()
    with pytest.raises(ValidationError, match=r"SESSION_WORKER_SASL_PASSWORD_FILE=.*: the file contains no password"):
        Settings(**{**given, "sasl_password_file": file})


def test_password_and_password_file_together_are_refused(tmp_path):
    file = tmp_path / "password"
    file.write_text("first", "utf-8")
    with pytest.raises(ValidationError, match="are both set: set one of them"):
        Settings(**{**SASL, "sasl_password_file": file})


def test_a_client_gets_the_login_and_the_certificates():
    plain = Settings(**SASL).connection()
    assert plain == {
        "bootstrap_servers": "localhost:9092",
        "client_id": "session-worker",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "shop",
        "sasl_plain_password": SECRET,
    }
    whole = Settings(
        **{**KEYED, **SASL, "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512"}
    ).connection()
    context = whole.pop("ssl_context")
    assert whole == {**plain, "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512"}
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [authority["serialNumber"] for authority in context.get_ca_certs()]


# ------------------------------------------------------------------------------------------------------ documents


def test_the_compose_file_sets_what_there_is_to_set():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    given = services["worker"]["environment"]
    assert given
    assert all(name.startswith(PREFIX) for name in given)
    found = in_force(**{name.removeprefix(PREFIX): str(value) for name, value in given.items()})
    assert {name for name, (_value, source) in found.items() if source == "environment"} == {
        name.removeprefix(PREFIX).lower() for name in given
    }
    broker, port = found["brokers"][0].split(":")
    assert f"://{broker}:{port}" in services[broker]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert any(volume.endswith(":" + found["data_dir"][0]) for volume in services["worker"]["volumes"])
    assert int(services["worker"]["stop_grace_period"].removesuffix("s")) > int(found["stop_seconds"][0])
    assert services["worker"]["depends_on"] == {broker: {"condition": "service_healthy"}}
    assert "healthcheck" in services[broker]
