"""Signaling frames as the registry reads and writes them. Pure.

A payload is carried as it came (an agent's sidecar may know fields that we do not), but its known fields are checked
first: an old sidecar ends when it gets an answer that it cannot parse.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..errors import InvalidLine
from ..protocol.limits import MAX_CANDIDATE_BYTES, MAX_JSON_DEPTH, MAX_PEERS, MAX_SDP_BYTES

SENDER: Final = "registry"


class Frame(msgspec.Struct, omit_defaults=True, frozen=True):
    """One signaling message; `payload` unopened."""

    type: str
    peer_id: str = ""
    target_id: str | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")


class Register(msgspec.Struct, frozen=True):
    """What a sidecar says of itself. `generation`: its start in ms, 0 when not told; `protocol` 0: an old sidecar."""

    protocol: int = 0
    fingerprint: str | None = None
    generation: int = 0


class _Description(msgspec.Struct):
    sdp: str
    protocol: int = 0
    connection: str = ""
    restart: bool = False


class _Candidate(msgspec.Struct):
    candidate: str
    sdpMid: str | None = None
    sdpMLineIndex: int | None = None
    connection: str = ""


class _Link(msgspec.Struct):
    peer: str
    state: str
    path: Any = None
    rtt_ms: float | None = None


class _Topology(msgspec.Struct):
    links: list[_Link]


_frames = msgspec.json.Decoder(Frame)
_anything = msgspec.json.Decoder()
_UNREADABLE = (msgspec.MsgspecError, UnicodeError, RecursionError)


def decode(text: str | bytes, max_bytes: int) -> Frame:
    """Read one frame. Raises InvalidLine naming the fault."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > max_bytes:
        raise InvalidLine(f"the frame has {len(raw)} bytes, the limit is {max_bytes}", code="line_too_long")
    try:
        frame = _frames.decode(raw)
        _check_depth(_anything.decode(frame.payload))
    except _UNREADABLE as exc:
        raise InvalidLine(f"the frame is not a signaling message: {exc}") from exc
    return frame


def encode(kind: str, payload: dict[str, Any]) -> str:
    """A frame from the registry itself."""
    return msgspec.json.encode({"type": kind, "peer_id": SENDER, "payload": payload}).decode()


def parse_register(payload: msgspec.Raw) -> Register:
    """The payload of a `register`; `null` or nothing comes from an old sidecar. Raises InvalidLine."""
    found = _parse(payload, Register | None)
    if found is None:
        return Register()
    if found.protocol < 0 or found.generation < 0 or len(found.fingerprint or "") > 256:
        raise InvalidLine("protocol and generation are not negative, a fingerprint has at most 256 characters")
    return found  # type: ignore[no-any-return]


def parse_links(payload: msgspec.Raw) -> list[dict[str, Any]]:
    """The links in a `topology`. Raises InvalidLine."""
    links = _parse(payload, _Topology).links
    if len(links) > MAX_PEERS:
        raise InvalidLine(f"{len(links)} links, the limit is {MAX_PEERS}")
    return [msgspec.structs.asdict(link) for link in links]


def check_relayed(frame: Frame) -> bool:
    """Check an offer, answer or candidate before it is relayed; True when it is the end of candidates.

    Raises InvalidLine: no target, a field missing or of the wrong type, longer than the limits.
    """
    if not frame.target_id:
        raise InvalidLine("target_id is missing")
    if frame.type == "ice_candidate":
        candidate: str = _parse(frame.payload, _Candidate).candidate
        if len(candidate.encode()) > MAX_CANDIDATE_BYTES:
            raise InvalidLine(f"the candidate is longer than {MAX_CANDIDATE_BYTES} bytes")
        return candidate == ""
    if len(_parse(frame.payload, _Description).sdp.encode()) > MAX_SDP_BYTES:
        raise InvalidLine(f"the sdp is longer than {MAX_SDP_BYTES} bytes")
    return False


def _parse(payload: msgspec.Raw, kind: Any) -> Any:
    try:
        return msgspec.json.decode(payload, type=kind)
    except _UNREADABLE as exc:
        raise InvalidLine(f"payload: {exc}") from exc


def _check_depth(value: Any) -> None:
    """Refuse what nests deeper than the far parser takes: it would end there, not here."""
    level, depth = [v for v in (value,) if isinstance(v, dict | list)], 1  # the frame itself is one level
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise InvalidLine(f"the frame nests deeper than {MAX_JSON_DEPTH}")
        inner = [v for node in level for v in (node.values() if isinstance(node, dict) else node)]
        level = [v for v in inner if isinstance(v, dict | list)]
