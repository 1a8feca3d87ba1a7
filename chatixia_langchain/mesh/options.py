"""The keyword arguments that the calls of `Mesh` share. None, or left out, is the default of each.

`hops` and `chain` are those of the turn that the call is made in; outside of a turn 0 and ().
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict


class BroadcastOptions(TypedDict, total=False):
    """What every message may carry. `meta` is a JSON object for the peer's program."""

    conversation: str | None
    hops: int | None
    chain: Iterable[str] | None
    meta: Mapping[str, Any] | None


class SendOptions(BroadcastOptions, total=False):
    """A message to one peer. `ttl` in seconds (300); the peer takes a `message_id` once."""

    ttl: float | None
    message_id: str | None


class AskOptions(BroadcastOptions, total=False):
    """A request. `timeout` in seconds (`request_timeout_s`); `skill` and `arguments` call a skill of the peer."""

    timeout: float | None
    message_id: str | None
    skill: str | None
    arguments: Mapping[str, Any] | None
