"""Every topic with its key, cleanup policy, writer and reader, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from worker.pipeline.partitioner import partition_of

STAGES: Final = ("sessions", "profiles")
MAX_PARTITIONS: Final = 1 << 13
"""A session's id has so much room for the partition of the record that created it."""
HEADERS_BYTES: Final = 128 << 10
"""What an output leaves for a record's key and headers, beside its value."""
_FOREVER: Final = {"retention.ms": "-1", "retention.bytes": "-1", "segment.bytes": str(50 << 20)}
_EVER: Final = str((1 << 63) - 1)
ANY_TIME: Final = dict.fromkeys(("message.timestamp.before.max.ms", "message.timestamp.after.max.ms"), _EVER)
"""The limits of timestamps by which a broker takes any."""
BEFORE_KAFKA_3_6: Final = {"message.timestamp.difference.max.ms": _EVER}
"""What stands for ANY_TIME before Kafka 3.6, which knows no other. Kafka 3.6 to 3.9 know both, Kafka 4 only the newer."""


class Topic(NamedTuple):
    """What a topic is for; its name is a setting, so it is not in here."""

    key: str
    cleanup: Literal["delete", "compact"]
    writer: str
    reader: str
    holds: str
    has_bodies: bool = True

    @property
    def is_ours(self) -> bool:
        """Return True if the worker writes the topic."""
        return self.writer in STAGES

    @property
    def is_internal(self) -> bool:
        """Return True if only the stages of the worker use the topic."""
        return self.is_ours and self.reader != "anyone"

    def configuration(self, largest_bytes: int, times: Mapping[str, str] = ANY_TIME) -> dict[str, str]:
        """Return the configuration, in Kafka's words, that the topic is created with; no value has more bytes.

        - *times* are the limits of timestamps: those of Kafka 3.6 and newer, or BEFORE_KAFKA_3_6.
        - What the worker writes has its source's timestamp. A broker refuses one that is over an hour ahead, unless it
          is configured otherwise; a source that takes it would then stop the worker forever.
        - What one stage sends to another stays until the worker purges it. That frees whole segments: small ones.

        >>> TOPICS["first_sessions"].configuration(1 << 20)["cleanup.policy"]
        'compact'
        """
        return {
            "cleanup.policy": self.cleanup,
            "message.timestamp.type": "CreateTime",
            **({"max.message.bytes": str(largest_bytes + HEADERS_BYTES)} if self.has_bodies else {}),
            **(times if self.is_ours else {}),
            **(_FOREVER if self.is_internal and self.cleanup == "delete" else {}),
        }


TOPICS: dict[str, Topic] = {
    "updates": Topic("integrationId, or anything", "delete", "any producer", "sessions", "update records"),
    "rekeyed": Topic("integrationId", "delete", "sessions", "sessions", "update records that were not at home"),
    "sessions": Topic(
        "integrationId", "compact", "sessions", "anyone", "snapshots; the changelog of the sessions table"
    ),
    "rejections": Topic("as it arrived", "delete", "sessions", "anyone", "rejected update records, reason in headers"),
    "dry_runs": Topic("integrationId", "delete", "sessions", "anyone", "what dry update records would have published"),
    "claims": Topic(
        "profileId", "delete", "sessions", "profiles", "questions: is this the profile's first session?", False
    ),
    "verdicts": Topic("integrationId", "delete", "profiles", "sessions", "the answers to claims", False),
    "first_sessions": Topic("profileId", "compact", "profiles", "nobody", "the changelog of the profiles table", False),
    "v1": Topic("integrationId", "compact", "sessions", "anyone", "snapshots in the form of CustomerSession v1"),
}
"""By the field of Topology that names the topic. The writer and the reader are a stage of the worker, or others."""

PLAIN: Final = frozenset({"rejections", "dry_runs", "v1"})
"""Outputs that the worker never reads: it goes on without what they held."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The names of the topics and how many partitions each of them has.

    Without *partitions* there is no partitioner: every record is at home where it is, as in the offline replay.
    """

    partitions: int | None
    updates: str = "session-updates"
    rekeyed: str = "session-updates-rekeyed"
    sessions: str = "customer-sessions"
    rejections: str = "session-rejections"
    dry_runs: str = "session-dry-runs"
    claims: str = "profile-claims"
    verdicts: str = "profile-verdicts"
    first_sessions: str = "profile-first-sessions"
    v1: str | None = None

    def named(self) -> dict[str, str]:
        """Return the name of each topic that has one, by the field of TOPICS.

        >>> Topology(partitions=8).named()["sessions"], "v1" in Topology(partitions=8).named()
        ('customer-sessions', False)
        """
        return {field: name for field in TOPICS if (name := getattr(self, field))}

    def state(self) -> dict[str, str]:
        """Return the name of each topic that the worker's state is built from, by field: those that it reads.

        >>> [*Topology(partitions=8).state()]
        ['updates', 'rekeyed', 'sessions', 'claims', 'verdicts', 'first_sessions']
        """
        return {field: name for field, name in self.named().items() if field not in PLAIN}

    def home(self, key: bytes, partition: int) -> int:
        """Return the partition where *key* is at home: *partition* itself if there is no partitioner.

        >>> Topology(partitions=8).home(b"s-1", 3), Topology(partitions=None).home(b"s-1", 3)
        (7, 3)
        """
        return partition if self.partitions is None else partition_of(key, self.partitions)
