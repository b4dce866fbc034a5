"""Quix Streams, exactly once, with state in RocksDB: `python -m bench.peers.quix host:port --state-dir folder`.

It runs in its own virtual environment, created from quix-requirements.txt.
"""

import argparse
from typing import Any

import orjson
from quixstreams import Application, State, message_context

from bench.peers.session import Json, fold

GROUP = "quix-streams"


def follow(update: Json, key: bytes, timestamp: int, headers: Any, state: State) -> bytes:  # noqa: ARG001
    """Return the snapshot of an update record, and store it; it is encoded once for both."""
    stored, at = state.get_bytes("session"), message_context()
    session = fold(
        orjson.loads(stored) if stored else None,
        update,
        partition=at.partition,
        offset=at.offset,
        milliseconds=timestamp,
    )
    snapshot = orjson.dumps(session)
    state.set_bytes("session", snapshot)
    return snapshot


def main() -> None:
    """Run it until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kafka")
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--commit-interval", type=float, default=5.0)
    options = parser.parse_args()
    app = Application(
        broker_address=options.kafka,
        consumer_group=GROUP,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=options.commit_interval,
        state_dir=options.state_dir,
    )
    updates = app.topic("session-updates", value_deserializer="json")
    snapshots = app.topic("customer-sessions", value_serializer="bytes")
    app.dataframe(updates).apply(follow, stateful=True, metadata=True).to_topic(snapshots)
    app.run()


if __name__ == "__main__":
    main()
