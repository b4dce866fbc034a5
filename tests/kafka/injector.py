"""A proxy before a real broker that changes chosen answers: an error code, or the bytes of a fetch."""

import asyncio
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiokafka.record.util import calc_crc32c

from tests.kafka.ports import listening

FETCH, METADATA, FIND_COORDINATOR = 1, 3, 10


class Injector:
    """Passes everything on; *change* may change the body of an answer, after its correlation id.

    A broker's answer names its own port. The proxy puts its own there, so that all requests come through it.
    """

    def __init__(self, broker: str) -> None:
        self._broker = int(broker.rpartition(":")[2])
        self.port = 0
        self.advertised: int | None = None
        """The port that answers name in place of the broker's; the proxy's own unless it is set."""
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

    def answer_partition_with(self, api: int, topic: str, code: int) -> None:
        """Put an error code into the answers about the first partition of a topic, to Fetch or ListOffsets."""
        name = struct.pack(">h", len(topic)) + topic.encode()

        def change(asked: int, _version: int, body: bytes) -> bytes:
            at = body.find(name) + len(name) + 8  # behind the number of partitions and the first one's number
            if asked != api or name not in body:
                return body
            return body[:at] + struct.pack(">h", code) + body[at + 2 :]

        self.change = change

    def name_no_brokers(self) -> None:
        """Leave all brokers out of the answers to Metadata that clients begin with."""

        def change(asked: int, version: int, body: bytes) -> bytes:
            if asked != METADATA or not 1 <= version < 9:
                return body
            at = 4 if version >= 3 else 0  # behind the throttle time
            (count,) = struct.unpack_from(">i", body, at)
            end = at + 4
            for _ in range(count):  # node, host, port, rack
                (host,) = struct.unpack_from(">h", body, end + 4)
                end += 4 + 2 + host + 4
                (rack,) = struct.unpack_from(">h", body, end)
                end += 2 + max(rack, 0)
            return body[:at] + struct.pack(">i", 0) + body[end:]

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
                ours, theirs = (
                    b"127.0.0.1" + struct.pack(">i", port) for port in (self.advertised or self.port, self._broker)
                )
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


def spoil(offset: int, defect: str, mark: bytes = b"") -> Callable[[int, int, bytes], bytes]:
    """Return a change of fetched batches: the one at an offset gets a codec by its number, or a wrong `crc`.

    Only a batch with the *mark* in it is meant.
    """

    def change(api: int, _version: int, body: bytes) -> bytes:
        changed = bytearray(body)
        for at in _batches(body) if api == FETCH else ():
            (base, length) = struct.unpack_from(">qi", body, at)
            end = at + 12 + length
            if base == offset and mark in body[at:end]:
                if defect == "crc":
                    changed[end - 1] ^= 0xFF
                else:
                    changed[at + 22] = changed[at + 22] & 0xF8 | int(defect)
                    struct.pack_into(">I", changed, at + 17, calc_crc32c(bytes(changed[at + 21 : end])))
        return bytes(changed)

    return change


def _batches(body: bytes) -> Iterator[int]:
    """Yield where record batches begin: where the magic byte is 2 and the checksum is right."""
    for at in range(len(body) - 61):
        if body[at + 16] == 2:
            (length,) = struct.unpack_from(">i", body, at + 8)
            (crc,) = struct.unpack_from(">I", body, at + 17)
            if 49 <= length <= len(body) - at - 12 and crc == calc_crc32c(body[at + 21 : at + 12 + length]):
                yield at
