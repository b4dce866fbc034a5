"""Ports that are no Kafka, for as long as a `with` lasts: each speaks something else, or nothing."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TLS = Path(__file__).parents[1] / "tls"


def free_port() -> int:
    """Return a port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def serving(kind: str) -> Iterator[int]:
    """Serve at a port that speaks `http`, `https`, `echo`, is `silent` or is `closing`; yield the port."""
    context = None
    if kind == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem", "key-secret")

    async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "silent":
            await reader.read()
        if kind == "echo":
            writer.write(await reader.read(100))
        if kind.startswith("http"):
            await reader.readuntil(b"\n")
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        await writer.drain()

    with listening(_answer, context) as port:
        yield port


@contextmanager
def listening(answer: Callable[..., Coroutine[Any, Any, None]], context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Answer each connection by *answer*, in a thread of its own; yield the port."""
    port: Future[int] = Future()
    ends: list[Callable[[], object]] = []

    async def _serve() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        loop.set_exception_handler(lambda *_: None)  # clients that reset
        ends.append(lambda: loop.call_soon_threadsafe(end.set))
        open_now: set[asyncio.Task[Any] | None] = set()

        async def _connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            open_now.add(asyncio.current_task())
            try:
                await answer(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.transport.abort()
                open_now.discard(asyncio.current_task())

        server = await asyncio.start_server(_connected, "127.0.0.1", 0, ssl=context)
        port.set_result(server.sockets[0].getsockname()[1])
        await end.wait()
        server.close()
        for task in filter(None, tuple(open_now)):
            task.cancel()
        await asyncio.sleep(0.05)  # what was aborted is closed

    thread = threading.Thread(target=asyncio.run, args=(_serve(),), daemon=True)
    thread.start()
    try:
        yield port.result(10)
    finally:
        ends[0]()
        thread.join(10)
