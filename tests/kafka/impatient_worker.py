"""A worker with Faust's limits of minutes and hours shortened to fractions of a second: what Faust would report, it does at once."""

import sys

from faust.tables.recovery import Recovery
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from worker.cli import main

LIMIT_SECONDS = 0.2

Recovery.stats_interval = LIMIT_SECONDS
Recovery.event_timeout_secs = LIMIT_SECONDS
Recovery.flush_timeout_secs = LIMIT_SECONDS
start = AIOKafkaConsumerThread.__init__


def impatient(self, *args, **kwargs):
    start(self, *args, **kwargs)
    self.tp_fetch_request_timeout_secs = LIMIT_SECONDS
    self.tp_fetch_response_timeout_secs = LIMIT_SECONDS
    self.tp_stream_timeout_secs = LIMIT_SECONDS
    self.tp_commit_timeout_secs = LIMIT_SECONDS


AIOKafkaConsumerThread.__init__ = impatient

if __name__ == "__main__":
    sys.argv[1:] = ["run"]
    main()
