"""IPC: the lines an agent and its sidecar say to each other over a Unix socket.

- one type per line, one union per direction: `Command` to the sidecar, `Event` from it;
- `decode_command` and `decode_event` are strict about what they know and calm about unknown fields;
- the hot path, which moves bodies without opening them, is in `ipc_fast`.

Source: `protocol/README.md`, section IPC.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from ..errors import InvalidLine
from .limits import MAX_ID_CHARS, MAX_LINE_BYTES, MAX_MESSAGE_BYTES, PROTOCOL
from .lines import MAX_SAFE_INTEGER, check_line

PeerId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?![\s\S])")]
"""`limits.PEER_ID_PATTERN`, written so that a trailing line feed does not match in any regex dialect."""

RequestId = (
    Annotated[str, Meta(max_length=MAX_ID_CHARS)] | Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
)
Id = RequestId | None | UnsetType
Count = Annotated[int, Meta(ge=0)]


class Empty(msgspec.Struct, frozen=True):
    """A payload without fields."""


class HelloRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the agent's `hello` says."""

    protocol: int
    max_line_bytes: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class SendRequest(msgspec.Struct, frozen=True):
    """One message for one peer; `message` is carried unopened."""

    target_peer: PeerId
    message: Raw


class BroadcastRequest(msgspec.Struct, frozen=True):
    """One message for every peer with an open channel."""

    message: Raw


class TargetRequest(msgspec.Struct, frozen=True):
    """The peer that `connect` and `disconnect` are about."""

    target_peer_id: PeerId


class _Line(msgspec.Struct, tag_field="type", frozen=True, omit_defaults=True, kw_only=True):
    """`type` and `id` of every line; the payload of each kind follows them."""

    id: Id = UNSET


class Hello(_Line, tag="hello", frozen=True):
    """First line of an agent that speaks this protocol; answered by `HelloAnswer`."""

    payload: HelloRequest


class Send(_Line, tag="send", frozen=True):
    """Hand over one message; answered by `Ok` or `Error`."""

    payload: SendRequest


class Broadcast(_Line, tag="broadcast", frozen=True):
    """Hand over one message for all; answered by `Ok` with who got it."""

    payload: BroadcastRequest


class ListPeers(_Line, tag="list_peers", frozen=True):
    """Ask for the open channels; answered by `PeerList`."""

    payload: Empty = Empty()


class Connect(_Line, tag="connect", frozen=True):
    """Open a channel; answered when it is open or failed."""

    payload: TargetRequest


class Disconnect(_Line, tag="disconnect", frozen=True):
    """Close a channel cleanly."""

    payload: TargetRequest


class Status(_Line, tag="status", frozen=True):
    """Ask what the sidecar knows of its links; answered by `StatusAnswer`."""

    payload: Empty = Empty()


Command = Hello | Send | Broadcast | ListPeers | Connect | Disconnect | Status


class HelloPayload(msgspec.Struct, frozen=True):
    """What the sidecar is and can. `peer_id` is "" until the registry has given one out."""

    protocol: int
    version: str
    peer_id: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?(?![\s\S])")]
    fingerprint: str
    max_message_bytes: Count = MAX_MESSAGE_BYTES
    max_line_bytes: Count = MAX_LINE_BYTES
    window_bytes: Count = 0


class OkPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """Empty, but for a broadcast: who got it, and the error code of each who did not."""

    sent: tuple[str, ...] | UnsetType = UNSET
    failed: dict[str, str] | UnsetType = UNSET


class ErrorPayload(msgspec.Struct, frozen=True):
    """A failure. `code` is a word of `protocol/errors.json`."""

    code: str
    message: str = ""
    retryable: bool = False
    executed: str = "unknown"


class PeerListPayload(msgspec.Struct, frozen=True):
    """Ids of the peers with an open channel."""

    peers: tuple[PeerId, ...]


