"""Every topic with its key, cleanup policy, writer and reader, as data."""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from worker.pipeline.partitioner import partition_of

MAX_PARTITIONS: Final = 1 << 13
"""A session's id has so much room for the partition of the record that created it."""


class Topic(NamedTuple):
    """What a topic is for; its name is a setting, so it is not in here."""

    key: str
    cleanup: Literal["delete", "compact"]
    writer: str
    reader: str
    holds: str


TOPICS: dict[str, Topic] = {
    "updates": Topic("integrationId, or anything", "delete", "any producer", "sessions", "update records"),
    "rekeyed": Topic("integrationId", "delete", "sessions", "sessions", "update records that were not at home"),
    "sessions": Topic(
        "integrationId", "compact", "sessions", "anyone", "snapshots; the changelog of the sessions table"
    ),
    "rejections": Topic("as it arrived", "delete", "sessions", "anyone", "rejected update records, reason in headers"),
    "dry_runs": Topic("integrationId", "delete", "sessions", "anyone", "what dry update records would have published"),
    "claims": Topic("profileId", "delete", "sessions", "profiles", "questions: is this the profile's first session?"),
    "verdicts": Topic("integrationId", "delete", "profiles", "sessions", "the answers to claims"),
    "first_sessions": Topic("profileId", "compact", "profiles", "nobody", "the changelog of the profiles table"),
    "v1": Topic("integrationId", "compact", "sessions", "anyone", "snapshots in the form of CustomerSession v1"),
}
"""By the field of Topology that names the topic. The writer and the reader are a stage of the worker, or others."""


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

    def home(self, key: bytes, partition: int) -> int:
        """Name the partition where *key* is at home: where it is, *partition*, when there is no partitioner.

        >>> Topology(partitions=8).home(b"s-1", 3), Topology(partitions=None).home(b"s-1", 3)
        (7, 3)
        """
        return partition if self.partitions is None else partition_of(key, self.partitions)
