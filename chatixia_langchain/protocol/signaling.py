"""Signaling: the frames a sidecar (or the aiortc transport) and the registry exchange over a WebSocket.

- `decode` reads what the registry sends: `FromRegistry`; `encode` writes what we send: `ToRegistry`;
- `offer`, `answer` and `ice_candidate` are relayed to a peer, and from a peer, whose id the registry vouches for;
- old sidecars and registries send the same frames without `protocol`, `connection` and `details`.

Source: `protocol/README.md`, section Signaling.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ..errors import InvalidLine
from .ipc import Count, Empty, PeerId
from .limits import MAX_CANDIDATE_BYTES, MAX_SDP_BYTES, MAX_SIGNAL_BYTES, is_peer_id
from .lines import check_line

Connection = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}(?![\s\S])")]
"""Names one connection between two peers; made up by the offerer."""

MAX_FRAME_BYTES: Final = 1_048_576
"""The largest frame we read: a `peer_list` of `MAX_PEERS` with details. Relayed frames end at `MAX_SIGNAL_BYTES`."""


class RegisterPayload(msgspec.Struct, frozen=True):
    """Who we are. `generation` is our start time in ms: the newer of two sockets of one peer wins."""

    protocol: Count
    fingerprint: str
    generation: Count


class SdpPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session description; `restart` asks for an ICE restart of `connection` instead of a new one."""

    sdp: str
    protocol: Count | None = None
    connection: Connection | None = None
    restart: bool | None = None


class CandidatePayload(msgspec.Struct, frozen=True, rename="camel"):
    """A way to reach the sender; an empty `candidate` ends them."""

    candidate: str
    sdp_mid: str | None = msgspec.field(default=None, name="sdpMid")
    sdp_mline_index: Annotated[int, Meta(ge=0, le=65535)] | None = msgspec.field(default=None, name="sdpMLineIndex")
    connection: Connection | msgspec.UnsetType | None = msgspec.UNSET


class TopologyPayload(msgspec.Struct, frozen=True):
    """Our links, for the registry's picture of the network."""

    links: tuple[dict[str, Any], ...]


class Detail(msgspec.Struct, frozen=True):
    """What the registry knows of a peer."""

    fingerprint: str | None = None
    protocol: Count | None = None


class PeerListPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everybody who is online but us; `details` comes only from a registry that speaks protocol 1."""

    peers: tuple[str, ...]
    details: dict[str, Detail] | None = None


class JoinedPayload(msgspec.Struct, frozen=True):
    """A peer came online; protocol 0 is an old sidecar."""

    peer_id: PeerId
    fingerprint: str | None = None
    protocol: Count | None = None


class LeftPayload(msgspec.Struct, frozen=True):
    """A peer went offline."""

    peer_id: PeerId


class ErrorPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """The registry refuses something; `target_id` is the peer it is about."""

    code: str
    message: str = ""
    target_id: str | None = None


class _Relayed(msgspec.Struct, tag_field="type", frozen=True, omit_defaults=True):
    """`peer_id` is the sender, vouched for by the registry."""

    peer_id: PeerId
    target_id: str = ""


class _Frame(msgspec.Struct, tag_field="type", frozen=True, omit_defaults=True):
    """`peer_id` is the sender: ours, or `registry`."""

    peer_id: str


class Offer(_Relayed, tag="offer", frozen=True, kw_only=True):
    """Asks for a connection."""

    payload: SdpPayload


class Answer(_Relayed, tag="answer", frozen=True, kw_only=True):
    """Answers an offer."""

    payload: SdpPayload


class IceCandidate(_Relayed, tag="ice_candidate", frozen=True, kw_only=True):
    """One more way to reach the sender."""

    payload: CandidatePayload


class Register(_Frame, tag="register", frozen=True):
    """First frame of a socket; an old sidecar sends null."""

    payload: RegisterPayload | None


class Heartbeat(_Frame, tag="heartbeat", frozen=True):
    """A sign of life."""

    payload: Empty


class Topology(_Frame, tag="topology", frozen=True):
    """Our links changed; only for a registry that speaks protocol 1."""

    payload: TopologyPayload


class PeerList(_Frame, tag="peer_list", frozen=True):
    """Who is online, once per register."""

    payload: PeerListPayload


class PeerJoined(_Frame, tag="peer_joined", frozen=True):
    """A peer came online."""

    payload: JoinedPayload


class PeerLeft(_Frame, tag="peer_left", frozen=True):
    """A peer went offline."""

    payload: LeftPayload


class Error(_Frame, tag="error", frozen=True):
    """The registry refuses something."""

    payload: ErrorPayload


ToRegistry = Register | Offer | Answer | IceCandidate | Heartbeat | Topology
FromRegistry = PeerList | PeerJoined | PeerLeft | Error | Offer | Answer | IceCandidate

_FROM: Final = msgspec.json.Decoder(FromRegistry)
_TO: Final = msgspec.json.Decoder(ToRegistry)
_ENCODER: Final = msgspec.json.Encoder()


def _check_sizes(frame: FromRegistry | ToRegistry, size: int) -> None:
    if not isinstance(frame, Offer | Answer | IceCandidate):
        return
    if size > MAX_SIGNAL_BYTES:
        raise InvalidLine(f"a frame of {size} bytes is over the limit of {MAX_SIGNAL_BYTES}", code="line_too_long")
    text, limit, what = (
        (frame.payload.candidate, MAX_CANDIDATE_BYTES, "candidate")
        if isinstance(frame, IceCandidate)
        else (frame.payload.sdp, MAX_SDP_BYTES, "sdp")
    )
    if len(text.encode("utf-8", "surrogatepass")) > limit:
        raise InvalidLine(f"payload.{what} is over the limit of {limit} bytes")


def decode(data: bytes) -> FromRegistry:
    """Read a frame from the registry.

    Raises InvalidLine: code `line_too_long`, `unknown_type` or `invalid_line`; the text names the field.
    """
    frame: FromRegistry = check_line(data, _FROM, MAX_FRAME_BYTES)
    _check_sizes(frame, len(data))
    return frame


def decode_to_registry(data: bytes) -> ToRegistry:
    """Read a frame of a sidecar, as `decode` does; a relayed one must name its target."""
    frame: ToRegistry = check_line(data, _TO, MAX_SIGNAL_BYTES)
    if isinstance(frame, Offer | Answer | IceCandidate) and not is_peer_id(frame.target_id):
        raise InvalidLine(f"target_id {frame.target_id[:80]!r} is not a peer id")
    _check_sizes(frame, len(data))
    return frame


def encode(frame: ToRegistry | FromRegistry) -> str:
    """Return `frame` as the text of a WebSocket frame."""
    return _ENCODER.encode(frame).decode()
