"""What a turn knows of the request it serves: asks made inside it carry its place, its budget and its trace.

- who serves a request sets `current_turn`; `Mesh.ask` and its kin read it, so a plain function carries all of it too
- `Place` is what such an ask carries; outside of a turn it is `NOWHERE`, made once
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import MeshError
from .budget import Budget, Usage
from .types import Incoming

NESTED_MARGIN_S = 0.25
"""A nested ask ends this much earlier than the request it serves, so that its failure can still be reported."""


class Place(NamedTuple):
    """Where a message stands in the tree of its root request."""

    hops: int = 0
    chain: tuple[str, ...] = ()
    budget: Budget | None = None
    trace: str = ""


NOWHERE = Place()


@dataclass(slots=True, eq=False)
class Turn:
    """The request that is being served. Times in seconds of the monotonic clock.

    `budget` is what was left for the whole tree when the request came, `spent` what this turn has used since, nested
    asks included: the one field that changes. `tools` names the tools this turn may use; None means all.
    """

    peer: str
    conversation: str
    message_id: str
    hops: int
    chain: tuple[str, ...]
    deadline: float
    budget: Budget
    trace: str = ""
    tools: Collection[str] | None = None
    spent: Usage = field(default_factory=lambda: Usage(turns=1))
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls,
        message: Incoming,
        *,
        max_turns: int = 20,
        max_tokens: int = 100_000,
        max_ms: int = 1_800_000,
        trace: str | None = None,
        tools: Collection[str] | None = None,
    ) -> Turn:
        """The turn that serves `message`; what the asker grants is clamped to our own `max_...`."""
        asked = message.budget or Budget(message.message_id, max_turns, max_tokens, max_ms)
        budget = Budget(asked.root, min(asked.turns, max_turns), min(asked.tokens, max_tokens), min(asked.ms, max_ms))
        now = time.monotonic()
        return cls(
            message.peer,
            message.conversation,
            message.message_id,
            message.hops,
            message.chain,
            now + message.ttl_s,
            budget,
            message.trace if trace is None else trace,
            tools,
            started=now,
        )

    def left(self) -> Budget:
        """What is left of the budget now; never below zero."""
        used_ms = int((time.monotonic() - self.started) * 1000)
        tokens = self.budget.tokens - self.spent.total()["total_tokens"]
        turns = self.budget.turns - self.spent.all_turns()
        return Budget(self.budget.root, max(turns, 0), max(tokens, 0), max(self.budget.ms - used_ms, 0))

    def place(self, me: str) -> Place:
        """The place of a message that agent `me` sends inside this turn.

        Raises MeshError `budget_exceeded`, naming what is used up.
        """
        left = self.left()
        for what in ("turns", "tokens", "ms"):
            if not getattr(left, what):
                granted = getattr(self.budget, what)
                raise MeshError(
                    f"the {granted} {what} of request {left.root!r} are used up", code="budget_exceeded", executed="no"
                )
        return Place(self.hops + 1, (*self.chain, me), left, self.trace)

    def timeout(self, timeout_s: float | None) -> float:
        """Seconds for an ask inside this turn: what is wanted, but no more than the turn has left."""
        left = max(self.deadline - time.monotonic() - NESTED_MARGIN_S, 0.001)
        return left if timeout_s is None else min(timeout_s, left)


current_turn: ContextVar[Turn | None] = ContextVar("chatixia_turn", default=None)
"""The turn this code runs in; None outside of one."""

current_tool_call: ContextVar[str | None] = ContextVar("chatixia_tool_call", default=None)
"""The id of the tool call that runs; set by `ChatLoop`, which has no langgraph runtime to inject."""


def place_of(turn: Turn | None, me: str, hops: int | None, chain: Iterable[str] | None) -> Place:
    """The place of a message: what the caller says, else that of the turn.

    Raises MeshError `budget_exceeded`, and TypeError or ValueError for hops or a chain that are none.
    """
    if hops is not None and (not isinstance(hops, int) or hops < 0):
        raise ValueError(f"hops {hops!r} is not a count")
    if chain is not None:
        chain = tuple(chain)
        if not all(isinstance(name, str) for name in chain):
            raise TypeError(f"chain {chain!r} is not a sequence of names")
    if turn is None:
        if hops is None and chain is None:
            return NOWHERE
        return Place(hops or 0, chain or ())
    place = turn.place(me)
    if hops is not None:
        place = place._replace(hops=hops)
    return place if chain is None else place._replace(chain=chain)
