"""What a person does beside a worker, on a real Kafka: send a file, dump a topic, watch snapshots."""

import asyncio
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.protocol.admin import CreateAclsRequest
from click.testing import CliRunner

from tests.kafka.topics import Record, create, high_watermarks, own, produce, read, send
from tests.kafka.waits import within
from worker.cli import main
from worker.codec.lines import FORM, Line
from worker.codec.lines import read as lines_of
from worker.domain.limits import Rules
from worker.local.kafka import LocalKafka
from worker.local.simulator.day import simulate
from worker.pipeline.partitioner import partition_of
from worker.pipeline.replay import Replay
from worker.tools import topics as console
from worker.tools.sender import Limits, SendFailed

AT = 1600000000000
TRICKY = (
    Record(b"s-1", b'{"type":"reopen"}', (("traceparent", b"00-1"), ("\xfc", "ö".encode())), 0, AT),
    Record(b"s-1", b'{"type": "reopen"}', (), 1, AT + 1),
    Record(None, b"{", (), 0, AT - 5),
    Record(b"s-2", None, (), 2, AT),
    Record(None, None, (), 2, AT),
    Record(b"", b"", (), 0, AT),
    Record("Ä".encode(), b'{"price":1.0,"n":2e0,"s":"\\u00fc\\n"}', (), 1, 0),
    Record(b"\xff\x00", b"\x00\xfe", (("h", b"\xff"),), 1, AT),
    Record(b"s-3", b'{"a":"' + b"x" * 900_000 + b'"}', (), 2, AT),
)


def run(kafka, *arguments, given=None):
    return CliRunner(env={"SESSION_WORKER_BROKERS": kafka}).invoke(main, arguments, input=given)


def content(records):
    return [Record(it.key, it.value, it.headers, it.partition, it.timestamp) for it in records]


def line_of(record):
    """Write by hand the line that stands for a record with text in it."""
    text = {name: it if it is None else it.decode() for name, it in (("key", record.key), ("value", record.value))}
    headers = {name: value.decode() for name, value in record.headers}
    return json.dumps({**text, "timestamp": record.timestamp_ms, "partition": record.partition, "headers": headers})


def test_what_is_sent_is_on_the_topic_byte_for_byte(kafka, tmp_path):
    topic, file = own("sent"), tmp_path / "updates.jsonl"
    asyncio.run(create(kafka, topic, partitions=3))
    sendable = [it for it in TRICKY if it.key != b"\xff\x00"]
    file.write_text("\n".join(map(line_of, sendable)))
    result = run(kafka, "send", str(file), "--topic", topic)
    assert (result.exit_code, result.stderr) == (0, f"8 records sent to {topic}\n")
    assert content(asyncio.run(read(kafka, topic))) == sorted(sendable, key=lambda it: it.partition or 0)


def test_records_without_timestamp_are_sent_without_one(kafka):
    topic = own("untimed")
    asyncio.run(create(kafka, topic))
    times = [-1, -1, AT, -1, AT, AT, -1]
    text = "".join(json.dumps({"key": "k", "value": {}, "timestamp": time}) + "\n" for time in times)
    assert run(kafka, "send", "-", "--topic", topic, given=text).exit_code == 0
    assert [it.timestamp for it in asyncio.run(read(kafka, topic))] == times


def test_records_that_name_no_partition_go_where_kafka_puts_their_key(kafka):
    topic = own("keyed")
    asyncio.run(create(kafka, topic, partitions=5))
    keys = [f"s-{number}" if number % 4 else None for number in range(200)]
    text = "".join(json.dumps({"key": key, "value": {}, "timestamp": n}) + "\n" for n, key in enumerate(keys))
    assert run(kafka, "send", "-", "--topic", topic, given=text).exit_code == 0
    found = asyncio.run(read(kafka, topic))
    assert sorted(it.timestamp for it in found) == list(range(200))
    assert all(it.key is None or it.partition == partition_of(it.key, 5) for it in found)
    assert {it.partition for it in found if it.key is None} == set(range(5))


