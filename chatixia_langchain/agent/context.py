"""What a turn knows of the request it serves: asks made inside it carry its hops, chain and remaining time."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass

from ..mesh.types import Incoming

NESTED_MARGIN_S = 0.25
"""A nested ask ends this much earlier than the request it serves, so that its failure can still be reported."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The request that is being served. `deadline` is in seconds of the monotonic clock."""

    peer: str
    conversation: str
    hops: int
    chain: tuple[str, ...]
    deadline: float

    @classmethod
    def of(cls, message: Incoming) -> Turn:
        """The turn that serves `message`."""
        deadline = time.monotonic() + message.ttl_s
        return cls(message.peer, message.conversation, message.hops, message.chain, deadline)

    def nested(self, name: str, timeout_s: float | None) -> tuple[int, tuple[str, ...], float]:
        """Hops, chain and timeout in seconds for an ask that agent `name` makes inside this turn."""
        left = max(self.deadline - time.monotonic() - NESTED_MARGIN_S, 0.001)
        return self.hops + 1, (*self.chain, name), left if timeout_s is None else min(timeout_s, left)


current_turn: ContextVar[Turn | None] = ContextVar("chatixia_turn", default=None)
"""The turn this code runs in; None outside of one."""

current_tool_call: ContextVar[str | None] = ContextVar("chatixia_tool_call", default=None)
"""The id of the tool call that runs; set by `ChatLoop`, which has no langgraph runtime to inject."""
