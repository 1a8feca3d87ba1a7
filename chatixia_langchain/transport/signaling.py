"""The aiortc transport's way to the registry: one WebSocket, kept open. The only file that names the WebSocket library.

- `start` returns once we are registered and know who is online; from then on it reconnects by itself, with jitter and a
  fresh token each time;
- frames come decoded to `on_frame`; `send` hands over one frame, or drops it while there is no connection: the dial it
  belongs to will be tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from ..config import MeshConfig
from ..errors import InvalidLine, LinkDown, MeshError, RegistryRefused
from ..protocol import signaling as wire
from ..protocol.ipc import Empty
from ..protocol.limits import HEARTBEAT_MS, PROTOCOL
from .registry_api import RegistryApi

logger = logging.getLogger(__name__)

QUEUE = 256  # frames that wait to be written; when full, new ones are dropped and logged
PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 30.0
STABLE_S = 60.0  # a connection that lived so long starts the pauses anew
REFUSED_PAUSE_S = 30.0  # somebody may mend the key; until then we ask seldom
SUPERSEDED = 4409


class SignalingClient:
    """Registers `config.name` and stays registered until `aclose`."""

    def __init__(
        self, config: MeshConfig, api: RegistryApi, fingerprint: str, on_frame: Callable[[wire.FromRegistry], None]
    ) -> None:
        self._config, self._api, self._fingerprint, self._on_frame = config, api, fingerprint, on_frame
        self._generation = int(time.time() * 1000)
        self._out: asyncio.Queue[str] = asyncio.Queue(QUEUE)
        self._task: asyncio.Task[None] | None = None
        self.state, self.reason = "connecting", ""

    async def start(self, timeout_s: float) -> None:
        """Raises RegistryRefused, LinkDown."""
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name=f"signaling-{self._config.name}")
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready
        except TimeoutError:
            why = self.reason or "no answer"
            raise LinkDown(f"no signaling with {self._config.registry} within {timeout_s:g} s: {why}") from None

    def send(self, frame: wire.ToRegistry) -> None:
        """Write `frame` soon, if there is a connection."""
        if self.state != "connected":
            logger.debug("no signaling now, dropped a frame: %s", type(frame).__name__)
            return
        try:
            self._out.put_nowait(wire.encode(frame))
        except asyncio.QueueFull:
            logger.warning("signaling is slow, dropped a frame: %s", type(frame).__name__)

    async def aclose(self) -> None:
        """Close the socket. Idempotent."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # whoever waited was told

    async def _run(self) -> None:
        pause = PAUSE_MIN_S
        while True:
            began = time.monotonic()
            refused = False
            try:
                await self._connected()
            except MeshError as exc:
                refused = isinstance(exc, RegistryRefused)
                self._down("refused" if refused else "connecting", exc.message)
                if refused and not self._ready.done():
                    self._ready.set_exception(exc)
            if time.monotonic() - began > STABLE_S:
                pause = PAUSE_MIN_S
            await asyncio.sleep(REFUSED_PAUSE_S if refused else pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, PAUSE_MAX_S)

    def _down(self, state: str, reason: str) -> None:
        if (self.state, self.reason) != (state, reason):
            logger.info("agent=%s: signaling %s: %s", self._config.name, state, reason)
        self.state, self.reason = state, reason
        while not self._out.empty():
            self._out.get_nowait()  # they belong to a conversation that is over

    async def _connected(self) -> None:
        """One connection, until it ends. Raises RegistryRefused, LinkDown."""
        url, token = self._config.signaling_url, await self._api.token()
        try:
            async with connect(
                url,
                additional_headers={"Authorization": f"Bearer {token}"},
                max_size=wire.MAX_FRAME_BYTES,
                compression=None,
                close_timeout=1.0,
            ) as socket:
                try:
                    await self._talk(socket)
                except asyncio.CancelledError:
                    await socket.close()  # we leave in order: left to itself it would say that something broke
                    raise
        except InvalidStatus as exc:
            self._api.forget_token()  # a registry that restarted does not know it; a wrong key is refused there
            raise LinkDown(f"{url} answers {exc.response.status_code}") from exc
        except ConnectionClosed as exc:
            if exc.rcvd is not None and exc.rcvd.code == SUPERSEDED:
                raise RegistryRefused("another agent of this name took over", code="superseded") from exc
            raise LinkDown(f"signaling was closed: {exc}") from exc
        except (OSError, TimeoutError, WebSocketException) as exc:
            raise LinkDown(f"no connection to {url}: {exc or type(exc).__name__}") from exc

    async def _talk(self, socket: ClientConnection) -> None:
        me = self._config.name
        await socket.send(
            wire.encode(wire.Register(me, wire.RegisterPayload(PROTOCOL, self._fingerprint, self._generation)))
        )
        writer = asyncio.create_task(self._write(socket), name=f"signaling-write-{me}")
        try:
            async for data in socket:
                self._heard(data.encode() if isinstance(data, str) else data)
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed):
                await writer
        raise LinkDown("the registry closed the connection")

    async def _write(self, socket: ClientConnection) -> None:
        beat = wire.encode(wire.Heartbeat(self._config.name, Empty()))
        while True:
            text = beat
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_MS / 1000):
                    text = await self._out.get()
            await socket.send(text)

    def _heard(self, data: bytes) -> None:
        try:
            frame = wire.decode(data)
        except InvalidLine as exc:
            logger.warning("agent=%s: a frame of the registry was not understood: %s", self._config.name, exc)
            return
        if isinstance(frame, wire.PeerList):
            self.state, self.reason = "connected", ""
        self._on_frame(frame)
        if isinstance(frame, wire.PeerList) and not self._ready.done():
            self._ready.set_result(None)
