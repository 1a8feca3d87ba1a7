"""One trace over machines: the W3C `traceparent` that each ask carries."""

from __future__ import annotations

import re
from random import getrandbits
from typing import Final

_FORM: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})\Z")


def child(parent: str = "") -> str:
    """A `traceparent` below `parent`, with a span id of its own; the first of a new trace when `parent` is none."""
    match = _FORM.match(parent) if parent else None
    if match is None:
        return f"00-{getrandbits(128) or 1:032x}-{getrandbits(64) or 1:016x}-01"
    return f"00-{match[1]}-{getrandbits(64) or 1:016x}-{match[3]}"
