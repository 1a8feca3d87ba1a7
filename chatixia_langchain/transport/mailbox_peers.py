"""Who can be reached through the mailbox: the directory, turned into joins and leaves. Pure but for the sink."""

from __future__ import annotations

import itertools
from typing import Any

from ..protocol.limits import is_peer_id
from .base import PeerDown, PeerJoined, PeerLeft, PeerUp, Sink


def reachable(records: list[dict[str, Any]], me: str) -> set[str]:
    """Agents that take mesh messages and show life. An old chatixia-mesh agent has no card, and does not."""
    return {
        r["agent_id"]
        for r in records
        if r.get("health") == "active"
        and r.get("card") is not None
        and r["agent_id"] != me
        and is_peer_id(r["agent_id"])
    }


class MailboxPeers:
    """Keeps `up`, the peers that are there, and tells the sink what changes."""

    def __init__(self, me: str, emit: Sink) -> None:
        self._me, self._emit = me, emit
        self.up: dict[str, int] = {}  # peer -> generation
        self._unwanted: set[str] = set()
        self._generations = itertools.count(1)

    def update(self, records: list[dict[str, Any]]) -> None:
        """The directory was read."""
        now = reachable(records, self._me) - self._unwanted
        for peer in sorted(set(self.up) - now):
            self._down(peer, "no longer in the directory")
            self._emit(PeerLeft(peer))
        for peer in sorted(now - set(self.up)):
            self.up[peer] = next(self._generations)
            self._emit(PeerJoined(peer))
            self._emit(PeerUp(peer, self.up[peer], path="mailbox"))

    def unwanted(self, peer: str) -> None:
        """The caller closed the way to `peer`."""
        self._unwanted.add(peer)
        if peer in self.up:
            self._down(peer, "closed")

    def wanted(self, peer: str) -> None:
        """The caller wants it again."""
        self._unwanted.discard(peer)

    def all_down(self, reason: str) -> None:
        """The registry cannot be reached."""
        for peer in list(self.up):
            self._down(peer, reason)

    def _down(self, peer: str, reason: str) -> None:
        self._emit(PeerDown(peer, self.up.pop(peer), reason))
