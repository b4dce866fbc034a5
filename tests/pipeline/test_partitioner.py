"""Kafka's default partitioner, against the values that Kafka's own tests hold."""

import pytest

from worker.pipeline.partitioner import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
        (b"", 275646681),
    ],
)
def test_murmur2_is_kafkas(key, hashed):
    assert murmur2(key) == hashed & 0xFFFFFFFF


def test_the_sign_is_dropped_before_the_division():
    assert partition_of(b"21", 1000) == (-973932308 & 0x7FFFFFFF) % 1000
