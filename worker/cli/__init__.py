"""The command line: `session-worker`, the same as `python -m worker`."""

from worker.cli import local, records, worker
from worker.cli.group import main

__all__ = ["local", "main", "records", "worker"]
