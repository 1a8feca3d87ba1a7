"""The envelope: what two agents say to each other inside the data channel, or through the mailbox.

- `make_*` build the frames this side sends, `encode` makes the bytes;
- `decode` is strict about what it knows (`InvalidLine` names the fault) and calm about fields it does not know;
- a frame without `mesh` comes from an old chatixia-mesh agent: `Frame.mesh` is None then.

Source: `protocol/README.md`, section Envelope.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from ..errors import InvalidLine
from .limits import MAX_MESSAGE_BYTES, is_message_id

Kind = Literal["hello", "message", "request", "reply", "error", "ack", "busy", "cancel", "chunk"]
FrameType = Literal[
    "ping",
    "pong",
    "task_request",
    "task_response",
    "task_stream_chunk",
    "skill_query",
    "skill_response",
    "agent_status",
    "agent_prompt",
    "agent_response",
    "agent_stream_chunk",
]

ACKNOWLEDGED: Final = frozenset({"message", "request", "reply", "error"})
"""Kinds that the receiving agent acknowledges once they are in its inbox."""


MAX_COUNT: Final = 2**53  # what JSON carries exactly; integers of any length would overflow in sums of times
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class Budget(msgspec.Struct, frozen=True):
    """What is left for the whole tree of requests below `root`, the id of its first one; `ms` is work time."""

    root: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?![\s\S])")]
    turns: Count
    tokens: Count
    ms: Count


class MeshPart(msgspec.Struct, omit_defaults=True, frozen=True):
    """The `mesh` object. `ttl_ms` is what is left of the time to live, `hops` the agents a request came through."""

    v: int
    kind: Kind
    id: str = ""
    conversation: str = ""
    epoch: str = ""
    seq: int = 0
    ttl_ms: int = 0
    hops: int = 0
    corr: str = ""
    code: str = ""
    retryable: bool = False
    executed: str = ""
    ids: tuple[str, ...] = ()
    broadcast: bool = False
    trace: str = ""
    chain: tuple[str, ...] = ()
    budget: Budget | None = None
    meta: dict[str, Any] | None = None
    stream: bool = False


class Frame(msgspec.Struct, omit_defaults=True, frozen=True):
    """chatixia-mesh's five fields and ours. All but `type` may be absent."""

    type: FrameType
    request_id: str = ""
    source_agent: str = ""
    target_agent: str = ""
    payload: dict[str, Any] | None = None
    mesh: MeshPart | None = None

    def text(self) -> str:
        """The text a person or model wrote: prompt, response or result. Empty when there is none."""
        payload = self.payload or {}
        for key in ("message", "response", "result"):
            value = payload.get(key)
            if isinstance(value, str) and value:
                return value
        return ""

    def error_text(self) -> str:
        """The error the other side reports, or ""."""
        value = (self.payload or {}).get("error")
        return value if isinstance(value, str) else ""


MAX_CONVERSATION_CHARS: Final = 128
_DECODER: Final = msgspec.json.Decoder(Frame)
_ENCODER: Final = msgspec.json.Encoder()


class _Wire(msgspec.Struct):
    """A frame as it is sent: the five fields are always there, since old agents read all of them."""

    type: str
    request_id: str
    source_agent: str
    target_agent: str
    payload: dict[str, Any]
    mesh: MeshPart


def encode(frame: Frame) -> bytes:
    """Return `frame` as one line of JSON without a line end.

    Raises ValueError for text that is not Unicode (lone surrogates).
    """
    payload = frame.payload if frame.payload is not None else {}
    if frame.mesh is None:
        fields = (frame.type, frame.request_id, frame.source_agent, frame.target_agent)
        return _ENCODER.encode(
            dict(zip(("type", "request_id", "source_agent", "target_agent"), fields, strict=True))
            | {"payload": payload}
        )
    return _ENCODER.encode(
        _Wire(frame.type, frame.request_id, frame.source_agent, frame.target_agent, payload, frame.mesh)
    )


def decode(data: bytes) -> Frame:
    """Read a frame that a peer sent.

    Raises InvalidLine naming what is wrong: not JSON, too deep, too long, a field of the wrong type, an unknown type or
    kind, an illegal id.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise InvalidLine(f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    try:
        frame = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidLine(f"not a message: {exc or type(exc).__name__}") from exc
    mesh = frame.mesh
    if mesh is None:
        return frame
    if mesh.v != 1:
        raise InvalidLine(f"mesh.v is {mesh.v}, this side speaks 1")
    if mesh.kind in ACKNOWLEDGED and not is_message_id(mesh.id):
        raise InvalidLine(f"mesh.id {mesh.id[:80]!r} is not a message id")
    if mesh.kind in ("reply", "error", "cancel", "chunk") and not is_message_id(mesh.corr):
        raise InvalidLine(f"mesh.corr {mesh.corr[:80]!r} is not a message id")
    if len(mesh.conversation) > MAX_CONVERSATION_CHARS:
        raise InvalidLine(f"mesh.conversation is longer than {MAX_CONVERSATION_CHARS} characters")
    if not (0 <= mesh.ttl_ms <= MAX_COUNT and 0 <= mesh.hops <= MAX_COUNT and 0 <= mesh.seq <= MAX_COUNT):
        raise InvalidLine("mesh.ttl_ms, mesh.hops and mesh.seq are 0 to 2**53")
    if mesh.kind == "chunk":
        _check_chunk(frame.payload or {})
    return frame


def _check_chunk(payload: dict[str, Any]) -> None:
    if not isinstance(payload.get("chunk"), str):
        raise InvalidLine("payload.chunk of a chunk is not text")
    for key in ("step", "at"):
        value = payload.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
            raise InvalidLine(f"payload.{key} of a chunk is not a count")
