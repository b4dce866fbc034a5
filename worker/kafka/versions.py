"""Check whether a broker supports every request that the worker sends.

A broker lists the versions of the requests that it supports (ApiVersions), but not its own version. So the worker compares
the list with its requests at its start. Without this check the worker would fail in its first transaction.
"""

from collections.abc import Mapping
from typing import Final

OLDEST_KAFKA: Final = "3.1"
"""The oldest supported version of Kafka; the tests run on it."""

NEEDED: Final[Mapping[str, tuple[int, int]]] = {
    "Produce": (0, 7),
    "Fetch": (1, 4),  # with read_committed
    "ListOffsets": (2, 2),  # with read_committed
    "Metadata": (3, 10),  # with topic ids, which show that a topic was replaced
    "OffsetCommit": (8, 2),
    "OffsetFetch": (9, 7),  # with require_stable
    "FindCoordinator": (10, 1),
    "JoinGroup": (11, 0),
    "Heartbeat": (12, 0),
    "LeaveGroup": (13, 0),
    "SyncGroup": (14, 0),
    "DescribeGroups": (15, 0),
    "CreateTopics": (19, 0),
    "DeleteRecords": (21, 0),
    "InitProducerId": (22, 0),
    "AddPartitionsToTxn": (24, 0),
    "AddOffsetsToTxn": (25, 0),
    "EndTxn": (26, 0),
    "TxnOffsetCommit": (28, 3),  # with generation and member id
    "DescribeConfigs": (32, 0),
}
"""The API key and the oldest sufficient version of each request of the worker, by Kafka's name."""


def too_old(versions: Mapping[int, tuple[int, int]]) -> str:
    """Return why a broker with these versions (oldest and newest, by API key) is too old; empty if it is not.

    >>> too_old({key: (0, 20 - key % 2) for key in range(60)}), too_old({key: (0, 9) for key in range(60)})[:75]
    ('', 'is too old: it does not support Metadata version 10. The worker needs Kafka')
    """
    missing = [
        f"{name} version {version}" if key in versions else name
        for name, (key, version) in NEEDED.items()
        if versions.get(key, (0, -1))[1] < version
    ]
    if not missing:
        return ""
    return (
        f"is too old: it does not support {', '.join(missing)}. The worker needs Kafka {OLDEST_KAFKA} or newer: "
        f"upgrade the brokers, or set SESSION_WORKER_BROKERS to newer ones"
    )
