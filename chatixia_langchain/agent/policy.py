"""`InboundPolicy`: which messages of peers an agent takes at all. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..errors import MeshError
from ..mesh.types import Incoming

MAX_HOPS = 8  # agents a request may come through: more is a loop, or a plan nobody can follow


@dataclass(frozen=True, slots=True)
class InboundPolicy:
    """Who may start turns here, and from how far.

    `allow_peers` None means every peer of the mesh. `max_visits` is how often this agent may already stand in a
    request's chain: 1 lets a peer that we asked ask us back, and stops circles. `reply_to_broadcasts` sends the answer
    to a broadcast back as a message of its own; off, because agents that answer whatever they hear never stop.
    """

    allow_peers: Collection[str] | None = None
    max_hops: int = MAX_HOPS
    reply_to_broadcasts: bool = False
    max_visits: int = 1

    def refuse(self, name: str, message: Incoming, skills: Collection[str] = ()) -> MeshError | None:
        """Say why agent `name`, whose card has `skills`, does not take `message`, or None when it does.

        An agent whose card names no skills takes calls of any: older agents call skills without reading cards.
        """
        if self.allow_peers is not None and message.peer not in self.allow_peers:
            return MeshError(f"{name!r} does not take messages of {message.peer!r}", code="refused", executed="no")
        if message.skill and skills and message.skill not in skills:
            why = f"{name!r} has no skill {message.skill!r}; it has: {', '.join(sorted(skills))}"
            return MeshError(why, code="unknown_skill", executed="no")
        if message.hops >= self.max_hops:
            why = f"the request came through {message.hops} agents, the limit is {self.max_hops}"
            return MeshError(why, code="hop_limit", executed="no")
        if message.chain.count(name) > self.max_visits:
            return MeshError(
                f"the request went in a circle: {' > '.join(message.chain)}", code="hop_limit", executed="no"
            )
        return None
