"""One connection to a sidecar's Unix socket: bytes in, whole lines out in batches; lines in, gathered writes out.

The only file that touches the Unix socket. Knows the line, not what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from ..protocol.limits import MAX_LINE_BYTES

WRITE_HIGH_BYTES = 4 * 1_048_576  # above it `full` is set and senders are told to wait


class IpcLink(asyncio.Protocol):
    """Splits what arrives into lines; `on_lines(batch)` gets all that one read completed, `on_lost(reason)` the end."""

    def __init__(
        self, on_lines: Callable[[list[bytes]], None], on_lost: Callable[[str], None], on_room: Callable[[], None]
    ) -> None:
        self._on_lines, self._on_lost, self._on_room = on_lines, on_lost, on_room
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []  # of an unfinished line; at most MAX_LINE_BYTES, then the link is closed
        self._part_bytes = 0
        self._out: list[bytes] = []  # written in this turn after the first; flushed at its end
        self._corked = False
        self._why = "the sidecar closed the connection"
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        lines = data.split(b"\n")
        tail = lines.pop()
        if lines and self._parts:
            self._parts.append(lines[0])
            lines[0] = b"".join(self._parts)
            self._parts.clear()
            self._part_bytes = 0
        if tail:
            self._parts.append(tail)
            self._part_bytes += len(tail)
            if self._part_bytes > MAX_LINE_BYTES:
                self.abort("the sidecar sent a line that is too long")
                return
        if lines:
            self._on_lines(lines)

    def write(self, line: bytes) -> None:
        """Write one line with its line feed. The first of a turn goes straight out, the others join at its end."""
        if self._transport is None:
            return
        if self._corked:
            self._out.append(line)
            return
        self._corked = True
        self._transport.write(line)
        self._loop.call_soon(self._uncork)

    def _uncork(self) -> None:
        self._corked = False
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._on_room()

    def abort(self, why: str) -> None:
        """Break the connection; `on_lost(why)` follows."""
        self._why = why
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Flush and close."""
        self._uncork()
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and self._transport is not None:
            # Our write met a closed socket: what the sidecar said before it closed ("busy") is still there to read.
            with contextlib.suppress(OSError):
                self.data_received(os.read(self._transport.get_extra_info("socket").fileno(), 65_536))
        self._transport = None
        self._out.clear()
        self._parts.clear()
        self._on_lost(f"{self._why}: {exc}" if exc else self._why)