def test_a_dump_sent_to_another_topic_is_the_same_topic(kafka, tmp_path):
    first, second, file = own("first"), own("second"), tmp_path / "dump.jsonl"
    asyncio.run(create(kafka, first, second, partitions=3))
    asyncio.run(produce(kafka, first, TRICKY[:4] + TRICKY[5:]))  # aiokafka refuses to send a record of nulls
    assert run(kafka, "dump", first, "--out", str(file)).exit_code == 0
    assert run(kafka, "send", str(file), "--topic", second).exit_code == 0
    assert content(asyncio.run(read(kafka, second))) == content(asyncio.run(read(kafka, first)))
    offsets = [(line["partition"], line["offset"]) for line in map(json.loads, file.read_text().splitlines())]
    assert sorted(offsets) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_a_replayed_dump_gives_what_a_replay_of_what_was_sent_gives(kafka, tmp_path):
    topic, file = own("updates"), tmp_path / "updates.jsonl"
    asyncio.run(create(kafka, topic, partitions=4, max_message_bytes="4194304"))
    lines = [json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in simulate(3000, 1)]
    file.write_bytes(b"".join(lines))
    assert run(kafka, "send", str(file), "--topic", topic).exit_code == 0
    dumped = run(kafka, "dump", topic).stdout_bytes.splitlines()
    assert len(dumped) == len(lines)
    by_place: dict[int, list[int]] = {}
    for number, partition in enumerate(partitions_of(lines, 4)):  # ids come from partition and offset
        by_place.setdefault(partition, []).append(number)
    placed = [
        {**json.loads(lines[number]), "partition": partition, "offset": offset}
        for partition, numbers in by_place.items()
        for offset, number in enumerate(numbers)
    ]
    expected = published([json.dumps(line).encode() for line in placed])
    assert published(dumped) == expected
    assert len(expected) > 500


def partitions_of(lines, count):
    turn = -1
    for line in lines_of(lines):
        turn += line.key is None
        yield turn % count if line.key is None else partition_of(line.key, count)


def published(lines):
    """Give the last snapshot of each session."""
    found = [it for published in Replay(Rules()).lines(lines) for it in published]
    return {it.key: it.value for it in found if it.topic == "customer-sessions"}


def test_a_dump_holds_what_is_committed_and_ends_behind_the_last_marker(kafka):
    topic = own("committed")

    async def scenario():
        await create(kafka, topic, partitions=2)
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
            async with producer.transaction():
                await send(producer, topic, [Record(None, b"kept", partition=0), Record(None, b"kept", partition=1)])
            await producer.begin_transaction()
            await send(producer, topic, [Record(None, b"dropped", partition=0)])
            await producer.abort_transaction()
        return await high_watermarks(kafka, topic)

    ends = asyncio.run(scenario())
    assert sorted(ends.values()) == [2, 4]
    result = run(kafka, "dump", topic)
    assert [json.loads(line)["value"] for line in result.stdout.splitlines()] == ["kept", "kept"]
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_dump_waits_for_an_open_transaction_and_then_tells_where_it_is(kafka, monkeypatch):
    topic = own("open")
    monkeypatch.setattr("worker.tools.topics.PATIENCE_SECONDS", 1)

    async def scenario():
        await create(kafka, topic, partitions=2)
        async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic) as producer:
            async with producer.transaction():
                await send(producer, topic, [Record(None, b"kept", partition=1)])
            await producer.begin_transaction()
            await send(producer, topic, [Record(None, b"open", partition=1)])
            result = await asyncio.to_thread(run, kafka, "dump", topic)
            dumping = asyncio.create_task(asyncio.to_thread(run, kafka, "dump", topic))
            await asyncio.sleep(0.5)
            await producer.commit_transaction()
            return result, await dumping

    left, whole = asyncio.run(scenario())
    assert [json.loads(line)["value"] for line in left.stdout.splitlines()] == ["kept"]
    assert left.stderr == "partition 1: the output ends at offset 2, where a transaction is open\n"
    assert [json.loads(line)["value"] for line in whole.stdout.splitlines()] == ["kept", "open"]
    assert (left.exit_code, whole.exit_code, whole.stderr) == (0, 0, "")


