"""Ends a command at SIGINT, SIGTERM and SIGHUP, whatever the parent process made of these signals.

1. A background job of a shell, nohup and some CI systems start a command with SIGINT ignored. The command has handlers of
   its own, so that the signal ends it all the same.
2. A handler raises KeyboardInterrupt where the main thread is: also in a read or a write that blocks, where the handler of
   `asyncio.run` would only cancel a task that never gets its turn.
3. A second SIGTERM or SIGHUP changes nothing while the command closes what it has open. A second SIGINT interrupts that.
4. SIGHUP stays ignored where it is ignored: nohup asks for this.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ending:
    """The signal that ends a command, once it has come."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def status(self) -> int:
        """The exit status of a command that a signal ends: 128 and the number of the signal."""
        return 128 + (self.signal or signal.SIGINT)

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt; the handler of the signals."""
        if self.signal is None or number == signal.SIGINT:
            self.signal = self.signal or number
            raise KeyboardInterrupt


@contextmanager
def ending_signals() -> Iterator[Ending]:
    """Install the handlers. At the end put back the earlier ones, or ignore the signals if one of them has come.

    Python starts no handler while it shuts down: there a second SIGTERM would kill a command that has ended well.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ending.receive) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == ending.receive:
                signal.signal(number, handler if ending.signal is None else signal.SIG_IGN)
