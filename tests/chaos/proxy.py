"""A wire between one worker and one broker that can be bad: it resets, falls silent, delays, or lets little through."""

import asyncio
import struct
from contextlib import suppress
from enum import Enum
from socket import SO_LINGER, SOL_SOCKET

_CHUNK_BYTES = 1 << 16
_NARROW_BYTES = 1 << 10
_BYTES_A_SECOND = 10_000
_DELAY_SECONDS = 2
_BATCH_BYTES = 1_000


class Weather(Enum):
    """How a wire is."""

    FAIR = "passes everything"
    RESETTING = "resets the connection in the middle of what has the size of a batch"
    SILENT = "passes nothing, and tells neither side"
    SLOW = "holds everything up for 2 s"
    NARROW = "passes 10 kB a second"


class Wire:
    """Listens at a port of its own, and connects each client to the port of the broker."""

    def __init__(self, broker: int) -> None:
        self.broker = broker
        self.weather = Weather.FAIR
        self.strikes = 0
        """How often something came by that the weather did something to."""
        self.connections = 0
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Future[None]] = set()
        self._open: set[asyncio.Future[None] | None] = set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def turn(self, weather: Weather) -> None:
        """Change the weather; who was met with silence is reset when it ends, as by a router that has forgotten him."""
        was, self.weather = self.weather, weather
        self._changed.set()
        self._changed = asyncio.Event()
        if was is Weather.SILENT:
            self.reset()

    def reset(self) -> None:
        """Reset every connection."""
        for writer in tuple(self._writers):
            _reset(writer)

    async def close(self) -> None:
        self._server.close()
        for pump in tuple(self._pumps):
            pump.cancel()
        await asyncio.gather(*filter(None, self._open), return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.broker)
        except OSError:
            _reset(writer)
            return
        self.connections += 1
        both, connection = {writer, back}, asyncio.current_task()
        self._writers |= both
        self._open.add(connection)
        pumps = {asyncio.ensure_future(self._pump(reader, back)), asyncio.ensure_future(self._pump(there, writer))}
        self._pumps |= pumps
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self._writers -= both
        for each in both:
            _reset(each)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        self._pumps -= pumps
        self._open.discard(connection)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, as the weather is, until one side is gone."""
        with suppress(OSError):
            while data := await reader.read(_NARROW_BYTES if self.weather is Weather.NARROW else _CHUNK_BYTES):
                small = self.weather is Weather.RESETTING and len(data) <= _BATCH_BYTES
                self.strikes += self.weather is not Weather.FAIR and not small
                while self.weather is Weather.SILENT:
                    await self._changed.wait()
                match self.weather:
                    case Weather.RESETTING if not small:
                        writer.write(data[: len(data) // 2])
                        await writer.drain()
                        return
                    case Weather.SLOW:
                        await asyncio.sleep(_DELAY_SECONDS)
                    case Weather.NARROW:
                        await asyncio.sleep(len(data) / _BYTES_A_SECOND)
                writer.write(data)
                await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, not in order."""
    socket = writer.get_extra_info("socket")
    with suppress(OSError):
        socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
