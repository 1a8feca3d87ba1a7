"""The sidecar transport: keeps a sidecar alive (or stays attached to a running one) and speaks IPC to it.

- one owner task spawns, attaches, watches and starts again with a growing pause; the transport stays valid meanwhile;
- it dies: `PeerDown` for each channel, then `LinkState(False)`; it is back: `LinkState(True)`, then new `PeerUp`s;
- `sidecar_socket` attaches to a sidecar that somebody else runs, and to its successor when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from ..config import MeshConfig, environment
from ..errors import LinkDown, MeshError
from ..protocol import ipc
from .base import LinkState, PeerJoined, Sink, Transport, TransportInfo
from .ipc_session import IpcSession, path_text
from .process import SidecarProcess, find_sidecar

logger = logging.getLogger(__name__)

PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 5.0  # before a new start: doubles with each death, starts anew after a stable time
STABLE_S = 30.0
DEATHS_TOLD, DEATHS_WITHIN_S = 5, 60.0  # so many in such a time is told as an error: it will not heal by itself

_HANDED_ON = (
    *("PATH", "HOME", "TMPDIR", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "RUST_LOG", "RUST_BACKTRACE", "LOG_FORMAT"),
    *("ICE_TRANSPORT_POLICY", "ICE_ALLOW_LOOPBACK", "ICE_BIND", "ICE_SERVERS", "IDENTITY_FILE", "MAX_PEERS"),
    *("TURN_URL", "TURN_SECRET", "TURN_USERNAME", "TURN_PASSWORD"),
)


def sidecar_environment(config: MeshConfig, env: Mapping[str, str]) -> dict[str, str]:
    """The sidecar's whole environment: the mesh's settings, and of ours (`env`) only what it reads."""
    out = {name: env[name] for name in _HANDED_ON if name in env}
    out.setdefault("RUST_LOG", "warn")
    out |= {"SIGNALING_URL": config.signaling_url, "TOKEN_URL": config.token_url, "API_KEY": config.api_key.reveal()}
    out |= {"PEER_ID": config.name, "DIAL": config.dial}
    if config.identity_file:
        out["IDENTITY_FILE"] = config.identity_file
    if config.ice_servers:
        out["ICE_SERVERS"] = msgspec.json.encode([dict(s) for s in config.ice_servers]).decode()
    return out | dict(config.extra_env)


class SidecarTransport(Transport):
    """Peers by WebRTC, done by a sidecar process."""

    name = "sidecar"

    def __init__(self, config: MeshConfig) -> None:
        if not config.sidecar_socket and not config.registry:
            raise ValueError("transport 'sidecar' needs registry= (or sidecar_socket= of a sidecar that runs already)")
        self._config = config
        self._sink: Sink | None = None
        self._session: IpcSession | None = None
        self._process: SidecarProcess | None = None
        self._owner: asyncio.Task[None] | None = None
        self._online: dict[str, PeerJoined] = {}
        self._deaths: deque[float] = deque(maxlen=DEATHS_TOLD)
        self._restarts = 0
        self._was_open: set[str] = set()
        self._down_reason = "not started"

    @property
    def sidecar_pid(self) -> int:
        """Process id of the sidecar we run, 0 when there is none."""
        return self._process.pid if self._process else 0

    async def start(self, sink: Sink) -> TransportInfo:
        """See `Transport.start`. Also raises ProtocolMismatch. Events may come before it returned."""
        if self._owner is not None:
            raise RuntimeError("this transport was already started")
        self._sink = sink
        self._stop = asyncio.Event()
        started: asyncio.Future[TransportInfo] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._run(started), name=f"sidecar-owner-{self._config.name}")
        try:
            return await asyncio.shield(started)
        except BaseException:
            await self.aclose()
            raise

    def send(self, peer: str, body: bytes) -> None:
        """See `Transport.send`. Also raises InvalidLine when `body` is not one line holding an object."""
        self._up().send(peer, body)

    async def writable(self, peer: str) -> None:
        """See `Transport.writable`."""
        if self._session is not None:
            await self._session.writable(peer)

    async def connect(self, peer: str, *, timeout_s: float = 15.0) -> None:
        """See `Transport.connect`."""
        await self._up().connect(peer, timeout_s)

    async def disconnect(self, peer: str) -> None:
        """See `Transport.disconnect`."""
        if self._session is None:
            return
        with contextlib.suppress(MeshError, TimeoutError):  # gone is what was asked for
            await self._session.command(
                lambda n: ipc.encode(ipc.Disconnect(ipc.TargetRequest(peer), id=n)), timeout_s=5.0
            )

    async def status(self) -> dict[str, Any]:
        """See `Transport.status`."""
        base = {
            "transport": self.name,
            "pid": self.sidecar_pid,
            "restarts": self._restarts,
            "link": "up" if self._session else "down",
        }
        if self._session is None:
            return base | {"reason": self._down_reason, "peers": {}}
        answer = await self._session.command(lambda n: ipc.encode(ipc.Status(id=n)), timeout_s=5.0)
        assert isinstance(answer, ipc.StatusAnswer)
        found = dict(answer.payload)
        found["peers"] = {p: dict(s) | {"path": path_text(s.get("path"))} for p, s in found.get("peers", {}).items()}
        return found | base | {"failed_sends": self._session.failed_sends}

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        self._sink = None  # from here on nothing is told
        if self._owner is not None:
            self._stop.set()
            await asyncio.wait([self._owner])

    def _up(self) -> IpcSession:
        if self._session is None:
            raise LinkDown(f"no way to the sidecar: {self._down_reason}")
        return self._session

    async def _run(self, started: asyncio.Future[TransportInfo]) -> None:
        pause = PAUSE_MIN_S
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    await self._attached(started)
                except (MeshError, OSError, RuntimeError) as exc:
                    self._down_reason = str(exc)
                    if not started.done():
                        started.set_exception(exc)
                        return
                    logger.warning("the sidecar cannot be started again: %s", exc)
                pause = PAUSE_MIN_S if time.monotonic() - began > STABLE_S else pause
                self._count_death()
                await self._stopped_within(pause)
                pause = min(pause * 2, PAUSE_MAX_S)
        finally:
            self._session = None
            if self._process is not None:
                await self._process.aclose()
            if not started.done():
                started.set_exception(LinkDown("closed while it was starting"))

    async def _stopped_within(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._stop.wait()

    def _count_death(self) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        if self._stop.is_set() or len(self._deaths) < DEATHS_TOLD or now - self._deaths[0] > DEATHS_WITHIN_S:
            return
        tail = self._process.stderr_tail() if self._process else ""
        logger.error(
            "the sidecar ended %d times within %.0f s: %s\n%s",
            DEATHS_TOLD,
            now - self._deaths[0],
            self._down_reason,
            tail,
        )
        self._deaths.clear()

    async def _attached(self, started: asyncio.Future[TransportInfo]) -> None:
        """One life of the link: from spawning to its end, or to `aclose`."""
        session = await self._open()
        try:
            hello = await session.say_hello()
            peer_id = await self._peer_id(session, hello) if not started.done() else hello.peer_id
            if started.done():
                self._restarts += 1
            if not started.done():
                detail = {"sidecar_pid": self.sidecar_pid, "window_bytes": hello.window_bytes}
                started.set_result(
                    TransportInfo(self.name, peer_id, hello.version, hello.fingerprint, hello.max_message_bytes, detail)
                )
            stop = asyncio.create_task(self._stop.wait())
            ends: list[asyncio.Future[Any]] = [stop, session.lost]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stop.cancel()
        finally:
            was_up, self._session = self._session is session, None
            session.link.close()
            if session.lost.done():
                self._down_reason = session.lost.result()
                self._was_open = session.was_open
            if was_up:
                self._emit(LinkState(False, self._down_reason))
            if self._process is not None and not self._stop.is_set():
                await self._process.stop(grace_s=1.0)  # it may live on without its socket

    def _greeted(self, session: IpcSession) -> None:
        assert session.hello is not None
        self._session = session
        self._emit(LinkState(True, peer_id=session.hello.peer_id or self._config.name))

    async def _open(self) -> IpcSession:
        session = IpcSession(self._emit, self._online, self._greeted)
        # Their sidecars would find out about the death by a timeout; our new offer tells them at once.
        session.redial = self._was_open
        loop = asyncio.get_running_loop()

        async def connect(socket: str) -> IpcSession:
            await loop.create_unix_connection(lambda: session.link, socket)
            return session

        if self._config.sidecar_socket:
            try:
                return await connect(self._config.sidecar_socket)
            except OSError as exc:
                raise LinkDown(f"no sidecar answers at {self._config.sidecar_socket}: {exc.strerror or exc}") from exc
        if self._process is None:
            env = environment()
            self._process = SidecarProcess(
                find_sidecar(self._config.sidecar_binary or None, env=env), sidecar_environment(self._config, env)
            )
        return await self._process.start(connect)

    async def _peer_id(self, session: IpcSession, hello: ipc.HelloPayload) -> str:
        if self._config.sidecar_socket and hello.peer_id:
            return hello.peer_id  # its registry may be away: open channels are usable all the same
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                return await session.registered or hello.peer_id
        except TimeoutError:
            raise LinkDown(
                f"the registry {self._config.registry} did not answer within {self._config.connect_timeout_s:g} s"
                f" ({session.signaling.reason or session.signaling.state})"
            ) from None
