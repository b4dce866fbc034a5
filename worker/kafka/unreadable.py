"""Names the batch that a Kafka client cannot read: topic, partition and offset.

aiokafka raises what its codec raises: an error of zlib or cramjam, a wrong checksum, an unknown codec. None of these
says where. The place is in the frame of aiokafka's loop over the batches, which the traceback holds.
"""

from traceback import walk_tb
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import RecordTooLargeError

_CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")


class Unreadable(Exception):
    """A batch on a topic cannot be read; *what* is the matter with it.

    *after* is the offset that follows the batch, where it is known.
    """

    def __init__(self, tp: TopicPartition, offset: int, what: str, after: int | None = None) -> None:
        end = f"offset {after}" if after else "the offset that follows it"
        super().__init__(
            f"{tp.topic}/{tp.partition}: the batch at offset {offset} {what}. Nothing can be read past it. To go on "
            f"without it on the input topic delete the records before {end} with kafka-delete-records.sh, and set "
            f"SESSION_WORKER_ON_DATA_LOSS=earliest. On another topic restore it from a backup, or name a new topic"
        )


def unreadable(error: BaseException) -> Unreadable | None:
    """Return where and why a batch cannot be read, if that is what the error of a consumer is about."""
    if isinstance(error, RecordTooLargeError):  # a batch that claims to be longer than what was fetched
        _text, tp, offset, *_ = error.args
        return Unreadable(tp, offset, "is not whole")
    for frame, _line in walk_tb(error.__traceback__):
        if frame.f_code is PartitionRecords._unpack_records.__code__:
            records = frame.f_locals["self"]
            offset = records.next_fetch_offset
            batch = frame.f_locals.get("next_batch")
            if batch is None or batch.next_offset <= offset:  # the one before it: this has no header that can be read
                return Unreadable(records._tp, offset, f"is damaged ({_reason(error)})")
            return Unreadable(records._tp, offset, _defect(batch, error), batch.next_offset)
    return None


def _defect(batch: Any, error: BaseException) -> str:
    codec = batch.compression_type
    if codec >= len(_CODECS):
        return f"has the unknown compression codec {codec}; those of Kafka are 1 to {len(_CODECS) - 1}"
    if "CRC" in str(error):
        return "is corrupt: its checksum (CRC) is wrong"
    if codec:
        return f"is compressed with {_CODECS[codec]} and cannot be read ({_reason(error)})"
    return f"is damaged ({_reason(error)})"


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
