"""The Kafka of one broker, and the crews, of tests/kafka."""

from tests.kafka.conftest import crew, kafka

__all__ = ["crew", "kafka"]
