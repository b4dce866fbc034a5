"""A partition of a table, and the one that is kept in memory."""

from typing import Protocol

from worker.pipeline.lane import MemoryTable
from worker.pipeline.lane import Table as LaneTable


class TablePartition(LaneTable[bytes, bytes], Protocol):
    """A partition of a table."""

    checkpoint: int | None
    """Where its changelog has to be read on from; None as long as nothing is known of it."""

    def set_target(self, high: int) -> None:
        """Count the partition as up to date from *high* on, where its changelog ends now."""

    def clear(self) -> None:
        """Forget everything."""

    def close(self) -> None:
        """Close what the partition holds open."""


class MemoryPartition(MemoryTable[bytes, bytes]):
    """A partition in memory."""

    def set_target(self, high: int) -> None:
        """Be as young as the process."""

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self.checkpoint = None

    def close(self) -> None:
        """Hold nothing open."""