def test_a_dump_ends_where_the_topic_ended_at_its_start(kafka, monkeypatch):
    topic = own("growing")
    asyncio.run(create(kafka, topic))
    asyncio.run(produce(kafka, topic, [Record(None, b"before")]))
    told = console.high_watermarks

    async def told_too_early(*arguments):
        ends = await told(*arguments)
        await produce(kafka, topic, [Record(None, b"after")])
        return ends

    monkeypatch.setattr(console, "high_watermarks", told_too_early)
    assert [json.loads(line)["value"] for line in run(kafka, "dump", topic).stdout.splitlines()] == ["before"]


LINE = '{"key": "s-1", "value": {}, "timestamp": 0}\n'


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (
            "{\n",
            "line 3: this is the beginning of pretty-printed JSON; each record is one line: `jq -c .` converts the file. {form}",
        ),
        (
            '{"value": {}, "timestamp": 0, "partition": 2}\n',
            "line 3: partition 2 does not exist: {topic} has 2 partitions",
        ),
    ],
)
def test_a_bad_line_is_named_and_those_before_it_are_sent(kafka, bad, told):
    topic = own("bad")
    asyncio.run(create(kafka, topic, partitions=2))
    result = run(kafka, "send", "-", "--topic", topic, given=LINE * 2 + bad + LINE)
    assert result.exit_code == 2
    told = told.format(topic=topic, form=f"A valid line is {FORM}")
    assert result.stderr == f"Error: <stdin>, {told}; 2 records before it are on {topic}\n"
    assert len(asyncio.run(read(kafka, topic))) == 2


@pytest.mark.parametrize("command", [("send", "-", "--topic"), ("dump",), ("tail", "--topic")])
def test_a_topic_that_is_not_there_is_one_line(kafka, command):
    result = run(kafka, *command, "nowhere", given=LINE)
    assert (result.exit_code, result.stderr) == (1, f"Error: the topic nowhere does not exist at {kafka}\n")


def test_a_broker_that_is_not_there_is_one_line():
    result = run("127.0.0.1:9", "dump", "topic")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "127.0.0.1" in result.stderr


# ------------------------------------------------------------------------------- records that the topic does not take


NOW = time.time_ns() // 1_000_000
YEARS_AHEAD = NOW + 3 * 365 * 86_400_000
YEARS_AGO = 1_000_000_000_000


def record(number, key="s-1", **more):
    return {"key": key, "value": {"n": number}, "timestamp": NOW, **more}


def sent(kafka, topic, records):
    """Send records, one a line; give the exit status, standard error, and the numbers in each partition of the topic."""
    result = run(kafka, "send", "-", "--topic", topic, given="".join(json.dumps(it) + "\n" for it in records))
    found: dict[int, list[int]] = {}
    for it in asyncio.run(read(kafka, topic)):
        found.setdefault(it.partition, []).append(json.loads(it.value or b"")["n"])
    return result.exit_code, result.stderr, found


def expected(records, partitions, refused):
    """Give the numbers that are in each partition when nothing of a partition follows its refused record."""
    placed: dict[int, list[int]] = {}
    for it in records[: refused - 1]:
        placed.setdefault(partition_of(it["key"].encode(), partitions), []).append(it["value"]["n"])
    return placed


LIMITS = [
    ("message_timestamp_after_max_ms", "3600000", {"timestamp": YEARS_AHEAD}),
    ("message_timestamp_before_max_ms", "3600000", {"timestamp": YEARS_AGO}),
    ("max_message_bytes", "20000", {"value": {"n": 2000, "x": "x" * 20_000}}),
    ("cleanup_policy", "compact", {"key": None, "partition": 1}),
]