class MessagePayload(msgspec.Struct, frozen=True):
    """One message; `from_peer` is the peer of the channel."""

    from_peer: PeerId
    message: Raw


class ConnectedPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A channel opened; all but `peer_id` come only after `hello`. `path` is text or `{"local", "remote"}`."""

    peer_id: PeerId
    generation: Count = 0
    protocol: Count = 0
    fingerprint: str = ""
    max_message_bytes: Count = 0
    path: Any = None


class DisconnectedPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A channel is gone."""

    peer_id: PeerId
    generation: Count = 0
    reason: str = ""


class PresencePayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A peer came online or went offline, as the registry tells it."""

    peer_id: PeerId
    fingerprint: str | None = None
    protocol: int | None = None


class SignalingPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of the way to the registry: `connecting`, `connected` or `refused`."""

    state: str
    peer_id: str = ""
    reason: str | None = None


class HelloAnswer(_Line, tag="hello", frozen=True):
    """Answer to `Hello`."""

    payload: HelloPayload


class Ok(_Line, tag="ok", frozen=True):
    """The command with this `id` was done."""

    payload: OkPayload


class Error(_Line, tag="error", frozen=True):
    """The command with this `id` (or, without one, some line) failed."""

    payload: ErrorPayload


class PeerList(_Line, tag="peer_list", frozen=True):
    """Answer to `ListPeers`."""

    payload: PeerListPayload


class StatusAnswer(_Line, tag="status", frozen=True):
    """Answer to `Status`."""

    payload: dict[str, Any]


class Message(_Line, tag="message", frozen=True):
    """A peer's message arrived."""

    payload: MessagePayload


class PeerConnected(_Line, tag="peer_connected", frozen=True):
    """A channel opened."""

    payload: ConnectedPayload


class PeerDisconnected(_Line, tag="peer_disconnected", frozen=True):
    """A channel is gone."""

    payload: DisconnectedPayload


class PeerJoined(_Line, tag="peer_joined", frozen=True):
    """A peer came online."""

    payload: PresencePayload


class PeerLeft(_Line, tag="peer_left", frozen=True):
    """A peer went offline."""

    payload: PresencePayload


class Signaling(_Line, tag="signaling", frozen=True):
    """The way to the registry changed."""

    payload: SignalingPayload


Event = (
    HelloAnswer
    | Ok
    | Error
    | PeerList
    | StatusAnswer
    | Message
    | PeerConnected
    | PeerDisconnected
    | PeerJoined
    | PeerLeft
    | Signaling
)

_COMMANDS: Final = msgspec.json.Decoder(Command)
_EVENTS: Final = msgspec.json.Decoder(Event)
_ENCODER: Final = msgspec.json.Encoder()


def _check_message(message: Raw) -> None:
    body = bytes(message)
    if body[:1] != b"{":
        raise InvalidLine("payload.message is not a JSON object")
    if len(body) > MAX_MESSAGE_BYTES:
        raise InvalidLine(f"payload.message has {len(body)} bytes, the limit is {MAX_MESSAGE_BYTES}")


def decode_command(line: bytes) -> Command:
    """Read one line of an agent.

    Raises InvalidLine naming the field that is wrong.
    """
    command: Command = check_line(line, _COMMANDS, MAX_LINE_BYTES)
    if isinstance(command, Send | Broadcast):
        _check_message(command.payload.message)
    return command


def decode_event(line: bytes) -> Event:
    """Read one line of a sidecar.

    Raises InvalidLine naming the field that is wrong.
    """
    event: Event = check_line(line, _EVENTS, MAX_LINE_BYTES)
    if isinstance(event, Message):
        _check_message(event.payload.message)
    return event


def encode(line: Command | Event) -> bytes:
    """Return `line` with its line feed."""
    return _ENCODER.encode(line) + b"\n"


def hello(request_id: int) -> bytes:
    """The agent's first line."""
    return encode(Hello(HelloRequest(PROTOCOL, MAX_LINE_BYTES), id=request_id))
