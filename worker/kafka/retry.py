"""The pauses between attempts, and their log lines."""

import asyncio
import logging
from typing import Final

from worker.kafka.errors import DeadlineExceeded, NoResponse, RequestFailed

_log: Final = logging.getLogger(__name__)
_FIRST_PAUSE_SECONDS: Final = 0.001  # a broker refuses a transaction for a moment after the end of the previous one
_LONGEST_PAUSE_SECONDS: Final = 0.1
_REPORT_SECONDS: Final = 5.0


class Backoff:
    """The pauses between attempts: 1 ms, then doubled each time, up to 100 ms.

    *what* names the request in the log. *deadline* is on the event loop's clock. *in_doubt* is True if a response was lost.
    """

    def __init__(self, what: str, deadline: float = float("inf")) -> None:
        self._what = what
        self._deadline = deadline
        self._seconds = _FIRST_PAUSE_SECONDS
        self._began = asyncio.get_running_loop().time()
        self._report_at = self._began + _REPORT_SECONDS
        self.in_doubt = False

    async def pause(self, reason: RequestFailed) -> None:
        """Wait for the next pause. Raise *reason* if it is not retriable, and DeadlineExceeded after the deadline."""
        if not reason.is_retriable:
            raise reason
        self.in_doubt |= isinstance(reason, NoResponse)
        now = asyncio.get_running_loop().time()
        if now + self._seconds > self._deadline:
            raise DeadlineExceeded(str(reason)) from reason
        if now < self._report_at:
            _log.debug("%s: retry in %.0f ms: %s", self._what, self._seconds * 1000, reason)
        else:
            _log.warning("%s: still waiting after %.0f s: %s", self._what, now - self._began, reason)
            self._report_at = now + _REPORT_SECONDS
        await asyncio.sleep(self._seconds)
        self._seconds = min(self._seconds * 2, _LONGEST_PAUSE_SECONDS)
