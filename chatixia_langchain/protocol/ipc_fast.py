"""The hot path of IPC: lines that carry a body are made and cut by hand, the body unopened.

What the cuts take means the same to the decoders of `ipc`; a test compares them over all vectors.
"""

from __future__ import annotations

import re
from typing import Final

SEND_HEAD: Final = b'{"type":"send","id":'
SEND_TAIL: Final = b"}}\n"


def send_prefix(peer: str) -> bytes:
    """What stands between id and body: a `send` line is `SEND_HEAD + id + send_prefix(peer) + body + SEND_TAIL`."""
    return b',"payload":{"target_peer":"' + peer.encode("ascii") + b'","message":'


_MESSAGE_HEAD: Final = b'{"type":"message","payload":{"from_peer":"'
_MESSAGE_MIDDLE: Final = b'","message":'
_HEAD_LEN: Final = len(_MESSAGE_HEAD)
_MIDDLE_LEN: Final = len(_MESSAGE_MIDDLE)
_OK_HEAD: Final = b'{"type":"ok","id":'
_OK_TAIL: Final = b',"payload":{}}'
_OK_HEAD_LEN: Final = len(_OK_HEAD)
_OK_TAIL_LEN: Final = len(_OK_TAIL)
_DIGITS: Final = re.compile(rb"[0-9]{1,15}\Z")


def split_message(line: bytes) -> tuple[bytes, bytes] | None:
    """Cut a `message` event in the form every sidecar writes into (peer id, body), unopened; None for any other line.

    The cut cannot be fooled by what the body holds: a peer id has no quote in it, so the first quote ends it, and the
    body is all that follows but the last two braces. Whoever reads the body parses it.
    """
    if not line.startswith(_MESSAGE_HEAD):
        return None
    end = line.find(b'"', _HEAD_LEN)
    start = end + _MIDDLE_LEN
    if end < 0 or line[end:start] != _MESSAGE_MIDDLE or not line.endswith(b"}}}") or line[start : start + 1] != b"{":
        return None
    return line[_HEAD_LEN:end], line[start:-2]


def ok_id(line: bytes) -> int | None:
    """The id of a plain `ok` answer to a whole-number id; None for any other line."""
    if not (line.startswith(_OK_HEAD) and line.endswith(_OK_TAIL)):
        return None
    digits = line[_OK_HEAD_LEN:-_OK_TAIL_LEN]
    return int(digits) if _DIGITS.match(digits) else None
