"""One WebRTC connection by aiortc. The only file that names aiortc.

aiortc gathers all candidates before the description is sent, takes trickled ones, and cannot restart ICE. Two things it
has no setting for are set through its internals, and left alone where those have changed: our own certificate, and
127.0.0.1 as a candidate, which only a registry on this very machine turns on.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcdtlstransport import RTCCertificate
from aiortc.sdp import candidate_from_sdp

from ..errors import Busy, InvalidLine, MeshError, MessageTooBig, PeerUnreachable
from ..identity import Identity
from ..protocol.limits import (
    HANDSHAKE_TIMEOUT_MS,
    MAX_CANDIDATES,
    MAX_MESSAGE_BYTES,
    OLD_PEER_MAX_MESSAGE_BYTES,
    WINDOW_BYTES,
)

logger = logging.getLogger(__name__)

LABEL = "mesh"
GATHER_S = 2.0  # how long a close waits for what aiortc is at; longer only with STUN servers that do not answer
FLUSH_S = 0.5  # how long a clean close waits for what was sent
_MAX_MESSAGE = re.compile(r"^a=max-message-size:(\d{1,12})\s*$", re.MULTILINE)
_FINGERPRINT = re.compile(r"^a=fingerprint:(sha-256) ([0-9A-Fa-f:]{95})\s*$", re.MULTILINE)
_OTHER_PRINTS = re.compile(r"^a=fingerprint:(?!sha-256 ).*\r?\n", re.MULTILINE)
_SECTIONS = re.compile(r"^m=(\S*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RtcSettings:
    """What all connections of a transport share. `loopback` adds 127.0.0.1 to the candidates."""

    identity: Identity
    ice_servers: tuple[dict[str, Any], ...] = ()
    loopback: bool = False


class RtcConnection:
    """A connection to `peer`, as offerer or answerer. Tells `on_open`, `on_message`, and exactly once `on_down`."""

    def __init__(
        self, peer: str, name: str | None, role: Literal["offerer", "answerer"], settings: RtcSettings
    ) -> None:
        self.peer, self.name, self.role = peer, name, role
        self.generation = time.time_ns() // 1_000_000
        self.protocol, self.fingerprint, self.max_bytes = 0, "", OLD_PEER_MAX_MESSAGE_BYTES
        self.on_open: Callable[[RtcConnection], None] = lambda _: None
        self.on_message: Callable[[RtcConnection, bytes], None] = lambda *_: None
        self.on_down: Callable[[RtcConnection, str], None] = lambda *_: None
        self.counters = {"messages_sent": 0, "messages_received": 0, "bytes_sent": 0, "bytes_received": 0}
        self._pc = _peer_connection(settings)
        self._settings = settings
        self._channel: RTCDataChannel | None = None
        self._candidates: list[str] | None = []  # those that came before the remote description; None once it is set
        self._jobs: set[asyncio.Task[None]] = set()
        self._room: set[asyncio.Future[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self.opened = self._down = False
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("connectionstatechange", self._on_state)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(HANDSHAKE_TIMEOUT_MS / 1000, self.close, "no channel in time")

    def offer(self, say: Callable[[str], None]) -> None:
        """Make the offer, then `say(sdp)`."""

        async def job() -> None:
            self._on_channel(self._pc.createDataChannel(LABEL))
            _prepare(self._pc, self._settings)
            await self._pc.setLocalDescription(await self._pc.createOffer())
            self._say(say)

        self._start(job())

    def answer(self, sdp: str, say: Callable[[str], None]) -> None:
        """Take the offer, make the answer, then `say(sdp)`."""

        async def job() -> None:
            await self._describe(sdp, "offer")
            _prepare(self._pc, self._settings)
            await self._pc.setLocalDescription(await self._pc.createAnswer())
            self._say(say)

        self._start(job())

    def _say(self, say: Callable[[str], None]) -> None:
        if self._closing is None:
            # aiortc names the certificate by SHA-384 and SHA-512, too: one name is what the other side has to check.
            say(_OTHER_PRINTS.sub("", str(self._pc.localDescription.sdp)))

    def take_answer(self, sdp: str) -> None:
        """The answer to our offer came; a second one is ignored."""
        if self._pc.signalingState == "have-local-offer":
            self._start(self._describe(sdp, "answer"))

    def take_candidate(self, candidate: str) -> None:
        """A trickled candidate came, "" is the end of them."""
        if self._candidates is None:
            self._start(self._add(candidate))
        elif len(self._candidates) < MAX_CANDIDATES:
            self._candidates.append(candidate)

    def send(self, body: bytes) -> None:
        """See `Transport.send`."""
        channel = self._channel
        if channel is None or not self.opened or channel.readyState != "open":
            raise PeerUnreachable(self.peer)
        if len(body) > self.max_bytes:
            raise MessageTooBig(len(body), self.max_bytes)
        if body[:1] != b"{" or b"\n" in body or b"\r" in body:
            raise InvalidLine("a message is one JSON object on one line")
        if channel.bufferedAmount + len(body) > WINDOW_BYTES:
            raise Busy(f"the window to {self.peer!r} is full")
        try:
            channel.send(body.decode())
        except UnicodeDecodeError as exc:
            raise InvalidLine(f"the message is not UTF-8: {exc}") from exc
        self.counters["messages_sent"] += 1
        self.counters["bytes_sent"] += len(body)

    async def writable(self) -> None:
        """Return when half of the window is free, or the channel is gone."""
        while self._channel is not None and not self._down and self._channel.bufferedAmount > WINDOW_BYTES // 2:
            waiter = asyncio.get_running_loop().create_future()
            self._room.add(waiter)
            try:
                await waiter
            finally:
                self._room.discard(waiter)

    def status(self) -> dict[str, Any]:
        """What is known of the link, JSON-plain."""
        sctp = self._pc.sctp
        rtt = getattr(sctp, "_srtt", None)
        return {
            "state": "open" if self.opened and not self._down else "connecting",
            "generation": self.generation,
            "connection": self.name or "",
            "role": self.role,
            "protocol": self.protocol,
            "fingerprint": self.fingerprint,
            "path": self.path(),
            "rtt_ms": rtt * 1000 if isinstance(rtt, float) else None,
            "max_message_bytes": self.max_bytes,
        } | self.counters

    def path(self) -> str:
        """Types of the candidate pair in use: "host/srflx"."""
        try:
            pair = self._pc.sctp.transport.transport._connection._nominated[1]
            return f"{pair.local_candidate.type}/{pair.remote_candidate.type}"
        except (AttributeError, KeyError):
            return ""

    def close(self, reason: str, *, flush: bool = False) -> asyncio.Task[None]:
        """Begin to close, telling the peer; `flush` lets what was sent leave first. Returns the task that does it."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(flush), name=f"rtc-close-{self.peer}")
            self._tell_down(reason)
        return self._closing

    async def _close(self, flush: bool) -> None:
        if jobs := list(self._jobs):
            # Not cancelled at once: aiortc leaves its sockets open when gathering is cut short.
            await asyncio.wait(jobs, timeout=GATHER_S)
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
        sctp = self._pc.sctp
        until = time.monotonic() + FLUSH_S
        while flush and sctp is not None and self._channel is not None and time.monotonic() < until:
            queued = (getattr(sctp, q, ()) for q in ("_data_channel_queue", "_outbound_queue", "_sent_queue"))
            if not any(queued):
                break
            await asyncio.sleep(0.01)
        await self._pc.close()

    def _start(self, job: Awaitable[None]) -> None:
        async def guarded() -> None:
            try:
                await job
            except MeshError as exc:
                self.close(exc.message)
            except Exception as exc:  # noqa: BLE001  (what a peer's text can make aiortc raise is no closed list)
                logger.warning("peer=%s: connection failed: %s: %s", self.peer, type(exc).__name__, exc)
                self.close(f"{type(exc).__name__}: {exc}")

        task = asyncio.create_task(guarded(), name=f"rtc-{self.role}-{self.peer}")
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _describe(self, sdp: str, kind: str) -> None:
        if _SECTIONS.findall(sdp) != ["application"]:
            raise InvalidLine("a session description must have one section, of data channels")
        found = _MAX_MESSAGE.search(sdp)
        told = int(found[1]) if found else OLD_PEER_MAX_MESSAGE_BYTES
        self.max_bytes = min(told or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES)  # 0 means: any size
        prints = _FINGERPRINT.search(sdp)
        self.fingerprint = f"{prints[1]} {prints[2].upper()}" if prints else ""
        await self._pc.setRemoteDescription(RTCSessionDescription(sdp, kind))
        early, self._candidates = self._candidates or [], None
        for candidate in early:
            await self._add(candidate)

    async def _add(self, text: str) -> None:
        if not text:
            await self._pc.addIceCandidate(None)
            return
        try:
            candidate = candidate_from_sdp(text.removeprefix("a=").removeprefix("candidate:"))
        except (AssertionError, ValueError, IndexError):
            logger.debug("peer=%s: a candidate was not understood", self.peer)
            return
        if candidate.protocol.lower() != "udp":
            return
        candidate.sdpMLineIndex = 0  # there is one section, whatever the sender calls it
        await self._pc.addIceCandidate(candidate)

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != LABEL or self._channel is not None:
            return
        self._channel = channel
        channel.bufferedAmountLowThreshold = WINDOW_BYTES // 2
        channel.on("message", self._on_text)
        channel.on("close", lambda: self.close("the peer closed the channel"))
        channel.on("bufferedamountlow", self._wake)
        if channel.readyState == "open":
            self._on_open()
        else:
            channel.on("open", self._on_open)

    def _on_open(self) -> None:
        if self.opened or self._closing is not None:
            return
        self.opened = True
        self._deadline.cancel()
        self.on_open(self)

    def _on_text(self, data: str | bytes) -> None:
        body = data.encode() if isinstance(data, str) else data
        self.counters["messages_received"] += 1
        self.counters["bytes_received"] += len(body)
        if len(body) > MAX_MESSAGE_BYTES or body[:1] != b"{" or b"\n" in body or b"\r" in body:
            logger.warning("peer=%s: a message that is not one JSON object on one line is dropped", self.peer)
            return
        if self._closing is None:
            self.on_message(self, body)

    def _on_state(self) -> None:
        if self._pc.connectionState in ("failed", "closed"):
            self.close(f"the connection {self._pc.connectionState}")

    def _tell_down(self, reason: str) -> None:
        self._down = True
        self._deadline.cancel()
        self._wake()
        self.on_down(self, reason)

    def _wake(self) -> None:
        for waiter in self._room:
            if not waiter.done():
                waiter.set_result(None)


def _peer_connection(settings: RtcSettings) -> Any:
    servers = [RTCIceServer(s["urls"], s.get("username"), s.get("credential")) for s in settings.ice_servers]
    pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))  # never None: that would mean a public STUN server
    if hasattr(pc, "_RTCPeerConnection__certificates"):
        certificate = RTCCertificate(settings.identity.key, settings.identity.certificate)
        pc._RTCPeerConnection__certificates = [certificate]
    return pc


def _prepare(pc: Any, settings: RtcSettings) -> None:
    """Before gathering: let 127.0.0.1 be a candidate."""
    if not settings.loopback:
        return
    try:
        ice = pc.sctp.transport.transport.iceGatherer._connection
        gather = ice.get_component_candidates
    except AttributeError:  # aiortc changed inside: candidates of other interfaces must do
        logger.debug("cannot add the loopback candidate to this aiortc")
        return

    async def with_loopback(component: int, addresses: list[str], **rest: Any) -> Any:
        return await gather(component=component, addresses=["127.0.0.1", *addresses], **rest)

    ice.get_component_candidates = with_loopback