@pytest.mark.parametrize(("limit", "value", "wrong"), LIMITS, ids=[it[0] for it in LIMITS])
def test_nothing_follows_a_record_that_a_limit_refuses(kafka, limit, value, wrong):
    topic = own("limited")
    asyncio.run(create(kafka, topic, partitions=4, **{limit: value}))
    records = [record(n, f"s-{n % 50}") for n in range(1, 3001)]
    records[1999] |= wrong
    partition = records[1999].get("partition", partition_of(b"s-0", 4))
    status, error, found = sent(kafka, topic, records)
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"Error: <stdin>, line 2000: not sent to partition {partition} of {topic}: ")
    assert f"{limit.replace('_', '.')}={value}" in error
    assert error.endswith("; 1,999 records are on the topic: all before this line\n")
    assert found == expected(records, 4, refused=2000)


def test_nothing_of_a_partition_follows_a_record_that_only_the_broker_knows_to_refuse(kafka, monkeypatch):
    """As where the principal may not read the topic's configuration: the broker refuses the whole batch."""
    topic = own("unknown")
    asyncio.run(create(kafka, topic, partitions=2))

    async def unknown(*_):
        return Limits()

    monkeypatch.setattr(console, "limits_of", unknown)
    records = [record(n, partition=n % 2, value={"n": n, "x": "x" * 500}) for n in range(1, 3001)]
    records[1000]["timestamp"] = YEARS_AHEAD  # line 1,001, in the middle of a batch of partition 1
    status, error, found = sent(kafka, topic, records)
    assert status == 2
    assert "line 1001: not sent to partition 1 of" in error
    assert "message.timestamp.before.max.ms, which cannot be read without DescribeConfigs" in error
    assert found[1] == list(range(1, 1000, 2)), "what precedes it in its batch is there, nothing that follows"
    assert found[0] == list(range(2, 2 * len(found[0]) + 1, 2)), "the other partition has no gap"
    account = re.search(r"; ([0-9,]+) records are on the topic: all up to line ([0-9,]+), but none (.*)\n$", error)
    assert account is not None
    assert account[1] == f"{len(found[0]) + len(found[1]):,}"
    assert int(account[2].replace(",", "")) // 2 == len(found[0]), "that line is the last that was read"
    assert account[3] == "of partition 1 from line 1,001"


def test_small_records_are_sent_where_a_topic_takes_no_large_batch(kafka):
    topic = own("narrow")
    asyncio.run(create(kafka, topic, max_message_bytes="5000"))
    status, error, found = sent(kafka, topic, [record(n) for n in range(2000)])
    assert (status, error) == (0, f"2,000 records sent to {topic}\n")
    assert found == {0: list(range(2000))}


def test_a_topic_that_stamps_records_takes_any_time(kafka):
    topic = own("stamped")
    asyncio.run(create(kafka, topic, message_timestamp_type="LogAppendTime", message_timestamp_after_max_ms="1000"))
    assert sent(kafka, topic, [record(1, timestamp=YEARS_AHEAD), record(2)])[::2] == (0, {0: [1, 2]})


def test_the_broker_decides_on_a_record_that_the_clock_here_finds_too_late(kafka, monkeypatch):
    topic = own("clock")
    asyncio.run(create(kafka, topic, message_timestamp_after_max_ms="3600000"))
    limits_of = console.limits_of

    async def slow_clock(*arguments):
        return (await limits_of(*arguments))._replace(latest=NOW - 86_400_000)

    monkeypatch.setattr(console, "limits_of", slow_clock)
    assert sent(kafka, topic, [record(n) for n in range(20)])[::2] == (0, {0: list(range(20))})


