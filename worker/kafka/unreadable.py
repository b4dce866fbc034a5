"""Find the topic, partition and offset of a batch that a Kafka client cannot read.

aiokafka raises the error of its codec: an error of zlib or cramjam, a wrong checksum, an unknown codec. These errors have
no offset. The offset is in the frame of aiokafka's loop over the batches, which the traceback contains.
"""

from traceback import walk_tb
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import RecordTooLargeError

_CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")


class Unreadable(Exception):
    """A batch on a topic cannot be read; *what* is its fault.

    *after* is the offset after the batch, if it is known.
    """

    def __init__(self, tp: TopicPartition, offset: int, what: str, after: int | None = None) -> None:
        end = f"offset {after}" if after else "the offset after the batch"
        super().__init__(
            f"{tp.topic}/{tp.partition}: the batch at offset {offset} {what}. No record after it can be read. To skip the "
            f"batch on the input topic delete the records before {end} with kafka-delete-records.sh, and set "
            f"SESSION_WORKER_ON_DATA_LOSS=earliest. Restore any other topic from a backup, or set a new topic name"
        )


def unreadable(error: BaseException) -> Unreadable | None:
    """Return the place and the fault of an unreadable batch; None if the consumer's error has another cause."""
    if isinstance(error, RecordTooLargeError):  # the length of the batch exceeds the fetched bytes
        _text, tp, offset, *_ = error.args
        return Unreadable(tp, offset, "is incomplete")
    for frame, _line in walk_tb(error.__traceback__):
        if frame.f_code is PartitionRecords._unpack_records.__code__:
            records = frame.f_locals["self"]
            offset = records.next_fetch_offset
            batch = frame.f_locals.get("next_batch")
            if (
                batch is None or batch.next_offset <= offset
            ):  # this is the batch before; the header of the next one is unreadable
                return Unreadable(records._tp, offset, f"is damaged ({_reason(error)})")
            return Unreadable(records._tp, offset, _defect(batch, error), batch.next_offset)
    return None


def _defect(batch: Any, error: BaseException) -> str:
    codec = batch.compression_type
    if codec >= len(_CODECS):
        return f"has the unknown compression codec {codec}; Kafka's codecs are 1 to {len(_CODECS) - 1}"
    if "CRC" in str(error):
        return "is corrupt: its checksum (CRC) is wrong"
    if codec:
        return f"is compressed with {_CODECS[codec]} and cannot be read ({_reason(error)})"
    return f"is damaged ({_reason(error)})"


def _reason(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
