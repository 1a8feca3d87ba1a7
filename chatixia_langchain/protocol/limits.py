"""The numbers both languages obey. A test compares them with `protocol/limits.json`."""

from __future__ import annotations

import re
from typing import Final

PROTOCOL: Final = 1
MAX_MESSAGE_BYTES: Final = 262_144  # one data channel message: SCTP would take more, but acks would wait behind it
MAX_LINE_BYTES: Final = 270_336  # one message and its IPC wrapper
MAX_JSON_DEPTH: Final = 64
WINDOW_BYTES: Final = 1_048_576  # unanswered sends per peer
OLD_PEER_MAX_MESSAGE_BYTES: Final = 65_535  # chatixia-mesh 0.2 (webrtc-rs 0.17)
MAX_ID_CHARS: Final = 64
MAX_SIGNAL_BYTES: Final = 65_536
MAX_SDP_BYTES: Final = 16_384
MAX_CANDIDATE_BYTES: Final = 512
MAX_CANDIDATES: Final = 32
MAX_PEERS: Final = 1_024
MAX_PENDING_HANDSHAKES: Final = 32
HANDSHAKE_TIMEOUT_MS: Final = 15_000
HEARTBEAT_MS: Final = 20_000
PEER_ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MESSAGE_ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"

_PEER_ID = re.compile(PEER_ID_PATTERN.rstrip("$") + r"\Z")
_MESSAGE_ID = re.compile(MESSAGE_ID_PATTERN.rstrip("$") + r"\Z")


def is_peer_id(text: str) -> bool:
    """True when `text` can name a peer."""
    return _PEER_ID.match(text) is not None


def is_message_id(text: str) -> bool:
    """True when `text` can be a message id."""
    return _MESSAGE_ID.match(text) is not None
