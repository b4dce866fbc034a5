"""The command line: what a person sees; what the commands do is tested where it is done."""

import json

from click.testing import CliRunner

from worker.cli import main
from worker.local.simulator import simulate

LINE = '{"key":"s-1","timestamp":1795372800000,"value":{"customerSession":{}}}\n'


def run(*arguments: str, given: str | None = None, **settings: str):
    return CliRunner().invoke(main, arguments, input=given, env=settings)


def test_replay_reads_standard_input_and_writes_standard_output():
    result = run("replay", "-", given=LINE)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["value"]["integrationId"] == "s-1"
    assert result.stderr == ""


def test_a_line_that_is_not_in_the_form_is_one_line_on_standard_error_and_status_2():
    result = run("replay", "-", given=LINE + "{}\n")
    assert (result.exit_code, len(result.stdout.splitlines())) == (2, 1)
    assert result.stderr == "Error: <stdin>, line 2: Object missing required field `timestamp`\n"


def test_a_wrong_setting_is_one_line_on_standard_error_and_status_2_before_any_connection():
    result = run("run", SESSION_WORKER_BROKERS="nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: SESSION_WORKER_BROKERS")
    assert result.stderr.count("\n") == 1


def test_settings_reach_the_rules():
    result = run("replay", "-", given=LINE, SESSION_WORKER_APPLICATION_ID="7", SESSION_WORKER_V1_TOPIC="v1")
    snapshot, view = map(json.loads, result.stdout.splitlines())
    assert (snapshot["value"]["applicationId"], view["topic"]) == (7, "v1")


def test_the_summary_counts_what_was_read():
    result = run("replay", "-", "--summary", given=LINE * 3 + LINE.replace("{}", "[]"))
    assert result.exit_code == 0
    words = " ".join(result.stderr.replace("│", " ").split())
    for told in ("open 1 0.00", "updated 2", "created 1", "rejected 1", "invalid_field 1", "4 records in"):
        assert told in words


def test_simulate_writes_what_the_simulator_makes(tmp_path):
    out = tmp_path / "updates.jsonl"
    assert run("simulate", "--count", "50", "--seed", "3", "--out", str(out)).exit_code == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == list(simulate(50, 3))


def test_schemas_are_written_into_a_folder(tmp_path):
    result = run("schemas", "--out", str(tmp_path / "new"))
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "asyncapi.json",
        "rejection-headers.schema.json",
        "snapshot-v1.schema.json",
        "snapshot.schema.json",
        "update-record.schema.json",
    ]
