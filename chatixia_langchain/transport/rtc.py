"""The aiortc transport: WebRTC in this process, on the same wire as the sidecar, for where there is no sidecar binary.

- signaling by `SignalingClient`; one `RtcConnection` per attempt, named by the offerer; what to do with an offer is
  decided in `rtc_negotiation`;
- a new connection to a peer that is connected replaces the old one once its channel opens;
- losing the registry closes nothing. A peer that vanishes without a word is noticed by ICE consent, in about 30 s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
from typing import Any
from urllib.parse import urlsplit

from ..config import MeshConfig
from ..errors import LinkDown, MeshError, PeerUnreachable
from ..identity import Identity
from ..protocol import signaling as wire
from ..protocol.limits import MAX_PEERS, MAX_PENDING_HANDSHAKES, PROTOCOL, is_peer_id
from .base import (
    LinkState,
    PeerDown,
    PeerJoined,
    PeerLeft,
    PeerUp,
    Received,
    Sink,
    Transport,
    TransportInfo,
)
from .registry_api import RegistryApi
from .rtc_connection import RtcConnection, RtcSettings
from .rtc_negotiation import on_offer
from .signaling import SignalingClient

logger = logging.getLogger(__name__)


class _Peer:
    """What we have with one peer: an open connection, one that is being made, and who waits for it."""

    __slots__ = ("dial", "opened", "pending")

    def __init__(self) -> None:
        self.opened: RtcConnection | None = None
        self.pending: RtcConnection | None = None
        self.dial: asyncio.Future[None] | None = None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class RtcTransport(Transport):
    """Peers by WebRTC, done by aiortc in this process."""

    name = "aiortc"

    def __init__(self, config: MeshConfig, *, identity: Identity | None = None) -> None:
        if not config.registry:
            raise ValueError("transport 'aiortc' needs registry=")
        self._config, self._identity = config, identity or Identity.fresh()
        self._sink: Sink | None = None
        self._peers: dict[str, _Peer] = {}
        self._online: dict[str, PeerJoined] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._listed = False

    async def start(self, sink: Sink) -> TransportInfo:
        """See `Transport.start`. Raises RegistryRefused, LinkDown."""
        self._sink = sink
        self._api = RegistryApi(self._config)
        self._signaling = SignalingClient(self._config, self._api, self._identity.fingerprint, self._on_frame)
        try:
            await self._api.token()
            servers = [dict(s) for s in self._config.ice_servers] or await self._api.ice_servers()
            self._settings = RtcSettings(self._identity, tuple(servers), _is_loopback(self._config.registry))
            self._emit(LinkState(True, peer_id=self._config.name))
            await self._signaling.start(self._config.connect_timeout_s)
        except BaseException:
            await self.aclose()
            raise
        return TransportInfo(self.name, self._config.name, fingerprint=self._identity.fingerprint)

    def send(self, peer: str, body: bytes) -> None:
        """See `Transport.send`. Also raises InvalidLine when `body` is not one line holding an object."""
        if self._sink is None:
            raise LinkDown("this transport is closed")
        known = self._peers.get(peer)
        if known is None or known.opened is None:
            raise PeerUnreachable(peer)
        known.opened.send(body)

    async def writable(self, peer: str) -> None:
        """See `Transport.writable`."""
        known = self._peers.get(peer)
        if known is not None and known.opened is not None:
            await known.opened.writable()

    async def connect(self, peer: str, *, timeout_s: float = 15.0) -> None:
        """See `Transport.connect`."""
        if self._sink is None:
            raise LinkDown("this transport is closed")
        known = self._peers.get(peer)
        if known is not None and known.opened is not None:
            return
        if known is None or (known.pending is None and known.dial is None):
            self._dial(peer)
        known = self._peers[peer]
        if known.dial is None:
            known.dial = asyncio.get_running_loop().create_future()
            known.dial.add_done_callback(lambda f: f.cancelled() or f.exception())  # told even if nobody waits
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(known.dial)
        except TimeoutError:
            raise PeerUnreachable(peer, f"no channel within {timeout_s:g} s") from None

    async def disconnect(self, peer: str) -> None:
        """See `Transport.disconnect`."""
        known = self._peers.get(peer)
        if known is not None:
            await asyncio.gather(*(c.close("closed", flush=True) for c in (known.opened, known.pending) if c))

    async def status(self) -> dict[str, Any]:
        """See `Transport.status`."""
        peers = {p: c.status() for p, k in self._peers.items() if (c := k.opened or k.pending)}
        signaling = self._signaling.state if self._sink else "closed"
        base = {"transport": self.name, "peer_id": self._config.name, "fingerprint": self._identity.fingerprint}
        return base | {"signaling": signaling, "online": sorted(self._online), "peers": peers}

    async def aclose(self) -> None:
        """See `Transport.aclose`."""
        was_open, self._sink = self._sink is not None, None
        if not was_open:
            return
        # Signaling first: no new connection comes while the old ones close.
        await self._signaling.aclose()
        for known in list(self._peers.values()):
            for connection in (known.opened, known.pending):
                if connection is not None:
                    self._close(connection, "closed", flush=True)
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._api.aclose()

    def _dial(self, peer: str) -> None:
        """Offer a connection, also to a peer we have not heard of: the registry knows best. Raises PeerUnreachable."""
        if peer == self._config.name:
            raise PeerUnreachable(peer, "that is this agent")
        if self._signaling.state != "connected":
            raise PeerUnreachable(peer, f"no signaling: {self._signaling.reason}")
        if self._handshakes() >= MAX_PENDING_HANDSHAKES:
            raise PeerUnreachable(peer, f"{MAX_PENDING_HANDSHAKES} other connections are being made")
        name = secrets.token_hex(8)
        connection = self._make(RtcConnection(peer, name, "offerer", self._settings))

        def say(sdp: str) -> None:
            payload = wire.SdpPayload(sdp, PROTOCOL, name)
            self._signaling.send(wire.Offer(self._config.name, peer, payload=payload))
            self._end_candidates(connection)

        connection.offer(say)

    def _dial_or_log(self, peer: str) -> None:
        try:
            self._dial(peer)
        except MeshError as exc:
            logger.info("peer=%s: not dialled: %s", peer, exc)

    def _handshakes(self) -> int:
        return sum(known.pending is not None for known in self._peers.values())

    def _make(self, connection: RtcConnection) -> RtcConnection:
        connection.on_open, connection.on_message, connection.on_down = self._opened, self._message, self._down
        known = self._peers.setdefault(connection.peer, _Peer())
        stale, known.pending = known.pending, connection
        if stale is not None:
            self._close(stale, "replaced")
        return connection

    def _close(self, connection: RtcConnection, reason: str, *, flush: bool = False) -> None:
        task = connection.close(reason, flush=flush)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _on_frame(self, frame: wire.FromRegistry) -> None:
        if self._sink is None:
            return
        match frame:
            case wire.PeerList(payload=listed):
                self._on_list(listed)
            case wire.PeerJoined(payload=who):
                self._joined(PeerJoined(who.peer_id, who.fingerprint or "", who.protocol or 0))
            case wire.PeerLeft(payload=gone):
                self._left(gone.peer_id)
            case wire.Offer():
                self._on_offer(frame)
            case wire.Answer():
                known = self._peers.get(frame.peer_id)
                pending = known.pending if known else None
                if pending and pending.role == "offerer" and frame.payload.connection in (None, pending.name):
                    pending.protocol = frame.payload.protocol or 0
                    pending.take_answer(frame.payload.sdp)
            case wire.IceCandidate(payload=candidate):
                self._on_candidate(frame.peer_id, candidate)
            case wire.Error(payload=error):
                self._on_error(error)

    def _on_list(self, listed: wire.PeerListPayload) -> None:
        details = listed.details or {}
        present = [p for p in listed.peers if is_peer_id(p) and p != self._config.name][:MAX_PEERS]
        for peer in set(self._online) - set(present):
            self._left(peer)
        for peer in present:
            detail = details.get(peer) or wire.Detail()
            self._joined(PeerJoined(peer, detail.fingerprint or "", detail.protocol or 0))
        if self._config.dial == "peer_list" and not self._listed:
            for peer in present:
                self._dial_or_log(peer)
        self._listed = True

    def _joined(self, who: PeerJoined) -> None:
        if self._online.get(who.peer) != who:
            self._online[who.peer] = who
            self._emit(who)

    def _left(self, peer: str) -> None:
        if self._online.pop(peer, None) is not None:
            self._emit(PeerLeft(peer))

    def _on_offer(self, frame: wire.Offer) -> None:
        peer, payload = frame.peer_id, frame.payload
        known = self._peers.get(peer)
        pending = known.pending if known else None
        decision = on_offer(self._config.name, peer, payload, (pending.role, pending.name) if pending else None)
        logger.debug("peer=%s: offer, restart=%s: %s", peer, payload.restart, decision)
        if decision == "redial":
            self._dial_or_log(peer)
            return
        if decision == "ignore":
            return
        if pending is None and self._handshakes() >= MAX_PENDING_HANDSHAKES:
            logger.warning("peer=%s: offer refused, %d connections are being made", peer, MAX_PENDING_HANDSHAKES)
            return
        connection = self._make(RtcConnection(peer, payload.connection, "answerer", self._settings))
        connection.protocol = payload.protocol or 0

        def say(sdp: str) -> None:
            answer = wire.SdpPayload(sdp, PROTOCOL, connection.name)
            self._signaling.send(wire.Answer(self._config.name, peer, payload=answer))
            self._end_candidates(connection)

        connection.answer(payload.sdp, say)

    def _end_candidates(self, connection: RtcConnection) -> None:
        who = self._online.get(connection.peer)
        if connection.protocol or (who is not None and who.protocol):
            end = wire.CandidatePayload("", "0", 0, connection.name or None)
            self._signaling.send(wire.IceCandidate(self._config.name, connection.peer, payload=end))

    def _on_candidate(self, peer: str, candidate: wire.CandidatePayload) -> None:
        known = self._peers.get(peer)
        name = candidate.connection if isinstance(candidate.connection, str) else None
        for connection in (known.pending, known.opened) if known else ():
            if connection is not None and name in (None, connection.name):
                connection.take_candidate(candidate.candidate)
                return

    def _on_error(self, error: wire.ErrorPayload) -> None:
        logger.info("agent=%s: the registry says %s: %s", self._config.name, error.code, error.message)
        known = self._peers.get(error.target_id or "")
        if error.code == "peer_offline" and known is not None and known.pending is not None:
            self._close(known.pending, "not online")

    def _opened(self, connection: RtcConnection) -> None:
        known = self._peers[connection.peer]
        old, known.opened, known.pending = known.opened, connection, None
        if old is not None:
            self._emit(PeerDown(old.peer, old.generation, "replaced by a newer connection"))
            self._close(old, "replaced")
        connection.generation = max(connection.generation, old.generation + 1 if old else 0)
        self._emit(
            PeerUp(
                connection.peer,
                connection.generation,
                connection.protocol,
                connection.max_bytes,
                connection.fingerprint,
                connection.path(),
            )
        )
        if known.dial is not None and not known.dial.done():
            known.dial.set_result(None)
        known.dial = None

    def _message(self, connection: RtcConnection, body: bytes) -> None:
        known = self._peers.get(connection.peer)
        if known is not None and known.opened is connection:
            self._emit(Received(connection.peer, body))

    def _down(self, connection: RtcConnection, reason: str) -> None:
        task = connection._closing
        if task is not None:
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        known = self._peers.get(connection.peer)
        if known is None:
            return
        if known.opened is connection:
            known.opened = None
            self._emit(PeerDown(connection.peer, connection.generation, reason))
        elif known.pending is connection:
            known.pending = None
            if known.dial is not None and not known.dial.done():
                known.dial.set_exception(PeerUnreachable(connection.peer, reason))
            known.dial = None
        if known.opened is None and known.pending is None and known.dial is None:
            del self._peers[connection.peer]
