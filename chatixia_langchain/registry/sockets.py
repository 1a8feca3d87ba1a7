"""The thin skin between `signaling.Relay` and the WebSockets: a bounded queue and one writer per socket.

A socket that does not take its frames is closed, not waited for: nobody else's frames wait behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..protocol.limits import HANDSHAKE_TIMEOUT_MS
from .audit import Audit
from .keys import Identity
from .limits import Buckets
from .signaling import Action, ConnId, Hang, Relay, Say

logger = logging.getLogger(__name__)
MAX_QUEUED_BYTES: Final = 1024 * 1024  # past either bound the socket is closed; its sidecar comes back and asks anew
MAX_QUEUED_FRAMES: Final = 4096  # a thousand peers may join within one turn of the loop
CLOSE_S: Final = 1.0  # how long a close frame may take before the connection is aborted
GOING_AWAY: Final = 1012
FRAMES_PER_S: Final = 200.0  # of one peer; it is read no faster than this once the burst is used up
FRAMES_BURST: Final = 2000.0  # a peer that joins a full mesh of a hundred sends about this many at once


class Connection:
    """One accepted WebSocket: frames wait in `_queue` for `write`, its only sender."""

    def __init__(self, conn: ConnId, socket: WebSocket) -> None:
        self.conn, self._socket = conn, socket
        self._queue: deque[str] = deque()
        self._bytes = 0
        self._more = asyncio.Event()
        self._end: tuple[int, str] | None = None
        self.overflowed = False

    def push(self, text: str) -> bool:
        """Queue a frame; False when there is no room."""
        if self._end is not None:
            return True  # it is being closed: what comes after that is nobody's loss
        self._bytes += len(text)
        self._queue.append(text)
        self._more.set()
        return self._bytes <= MAX_QUEUED_BYTES and len(self._queue) <= MAX_QUEUED_FRAMES

    def hang_up(self, code: int, reason: str) -> None:
        """Close after what is queued."""
        self._end = self._end or (code, reason)
        self._more.set()

    async def receive(self) -> Message:
        """The next event of the socket."""
        return await self._socket.receive()

    async def write(self) -> None:
        """Send what is queued until the socket is hung up."""
        while True:
            while self._queue:
                text = self._queue.popleft()
                await self._socket.send_text(text)
                self._bytes -= len(text)
            if self._end is not None:
                code, reason = self._end
                await self._socket.close(code, reason)
                return
            self._more.clear()
            await self._more.wait()

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes and all."""
        abort = self._socket.scope["extensions"].get("chatixia.abort")
        if abort is not None:
            abort()


class Sockets:
    """All connections, and the relay that says what goes where."""

    def __init__(self, on_left: Callable[[str], None], audit: Audit) -> None:
        self.relay = Relay()
        self._audit = audit
        self._connections: dict[ConnId, Connection] = {}
        self._next: ConnId = 0
        self._on_left = on_left
        self._closing = False
        self._pace = Buckets(per_s=FRAMES_PER_S, burst=FRAMES_BURST)

    async def serve(self, socket: WebSocket, who: Identity) -> None:
        """Serve an accepted socket until it ends."""
        peer_id = who.peer_id
        self._next += 1
        connection = Connection(self._next, socket)
        self._connections[connection.conn] = connection
        self._audit.note("socket_opened", peer=peer_id, conn=connection.conn, key=who.key_id)
        try:
            self.apply(self.relay.opened(connection.conn, peer_id, who.key_id))
            await self._run(connection, peer_id)
        finally:
            self._connections.pop(connection.conn, None)
            if not self._closing:  # at the end nobody is left to tell
                was_online = self.relay.is_online(peer_id)
                self.apply(self.relay.closed(connection.conn))
                if was_online and not self.relay.is_online(peer_id):
                    self._on_left(peer_id)
            self._audit.note("socket_ended", peer=peer_id, conn=connection.conn, overflowed=connection.overflowed)

    async def _run(self, connection: Connection, peer_id: str) -> None:
        reader = asyncio.create_task(self._read(connection, peer_id), name=f"ws-read-{connection.conn}")
        writer = asyncio.create_task(connection.write(), name=f"ws-write-{connection.conn}")
        impatient = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT_MS / 1000, self._hurry, connection)
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            impatient.cancel()
            for task in (reader, writer):
                task.cancel()
            ends = await asyncio.gather(reader, writer, return_exceptions=True)
            for end in ends:
                if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect):
                    logger.warning("conn=%d broke: %s", connection.conn, type(end).__name__, exc_info=end)

    async def _read(self, connection: Connection, peer_id: str) -> None:
        while True:
            message = await connection.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            self.apply(self.relay.heard(connection.conn, text if text is not None else message.get("bytes", b"")))
            pause = self._pace.delay(peer_id, asyncio.get_running_loop().time())
            if pause:  # its frames wait in its own connection: nothing is lost, and nobody else waits
                await asyncio.sleep(pause)

    def apply(self, actions: Iterable[Action]) -> None:
        """Do what the relay said."""
        for action in actions:
            connection = self._connections.get(action.conn)
            if connection is None:
                continue
            match action:
                case Say(text=text):
                    if not connection.push(text):
                        self._overflow(connection)
                case Hang(code=code, reason=reason):
                    connection.hang_up(code, reason)
                    # A close frame waits behind what the peer does not read: give it a moment, not for ever.
                    asyncio.get_running_loop().call_later(CLOSE_S, self._abort_if_there, connection)

    def close(self) -> None:
        """Hang up on everyone: the server goes down, sidecars come back by themselves."""
        self._closing = True
        for connection in list(self._connections.values()):
            connection.hang_up(GOING_AWAY, "the registry goes down")

    def _overflow(self, connection: Connection) -> None:
        if not connection.overflowed:
            connection.overflowed = True
            logger.warning("conn=%d does not read: closed", connection.conn)
            connection.abort()

    def _abort_if_there(self, connection: Connection) -> None:
        if self._connections.get(connection.conn) is connection:
            connection.abort()

    def _hurry(self, connection: Connection) -> None:
        if self.relay.unregistered(connection.conn):
            connection.hang_up(4408, "no register in time")
