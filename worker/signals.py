"""End a process at SIGINT, SIGTERM and SIGHUP from its first milliseconds, whatever its parent did to these signals.

1. The handlers are installed before slow imports; this module imports only fast modules. Linux drops a signal without a
   handler to process 1 of a container. A signal that arrives during the imports is kept until the command begins.
2. Shells (for background jobs), nohup and some CI systems start a command with SIGINT ignored. The command installs its
   own handlers, so SIGINT ends the command anyway. An ignored SIGHUP stays ignored: nohup requires this.
3. A command: the handler raises KeyboardInterrupt in our own code, also in a read or a write that blocks; a cancelled task
   would never run there. In the event loop and in the Kafka client, the handler cancels the main task, so that
   connections are closed in order. A second SIGTERM or SIGHUP has no effect while the command closes its connections. A
   second SIGINT interrupts the close.
4. A worker: the first signal is a request to stop; every further signal changes nothing.
5. A worker ends within a limit after the signal, or after the error that ends it. A separate thread waits for the signal,
   so the limit also applies while the main thread is blocked. At the limit, the thread logs where the worker waits and
   ends the process. No state is lost: the broker aborts the open transaction, as after a crash.
6. asyncio restores the default action of a signal when its loop closes, and Python runs no handler while it shuts down. A
   second signal at this moment would kill a process that has ended successfully. So after the first signal, and at the
   end of a worker, all signals are ignored.
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
"""Upper bound in seconds of a worker's stop, until its settings are read."""

_LOG_SECONDS = 1.0
"""Upper bound in seconds of the last log line, because a reader of standard error may be missing."""
_SHOWN = 12
"""Upper bound of the number of threads and tasks in the last log line."""


class Ending:
    """The signal that ends a process, after its arrival."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.failure: Exception | None = None
        """The error that ends the worker; None for a signal."""
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
        """Install the handlers, unless they are installed; do nothing outside the main thread, as Python requires."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self.receive) for number in numbers}

    def release(self) -> None:
        """Restore the earlier handlers, or ignore the signals if one has arrived."""
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
        """Do nothing until the command begins."""

    # ---------------------------------------------------------------------------------------------------- a command

    def begin(self) -> None:
        """End the command at a signal from now on. Raise KeyboardInterrupt if a signal has arrived."""
        self._act = self._interrupt
        if self.signal is not None:
            raise KeyboardInterrupt

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine to its end. After a signal, wait for its cleanup and raise KeyboardInterrupt."""
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
        """Treat a signal as a request to stop from now on, and start the thread of the limit (rules 4 and 5)."""
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
        """Start the limit without a signal, unless it has started; *failure* is the error that ends the worker."""
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
            "The worker did not stop within SESSION_WORKER_STOP_SECONDS=%g and ends now. The broker aborts the open "
            "transaction, and a worker processes its records again. The worker waited for: %s",
            self.stop_seconds,
            "; ".join(sorted(set(_waits()), key=lambda place: (not place.startswith("worker."), place))[:_SHOWN])
            or "an unknown operation",
        )
        logging.shutdown()
        if self.failure is not None:
            sys.stderr.write(f"Error: {self.failure or repr(self.failure)}\n")
        sys.stderr.flush()


@contextmanager
def ending_signals(ending: Ending | None = None) -> Iterator[Ending]:
    """Install the handlers while a command runs, unless they are installed."""
    ending = ending or Ending()
    ending.install()
    try:
        yield ending
    finally:
        ending.release()


def _is_in_our_code(task: "asyncio.Task[Any]", frame: FrameType | None) -> bool:
    """Return True if the main task runs, and the innermost frame is not in the Kafka client or in asyncio."""
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
    """Yield the places of waiting tasks, and of threads that run no event loop or are blocked in one."""
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
    """Return the place where a task waits in our code or in the Kafka client; None for a task of other libraries."""
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
