"""The signaling relay: who is online, and who may hear what. Pure: text in, `Say` and `Hang` out.

- `opened(conn, peer_id)` for an authenticated socket, `heard(conn, text)` per frame, `closed(conn)` at its end;
- a peer is online from its `register` on; a newer register of the same peer takes over, and the older socket's end
  changes nothing any more;
- the sender of a relayed frame is the authenticated peer, whatever the frame says;
- peers that registered without a protocol number (chatixia-mesh) hear `peer_list` and relayed frames, nothing else.

Source: `protocol/README.md`, section Signaling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from ..errors import InvalidLine
from ..protocol.limits import MAX_SIGNAL_BYTES
from .frames import Frame, Register, check_relayed, decode, encode, parse_links, parse_register

RELAYED: Final = ("offer", "answer", "ice_candidate")
SUPERSEDED: Final = 4409
REVOKED: Final = 4401
TRY_LATER: Final = 1013
MAX_SOCKETS_PER_PEER: Final = 4  # one in use, one taking over, and two that crossed; more are refused
MAX_SOCKETS: Final = 10_000  # about 310 MB; further sockets are refused with "try again later"

ConnId = int


@dataclass(frozen=True, slots=True)
class Say:
    """Send `text` to socket `conn`."""

    conn: ConnId
    text: str


@dataclass(frozen=True, slots=True)
class Hang:
    """Close socket `conn`, after what was said to it before."""

    conn: ConnId
    code: int
    reason: str


Action = Say | Hang


@dataclass(slots=True)
class _Socket:
    conn: ConnId
    peer_id: str
    key_id: str = ""
    register: Register | None = None
    links: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_new(self) -> bool:
        """Speaks protocol 1 or higher."""
        return self.register is not None and self.register.protocol > 0


class Relay:
    """State of all sockets."""

    def __init__(self) -> None:
        self._sockets: dict[ConnId, _Socket] = {}
        self._online: dict[str, _Socket] = {}

    def online(self) -> list[str]:
        """Peers online, sorted."""
        return sorted(self._online)

    def is_online(self, peer_id: str) -> bool:
        """True when `peer_id` has a registered socket."""
        return peer_id in self._online

    def links(self) -> dict[str, list[dict[str, Any]]]:
        """What each online peer last reported of its links."""
        return {peer_id: s.links for peer_id, s in self._online.items()}

    def opened(self, conn: ConnId, peer_id: str, key_id: str = "") -> list[Action]:
        """A socket was accepted for `peer_id`, whose token, of the key or device `key_id`, was checked."""
        mine = sum(1 for s in self._sockets.values() if s.peer_id == peer_id)
        if len(self._sockets) >= MAX_SOCKETS or mine >= MAX_SOCKETS_PER_PEER:
            return [Hang(conn, TRY_LATER, "too many sockets")]
        self._sockets[conn] = _Socket(conn, peer_id, key_id)
        return []

    def closed(self, conn: ConnId) -> list[Action]:
        """The socket ended. Only the socket that is registered now takes its peer offline."""
        socket = self._sockets.pop(conn, None)
        if socket is None or self._online.get(socket.peer_id) is not socket:
            return []
        del self._online[socket.peer_id]
        return self._tell_new(socket.peer_id, "peer_left", {"peer_id": socket.peer_id})

    def unregistered(self, conn: ConnId) -> bool:
        """True while the socket is open and has not registered."""
        socket = self._sockets.get(conn)
        return socket is not None and socket.register is None

    def revoke(self, is_valid: Callable[[str], bool]) -> list[Action]:
        """Hang up on all sockets whose key or device is no longer valid."""
        ended = [s for s in self._sockets.values() if not is_valid(s.key_id)]
        return [Hang(s.conn, REVOKED, "credential revoked") for s in ended]

    def heard(self, conn: ConnId, text: str | bytes) -> list[Action]:
        """A frame came in. Every fault is answered with an `error` (to peers that know it) and changes nothing."""
        socket = self._sockets.get(conn)
        if socket is None:
            return []
        try:
            frame = decode(text, MAX_SIGNAL_BYTES)
        except InvalidLine as exc:
            return self._error(socket, exc.code, exc.message)
        if frame.peer_id not in ("", socket.peer_id):
            return self._error(socket, "forged_sender", f"this socket belongs to {socket.peer_id!r}", frame.target_id)
        try:
            return self._act(socket, frame)
        except InvalidLine as exc:
            return self._error(socket, exc.code, f"{frame.type}: {exc.message}", frame.target_id)

    def _act(self, socket: _Socket, frame: Frame) -> list[Action]:
        if frame.type == "register":
            return self._register(socket, parse_register(frame.payload))
        if socket.register is None:
            raise InvalidLine("register first")
        if frame.type in RELAYED:
            return self._relay(socket, frame)
        if frame.type == "heartbeat":
            return []
        if frame.type == "topology" and socket.is_new:
            socket.links = parse_links(frame.payload)
            return []
        return self._error(socket, "unknown_type", f"type {frame.type[:64]!r} is unknown", frame.target_id)

    def _register(self, socket: _Socket, new: Register) -> list[Action]:
        actions: list[Action] = []
        held = self._online.get(socket.peer_id)
        before = held.register if held else None
        if held is not None and held is not socket:
            if before and before.generation and new.generation and new.generation < before.generation:
                socket.register = new  # so that the error below is understood
                return [
                    *self._error(socket, "superseded", "a newer connection of this peer is online"),
                    self._hang_up(socket),
                ]
            actions += self._error(held, "superseded", "a newer connection of this peer took over")
            actions.append(self._hang_up(held))
        socket.register = new
        self._online[socket.peer_id] = socket
        if before is not None and before.generation != new.generation:
            actions += self._tell_new(socket.peer_id, "peer_left", {"peer_id": socket.peer_id})
        others = [p for p in self.online() if p != socket.peer_id]
        payload: dict[str, Any] = {"peers": others}
        if socket.is_new:
            payload["details"] = {p: self._detail(p) for p in others}
        actions.append(Say(socket.conn, encode("peer_list", payload)))
        if before != new:
            joined = {"peer_id": socket.peer_id, **self._detail(socket.peer_id)}
            actions += self._tell_new(socket.peer_id, "peer_joined", joined)
        return actions

    def _hang_up(self, socket: _Socket) -> Hang:
        """Forget a socket now: what it still sends is not listened to."""
        self._sockets.pop(socket.conn, None)
        return Hang(socket.conn, SUPERSEDED, "superseded")

    def _relay(self, socket: _Socket, frame: Frame) -> list[Action]:
        ends_candidates = check_relayed(frame)
        target = self._online.get(frame.target_id or "")
        if target is None:
            return self._error(socket, "peer_offline", f"{frame.target_id!r} is not online", frame.target_id)
        if ends_candidates and not target.is_new:
            return []  # an old sidecar takes an empty candidate for a broken one
        sent = Frame(type=frame.type, peer_id=socket.peer_id, target_id=frame.target_id, payload=frame.payload)
        return [Say(target.conn, msgspec.json.encode(sent).decode())]

    def _detail(self, peer_id: str) -> dict[str, Any]:
        register = self._online[peer_id].register
        assert register is not None, "only registered sockets are online"
        return {"fingerprint": register.fingerprint, "protocol": register.protocol}

    def _tell_new(self, about: str, kind: str, payload: dict[str, Any]) -> list[Action]:
        text = encode(kind, payload)
        return [Say(s.conn, text) for p, s in self._online.items() if p != about and s.is_new]

    def _error(self, socket: _Socket, code: str, message: str, target_id: str | None = None) -> list[Action]:
        if not socket.is_new and socket.register is not None:
            return []  # an old sidecar knows no `error`
        payload: dict[str, Any] = {"code": code, "message": message}
        if target_id is not None:
            payload["target_id"] = target_id
        return [Say(socket.conn, encode("error", payload))]
