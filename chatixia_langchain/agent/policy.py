"""`InboundPolicy`: which messages of peers an agent takes, what their turns may use, and how much. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..errors import MeshError
from ..mesh.types import Incoming

MAX_HOPS = 8  # agents a request may come through: more is a loop, or a plan nobody can follow
MAX_TURNS_PER_MINUTE = 120  # of one peer: what no model keeps up with, and no person


@dataclass(frozen=True, slots=True)
class InboundPolicy:
    """Who may start turns here, from how far, with which tools, and how much.

    Who: `allow_peers` None means every peer of the mesh. `max_visits` is how often this agent may already stand in a
    request's chain: 1 lets a peer that we asked ask us back, and stops circles. `reply_to_broadcasts` sends the answer
    to a broadcast back as a message of its own; off, because agents that answer whatever they hear never stop.

    With what: `tools` names the tools that a turn started by a peer may use; "all" is every one. The default is none
    that acts: only tools whose `metadata` says `readOnlyHint: True` (see `agent/guard.py`). `approvals` says who
    answers a graph that pauses: the peer that asked ("caller"), or someone on this machine ("local").

    How much, counted here whatever the peer says: `max_turns`, `max_tokens` and `max_seconds` for all that comes of one
    root request, `max_turns_per_minute` for one peer, `max_repeats` for the same text of one peer in one conversation
    with nothing else in between.

    `trust_trace` lets a peer's LangSmith run be the parent of ours.

    Raises ValueError for a limit below 1, an unknown `approvals`, or a str where a collection of names is wanted.
    """

    allow_peers: Collection[str] | None = None
    tools: Collection[str] | Literal["all"] = ()
    max_hops: int = MAX_HOPS
    max_visits: int = 1
    reply_to_broadcasts: bool = False
    max_turns: int = 20
    max_tokens: int = 100_000
    max_seconds: float = 1800.0
    max_repeats: int = 3
    max_turns_per_minute: int = MAX_TURNS_PER_MINUTE
    approvals: Literal["caller", "local"] = "caller"
    trust_trace: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.tools, str) and self.tools != "all":
            raise ValueError(f'tools is the str {self.tools!r}: give a collection of names, or "all"')
        if self.approvals not in ("caller", "local"):
            raise ValueError(f'approvals {self.approvals!r} is neither "caller" nor "local"')
        if isinstance(self.allow_peers, str):  # `in` would find "b" in "bob"
            raise ValueError(f"allow_peers is the str {self.allow_peers!r}: give a collection of names")
        for name in ("max_hops", "max_turns", "max_tokens", "max_seconds", "max_repeats", "max_turns_per_minute"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}, it must be at least 1")

    @property
    def turn_tools(self) -> frozenset[str] | None:
        """`Turn.tools` of the turns that peers start: the names they may use, None for all."""
        return None if self.tools == "all" else frozenset(self.tools)

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
