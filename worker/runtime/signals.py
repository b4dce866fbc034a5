"""Turns SIGTERM and SIGINT into one request to stop; every further signal changes nothing.

asyncio restores the default action of a signal when its loop closes, and Python does so when it ends. A second signal in
that moment would kill the process. So after the first signal, and at the latest at the end, both are ignored.
"""

import asyncio
import signal
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A request to stop, which may come before there is an event loop."""

    def __init__(self) -> None:
        self._is_made = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None

    def catch(self) -> None:
        """Catch the signals from now on, in the main thread."""
        for number in _SIGNALS:
            signal.signal(number, lambda *_: self._make())

    def ignore(self) -> None:
        """Ignore the signals from now on: the process ends."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    async def wait(self) -> None:
        """Wait until the request is made."""
        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        if not self._is_made:
            await self._event.wait()

    def _make(self) -> None:
        self.ignore()
        self._is_made = True
        if self._loop is not None and self._event is not None:
            self._loop.call_soon_threadsafe(self._event.set)  # wakes a loop that waits for I/O