def test_a_topic_deleted_while_send_waits_is_named_with_what_was_sent(kafka, monkeypatch):
    topic = own("deleted")
    monkeypatch.setattr("worker.tools.sender._LOOK_SECONDS", 0.2)
    asyncio.run(create(kafka, topic))

    async def delete():
        async with console.administration({"bootstrap_servers": kafka}) as admin:
            await admin.delete_topics([topic])
            async with within(30, "the deletion of the topic"):
                while any(it["topic"] == topic for it in await admin.describe_topics()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    def lines():
        for number in range(1, 3001):
            if number == 2000:
                with ThreadPoolExecutor() as pool:
                    pool.submit(asyncio.run, delete()).result(30)
            yield Line(number, 0, None, NOW, b"s-1", b"x" * 1000, [])

    with pytest.raises(SendFailed, match=f"partition 0 of {topic}: the topic was deleted; [0-9,]+ records are on"):
        asyncio.run(console.send({"bootstrap_servers": kafka}, topic, lines()))


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ([{"a": 1}, {"b": [1.0, "ü"]}], [b'{"a":1}', '{"b":[1.0,"ü"]}'.encode()]),
        ('[{"a": 1}, {"b": 2}]', [b'{"a": 1}', b'{"b": 2}']),
        ('{"a":1}\n\n{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
        ('{"a":1}', [b'{"a":1}']),
    ],
    ids=["array", "array as text", "NDJSON", "one object"],
)
def test_split_makes_a_record_of_each_element(kafka, value, values):
    topic = own("split")
    asyncio.run(create(kafka, topic, partitions=3))
    line = json.dumps({"key": "s-1", "value": value, "timestamp": AT, "headers": {"a": "b"}})
    result = run(kafka, "send", "-", "--topic", topic, "--split", given=line)
    assert (result.exit_code, result.stderr) == (0, f"{len(values):,} records sent to {topic}\n")
    partition = partition_of(b"s-1", 3)
    assert content(asyncio.run(read(kafka, topic))) == [
        Record(b"s-1", it, (("a", b"b"),), partition, AT) for it in values
    ]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_send_while_it_waits_for_a_line(kafka, sent):
    topic = own("waiting")
    asyncio.run(create(kafka, topic))
    script = f"trap '' INT TERM; exec '{sys.executable}' -m worker send - --topic {topic}"
    env = {**os.environ, "SESSION_WORKER_BROKERS": kafka}
    with subprocess.Popen(["/bin/sh", "-c", script], env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(LINE.encode())
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4)) != bytes(4):  # until the line is taken
            assert time.monotonic() < deadline, "send has not read the line"
            time.sleep(0.01)
        process.send_signal(sent)
        assert process.wait(20) == 128 + sent
        assert process.stderr.read() == b""


