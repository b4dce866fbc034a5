"""Every topic with its key, cleanup policy, writer and reader, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, NamedTuple

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
    setting: str
    """The description of the setting that names the topic."""
    has_bodies: bool = True
    is_read: bool = True
    """Whether the worker reads the topic; it goes on without what the others held."""

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


def _topic(name: str | None, topic: Topic) -> Any:
    """Declare a topic: a field of Topology whose default is *name*; None if the worker has the topic only on request."""
    return field(default=name, metadata={"topic": topic})


@dataclass(frozen=True, slots=True)
class Topology:
    """The names of the topics and how many partitions each of them has.

    Without *partitions* there is no partitioner: every record is at home where it is, as in the offline replay.
    """

    partitions: int | None
    updates: str = _topic(
        "session-updates",
        Topic(
            "integrationId, or anything",
            "delete",
            "any producer",
            "sessions",
            "update records",
            "Topic of update records, the input.",
        ),
    )
    rekeyed: str = _topic(
        "session-updates-rekeyed",
        Topic(
            "integrationId",
            "delete",
            "sessions",
            "sessions",
            "update records that were not at home",
            "Topic for strays: update records that the worker forwards to the partition of their session.",
        ),
    )
    sessions: str = _topic(
        "customer-sessions",
        Topic(
            "integrationId",
            "compact",
            "sessions",
            "anyone",
            "snapshots; the changelog of the sessions table",
            "Topic of snapshots; it is also the changelog of the sessions table.",
        ),
    )
    rejections: str = _topic(
        "session-rejections",
        Topic(
            "as it arrived",
            "delete",
            "sessions",
            "anyone",
            "rejected update records, reason in headers",
            "Topic of rejections.",
            is_read=False,
        ),
    )
    dry_runs: str = _topic(
        "session-dry-runs",
        Topic(
            "integrationId",
            "delete",
            "sessions",
            "anyone",
            "what dry update records would have published",
            "Topic of the results of dry runs.",
            is_read=False,
        ),
    )
    claims: str = _topic(
        "profile-claims",
        Topic(
            "profileId",
            "delete",
            "sessions",
            "profiles",
            "questions: is this the profile's first session?",
            "Topic of claims: a session asks whether it is the first of its profile.",
            has_bodies=False,
        ),
    )
    verdicts: str = _topic(
        "profile-verdicts",
        Topic(
            "integrationId",
            "delete",
            "profiles",
            "sessions",
            "the answers to claims",
            "Topic of verdicts: the answers to claims.",
            has_bodies=False,
        ),
    )
    first_sessions: str = _topic(
        "profile-first-sessions",
        Topic(
            "profileId",
            "compact",
            "profiles",
            "nobody",
            "the changelog of the profiles table",
            "Topic of first sessions: the changelog of the profiles table.",
            has_bodies=False,
        ),
    )
    v1: str | None = _topic(
        None,
        Topic(
            "integrationId",
            "compact",
            "sessions",
            "anyone",
            "snapshots in the form of CustomerSession v1",
            "Topic of the v1 view of snapshots; by default the worker does not publish this view.",
            is_read=False,
        ),
    )

    def named(self) -> dict[str, str]:
        """Return the name of each topic that has one, by the field of TOPICS.

        >>> Topology(partitions=8).named()["sessions"], "v1" in Topology(partitions=8).named()
        ('customer-sessions', False)
        """
        return {topic: name for topic in TOPICS if (name := getattr(self, topic))}

    def state(self) -> dict[str, str]:
        """Return the name of each topic that the worker's state is built from, by field: those that it reads.

        >>> [*Topology(partitions=8).state()]
        ['updates', 'rekeyed', 'sessions', 'claims', 'verdicts', 'first_sessions']
        """
        return {topic: name for topic, name in self.named().items() if TOPICS[topic].is_read}

    def home(self, key: bytes, partition: int) -> int:
        """Return the partition where *key* is at home: *partition* itself if there is no partitioner.

        >>> Topology(partitions=8).home(b"s-1", 3), Topology(partitions=None).home(b"s-1", 3)
        (7, 3)
        """
        return partition if self.partitions is None else partition_of(key, self.partitions)


TOPICS: Final[Mapping[str, Topic]] = {
    declared.name: declared.metadata["topic"] for declared in fields(Topology) if "topic" in declared.metadata
}
"""The topics by the field of Topology that names them."""
