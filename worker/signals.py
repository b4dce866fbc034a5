"""Ends a process at SIGINT, SIGTERM and SIGHUP, from its first milliseconds on, whatever its parent made of these signals.

1. The handlers are installed before anything slow is imported; this module imports nothing slow. Linux drops a signal to
   process 1 of a container that has no handler. A signal that comes during the imports is kept until the command begins.
2. A background job of a shell, nohup and some CI systems start a command with SIGINT ignored. The command has handlers of
   its own, so that the signal ends it all the same. SIGHUP stays ignored where it is ignored: nohup asks for this.
3. A command: the handler raises KeyboardInterrupt where our own code is, also in a read or a write that blocks: there a
   task that is only cancelled never gets its turn. Elsewhere, in the event loop and in the Kafka client, the handler
   cancels the main task, so that connections are closed in order. A second SIGTERM or SIGHUP changes nothing while the
   command closes what it has open. A second SIGINT interrupts that.
4. A worker: the first signal is a request to stop; every further signal changes nothing.
5. A worker ends within a limit after the signal, or after what else ends it. A thread of its own waits for the signal, so
   the limit holds where the main thread is blocked. When the limit is over, the thread logs what the worker waits for and
   ends the process. This leaves nothing half done: the broker aborts the open transaction, as after a crash.
6. asyncio restores the default action of a signal when its loop closes, and Python starts no handler while it shuts down.
   A second signal in that moment would kill a process that has ended well. So after the first signal, and at the end of a
   worker, all are ignored.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

STOP_SECONDS = 10
"""Upper bound in seconds for the end of a worker, until its settings are read."""

_LOG_SECONDS = 1.0
"""Upper bound in seconds for the last log line: nobody may read standard error."""
_SHOWN = 12
"""Threads and tasks that the last log line names."""


class Ending:
    """The signal that ends a process, once it has come."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.failure: Exception | None = None
        """What ends the worker, where that is no signal."""
        self.stop_seconds: float = STOP_SECONDS
        self._before: dict[int, Any] = {}
        self._act: Callable[[int, FrameType | None, bool], None] = self._keep
        self._is_running = False
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._event: asyncio.Event | None = None
        self._wake_fd: int | None = None

    @property
    def status(self) -> int:
        """The exit status of a command that a signal ends: 128 and the number of the signal."""
        return 128 + (self.signal or signal.SIGINT)

    def install(self) -> None:
        """Install the handlers, unless they are installed or this is not the main thread, where Python allows none."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self.receive) for number in numbers}

    def release(self) -> None:
        """Put back the earlier handlers, or ignore the signals if one of them has come."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self.receive:
                signal.signal(number, handler if self.signal is None else signal.SIG_IGN)

    def ignore(self) -> None:
        """Ignore the signals from now on."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        is_first = self.signal is None
        self.signal = self.signal or number
        self._act(number, frame, is_first)

    def _keep(self, number: int, frame: FrameType | None, is_first: bool) -> None:  # noqa: FBT001
        """Do nothing yet."""

    # ---------------------------------------------------------------------------------------------------- a command

    def begin(self) -> None:
        """End the command at a signal from now on; raise KeyboardInterrupt if one has come already."""
        self._act = self._interrupt
        if self.signal is not None:
            raise KeyboardInterrupt

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine to its end, or until a signal: then raise KeyboardInterrupt, when it has closed what it opened."""
        import asyncio  # noqa: PLC0415 (rule 1)

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

    def _interrupt(self, number: int, frame: FrameType | None, is_first: bool) -> None:  # noqa: FBT001
        """Cancel the main task, or raise KeyboardInterrupt (rule 3)."""
        if is_first and self._is_running:
            if self._task is not None and _is_in_our_code(self._task, frame):
                raise KeyboardInterrupt
            if self._task is not None:
                self._task.cancel()
                self._task.get_loop().call_soon_threadsafe(lambda: None)  # ends its wait for events
        elif is_first or number == signal.SIGINT:
            raise KeyboardInterrupt

    # ----------------------------------------------------------------------------------------------------- a worker

    def defer(self) -> None:
        """Make a signal a request to stop from now on, and start the thread that keeps the limit (rules 4 and 5)."""
        self._act = self._request
        wake, self._wake_fd = os.pipe()
        os.set_blocking(self._wake_fd, False)
        if self._before:
            signal.set_wakeup_fd(self._wake_fd, warn_on_full_buffer=False)
        threading.Thread(target=self._end_in_time, args=(wake,), name="limit", daemon=True).start()
        if self.signal is not None:
            self._request(self.signal, None, True)

    async def requested(self) -> None:
        """Wait until a stop is requested."""
        import asyncio  # noqa: PLC0415 (rule 1)

        self._loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        if self.signal is None:
            await self._event.wait()

    def start_limit(self, failure: Exception | None = None) -> None:
        """Let the limit begin, if it has not begun, though no signal has come; *failure* is what ends the worker."""
        self.failure = self.failure or failure
        if self._wake_fd is not None:
            os.write(self._wake_fd, bytes([signal.SIGTERM]))

    def _request(self, _number: int, _frame: FrameType | None, _is_first: bool) -> None:  # noqa: FBT001
        self.ignore()
        if self._loop is not None and self._event is not None:
            with suppress(RuntimeError):  # the loop is closed: the worker has ended
                self._loop.call_soon_threadsafe(self._event.set)  # wakes a loop that waits for I/O

    def _end_in_time(self, wake: int) -> None:
        """Wait for a signal, then for the limit, then end the process (rule 5)."""
        while os.read(wake, 1)[0] not in {signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", 0)}:
            pass  # another signal's handler
        time.sleep(self.stop_seconds)
        reporting = threading.Thread(target=self._report, daemon=True)
        reporting.start()
        reporting.join(_LOG_SECONDS)
        os._exit(0 if self.failure is None else 1)

    def _report(self) -> None:
        import logging  # noqa: PLC0415 (rule 1)

        logging.getLogger(__name__).warning(
            "The worker did not stop in order within SESSION_WORKER_STOP_SECONDS=%g and ends now. An open transaction is "
            "aborted by the broker; its records are processed again. The worker waited for: %s",
            self.stop_seconds,
            "; ".join(sorted(set(_waits()))[:_SHOWN]) or "nothing that is known",
        )
        logging.shutdown()
        if self.failure is not None:
            sys.stderr.write(f"Error: {self.failure or repr(self.failure)}\n")
        sys.stderr.flush()


@contextmanager
def ending_signals(ending: Ending | None = None) -> Iterator[Ending]:
    """Install the handlers for as long as a command runs, if they are not installed yet."""
    ending = ending or Ending()
    ending.install()
    try:
        yield ending
    finally:
        ending.release()


def _is_in_our_code(task: "asyncio.Task[Any]", frame: FrameType | None) -> bool:
    """Return True if the main task runs, and neither the Kafka client nor asyncio was called last."""
    import asyncio  # noqa: PLC0415 (rule 1)

    if asyncio.current_task(task.get_loop()) is not task:
        return False
    while frame is not None:
        package = _package(frame)
        if package in {"worker", "aiokafka", "asyncio"}:
            return package == "worker"
        frame = frame.f_back
    return False


def _waits() -> Iterator[str]:
    """Yield where the tasks of each event loop wait, and each thread that runs no event loop or is blocked in one."""
    import asyncio  # noqa: PLC0415 (rule 1)

    frames = sys._current_frames()  # noqa: SLF001 (the only way to a thread's frame)
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is None or thread.name == "limit" or thread is threading.current_thread():
            continue
        loop: Any = None
        inner = frame
        while frame is not None and loop is None:
            loop = frame.f_locals.get("self") if frame.f_code.co_name == "run_forever" else None
            frame = frame.f_back
        if loop is None or inner.f_code.co_name != "select":
            yield f"thread {thread.name} at {_place(inner)}"
        if loop is not None:
            yield from filter(None, map(_inner_place, asyncio.all_tasks(loop)))


def _inner_place(task: "asyncio.Task[Any]") -> str | None:
    """Return where a task waits in our code or in the Kafka client; None for a task of the libraries alone."""
    place = None
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None and _package(frame) in {"worker", "aiokafka"}:
            place = _place(frame)
        awaited = getattr(awaited, "cr_await", None)
    return place


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _place(frame: FrameType) -> str:
    """Return a frame's module, function and line."""
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}:{frame.f_lineno}"