def test_without_rights_send_says_which_is_missing_and_what_is_on_the_topic(tmp_path, monkeypatch):
    properties = {
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": (
            'org.apache.kafka.common.security.plain.PlainLoginModule required user_shop="secret";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    for name, value in (
        ("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("SASL_USERNAME", "shop"),
        ("SASL_PASSWORD", "secret"),
    ):
        monkeypatch.setenv(f"SESSION_WORKER_{name}", value)
    seen, written = own("seen"), own("written")
    with LocalKafka(tmp_path, properties=properties) as cluster:
        inside, outside = cluster.internal_servers, cluster.bootstrap_servers
        asyncio.run(create(inside, seen, written))
        asyncio.run(grant(inside, seen, operation=8))  # Describe
        lines = [record(1), record(2, timestamp=YEARS_AHEAD), record(3)]
        text = "".join(json.dumps(it) + "\n" for it in lines)
        first = run(outside, "send", "-", "--topic", seen, given=text)
        asyncio.run(grant(inside, written, operation=4))  # Write; not DescribeConfigs
        second = run(outside, "send", "-", "--topic", written, given=text)
        third = run(outside, "send", "-", "--topic", seen, given=text)
        there = [len(asyncio.run(read(inside, topic))) for topic in (seen, written)]
    remedy = "the broker does not permit it: grant the principal Write on the topic"
    assert first.stderr == f"Error: <stdin>, no record was sent to {seen}: {remedy}\n"
    assert "max.ms, which cannot be read without DescribeConfigs); 1 record is on the topic" in second.stderr
    assert f"line 1: not sent to partition 0 of {seen}: {remedy}; 0 records are on the topic" in third.stderr
    assert [it.exit_code for it in (first, second, third)] == [2, 2, 2]
    assert there == [0, 1]


async def grant(kafka, topic, operation):
    async with console.administration({"bootstrap_servers": kafka}) as admin:
        answer: Any = await admin._send_request(CreateAclsRequest(2, topic, 3, "User:shop", "*", operation, 3))
    assert [row[0] for row in answer.creation_responses] == [0]


# ------------------------------------------------------------------------------------------------------ tail


SNAPSHOT = b'{"integrationId":"%s","state":"open","updateCount":%d,"total":5.2}'


def snapshot(key, count, *, partition=None):
    headers = (("ce_type", b"customersession.updated"),)
    return Record(key, SNAPSHOT % (key, count), headers, partition, AT)


def follow(kafka, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "worker", "tail", *arguments],
        env={**os.environ, "SESSION_WORKER_BROKERS": kafka, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_tail_prints_the_snapshots_of_a_key_until_ctrl_c(kafka):
    topic = own("snapshots")
    beside = next(it for it in (b"s-%d" % n for n in range(2, 99)) if partition_of(it, 3) == partition_of(b"s-1", 3))
    asyncio.run(create(kafka, topic, partitions=3))
    asyncio.run(produce(kafka, topic, [snapshot(b"s-1", 1), snapshot(beside, 1), snapshot(b"s-1", 2)]))
    with follow(kafka, "--topic", topic, "--key", "s-1", "--from-beginning") as process:
        assert process.stdout is not None
        first = [process.stdout.readline().split() for _ in range(2)]
        deleted = Record(b"s-1", None, (("ce_type", b"customersession.deleted"),), None, AT)
        asyncio.run(produce(kafka, topic, [snapshot(beside, 2), deleted]))
        last = process.stdout.readline().split()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=10)
    assert first == [["2020-09-13T12:26:40.000Z", "updated", "s-1", "open", "5.2", str(n)] for n in (1, 2)]
    assert last == ["2020-09-13T12:26:40.000Z", "deleted", "s-1", "deleted"]
    assert (process.returncode, rest, errors) == (0, "", "")


def test_tail_finds_a_key_in_every_partition_of_a_topic_that_is_not_partitioned_by_key(kafka, monkeypatch):
    rejections, unknown, sessions = own("rejections"), own("unknown"), own("sessions")
    monkeypatch.setenv("SESSION_WORKER_REJECTIONS_TOPIC", rejections)
    monkeypatch.setenv("SESSION_WORKER_SESSIONS_TOPIC", sessions)
    asyncio.run(create(kafka, rejections, unknown, sessions, partitions=3))
    for topic in (rejections, unknown, sessions):
        records = [snapshot(key, n, partition=n) for n in range(3) for key in (b"s-1", b"s-2")]
        asyncio.run(produce(kafka, topic, records))
    home = partition_of(b"s-1", 3)
    for topic, expected in ((rejections, [0, 1, 2]), (unknown, [0, 1, 2]), (sessions, [home])):
        with follow(kafka, "--topic", topic, "--key", "s-1", "--from-beginning", "--json") as process:
            assert process.stdout is not None
            found = [json.loads(process.stdout.readline())["updateCount"] for _ in expected]
            process.send_signal(signal.SIGTERM)
            rest, errors = process.communicate(timeout=10)
        assert (sorted(found), rest, errors, process.returncode) == (expected, "", "", 0)


def test_tail_begins_with_what_comes_and_prints_values_as_they_are(kafka):
    topic = own("snapshots")
    asyncio.run(create(kafka, topic))
    asyncio.run(produce(kafka, topic, [snapshot(b"s-1", 1)]))
    with follow(kafka, "--topic", topic, "--json") as process:
        assert process.stdout is not None
        number = 1
        os.set_blocking(process.stdout.fileno(), False)
        while not (line := process.stdout.readline()):
            number += 1
            asyncio.run(produce(kafka, topic, [snapshot(b"s-1", number)]))
            time.sleep(0.1)
        process.terminate()
    assert json.loads(line)["updateCount"] > 1
    assert line.encode() == SNAPSHOT % (b"s-1", json.loads(line)["updateCount"]) + b"\n"


def test_a_reader_that_goes_away_ends_tail_in_silence(kafka):
    topic = own("snapshots")
    asyncio.run(create(kafka, topic))
    with follow(kafka, "--topic", topic, "--from-beginning") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        asyncio.run(produce(kafka, topic, [snapshot(b"s-1", 1)]))
        assert process.wait(20) == 141
        assert process.stderr.read() == ""
