"""A proxy before a real broker that changes chosen answers: an error code, or the bytes of a fetch."""

import asyncio
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.kafka.ports import listening

METADATA, FIND_COORDINATOR = 3, 10


class Injector:
    """Passes everything on; *change* may change the body of an answer, after its correlation id.

    A broker's answer names its own port. The proxy puts its own there, so that all requests come through it.
    """

    def __init__(self, broker: str) -> None:
        self._broker = int(broker.rpartition(":")[2])
        self.port = 0
        self.seen: list[int] = []
        """The API keys of all requests."""
        self.change: Callable[[int, int, bytes], bytes] = lambda _api, _version, body: body

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer_with(self, api: int, code: int, times: float = float("inf")) -> None:
        """Put an error code into the answers to the requests of an API whose answers begin with one."""
        left = [times]

        def change(asked: int, version: int, body: bytes) -> bytes:
            if asked != api or left[0] <= 0:
                return body
            left[0] -= 1
            at = 4 if version >= (2 if asked == 11 else 1) else 0  # behind the throttle time
            return body[:at] + struct.pack(">h", code) + body[at + 2 :]

        self.change = change

    def answer_fairly(self) -> None:
        self.change = lambda _api, _version, body: body

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._broker)
        asked: dict[bytes, tuple[int, int]] = {}

        def request(frame: bytes) -> bytes:
            api, version = struct.unpack(">hh", frame[:4])
            asked[frame[4:8]] = api, version
            self.seen.append(api)
            return frame

        def answer(frame: bytes) -> bytes:
            api, version = asked.pop(frame[:4])
            body = self.change(api, version, frame[4:])
            if api in {METADATA, FIND_COORDINATOR}:
                ours, theirs = (b"127.0.0.1" + struct.pack(">i", port) for port in (self.port, self._broker))
                body = body.replace(theirs, ours)
            return frame[:4] + body

        pumps = [
            asyncio.ensure_future(_pump(reader, back, request)),
            asyncio.ensure_future(_pump(there, writer, answer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, by: Callable[[bytes], bytes]) -> None:
    while True:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        frame = by(await reader.readexactly(size))
        writer.write(struct.pack(">i", len(frame)) + frame)
        await writer.drain()


@contextmanager
def injecting(broker: str) -> Iterator[Injector]:
    """Run an injector before a broker, in a thread of its own."""
    injector = Injector(broker)
    with listening(injector.connect) as injector.port:
        yield injector
