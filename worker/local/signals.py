"""Ends a command at SIGINT, SIGTERM and SIGHUP, whatever the parent process made of these signals.

1. A background job of a shell, nohup and some CI systems start a command with SIGINT ignored. The command has handlers of
   its own, so that the signal ends it all the same.
2. A handler raises KeyboardInterrupt where our own code is, also in a read or a write that blocks: there a task that is
   only cancelled never gets its turn. Elsewhere, in the event loop and in the Kafka client, it cancels the main task,
   so that connections are closed in order.
3. A second SIGTERM or SIGHUP changes nothing while the command closes what it has open. A second SIGINT interrupts that.
4. SIGHUP stays ignored where it is ignored: nohup asks for this.
"""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class Ending:
    """The signal that ends a command, once it has come."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._is_running = False
        self._task: asyncio.Task[Any] | None = None

    @property
    def status(self) -> int:
        """The exit status of a command that a signal ends: 128 and the number of the signal."""
        return 128 + (self.signal or signal.SIGINT)

    def install(self, numbers: Iterable[int]) -> None:
        """Install the handlers of these signals."""
        self._before = {number: signal.signal(number, self.receive) for number in numbers}

    def release(self) -> None:
        """Put back the earlier handlers, or ignore the signals if one of them has come.

        Python starts no handler while it shuts down: there a second SIGTERM would kill a command that has ended well.
        """
        for number, handler in self._before.items():
            if signal.getsignal(number) == self.receive:
                signal.signal(number, handler if self.signal is None else signal.SIG_IGN)

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine to its end, or until a signal: then raise KeyboardInterrupt, when it has closed what it opened."""

        async def main() -> T:
            self._task = asyncio.current_task()
            if self.signal is not None:
                raise asyncio.CancelledError
            return await function()

        self._is_running = True
        try:
            return asyncio.run(main())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._task, self._is_running = None, False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Cancel the main task, or raise KeyboardInterrupt; the handler of the signals."""
        is_first = self.signal is None
        self.signal = self.signal or number
        if is_first and self._is_running:
            if self._task is not None and self._is_in_our_code(self._task, frame):
                raise KeyboardInterrupt
            if self._task is not None:
                self._task.cancel()
                self._task.get_loop().call_soon_threadsafe(lambda: None)  # ends its wait for events
        elif is_first or number == signal.SIGINT:
            raise KeyboardInterrupt

    @staticmethod
    def _is_in_our_code(task: asyncio.Task[Any], frame: FrameType | None) -> bool:
        """Return True if the main task runs, and neither the Kafka client nor asyncio was called last."""
        if asyncio.current_task(task.get_loop()) is not task:
            return False
        while frame is not None:
            package = frame.f_globals.get("__name__", "").partition(".")[0]
            if package in {"worker", "aiokafka", "asyncio"}:
                return bool(package == "worker")
            frame = frame.f_back
        return False


@contextmanager
def ending_signals() -> Iterator[Ending]:
    """Install the handlers for as long as a command runs."""
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    ending.install(numbers)
    try:
        yield ending
    finally:
        ending.release()
