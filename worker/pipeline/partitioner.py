"""Kafka's default partitioner: murmur2 of the key, without its sign, modulo the number of partitions."""

from struct import unpack_from

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Hash *key* to 32 bits, unsigned, as org.apache.kafka.common.utils.Utils.murmur2 does.

    >>> hex(murmur2(b"21"))
    '0xc5f2f8ec'
    """
    length = len(key)
    hashed = _SEED ^ length
    words = length >> 2
    for word in unpack_from(f"<{words}I", key):
        mixed = word * _M & _MASK
        hashed = (hashed * _M & _MASK) ^ ((mixed ^ mixed >> 24) * _M & _MASK)
    if tail := key[words << 2 :]:
        hashed = (hashed ^ int.from_bytes(tail, "little")) * _M & _MASK
    hashed = (hashed ^ hashed >> 13) * _M & _MASK
    return hashed ^ hashed >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition, 0 to *partitions* - 1, in which Kafka's default partitioner puts *key*.

    >>> partition_of(b"s-1", 8)
    7
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions
