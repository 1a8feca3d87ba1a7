"""`Supervisor`: everything that holds a peer's turn to the policy, as two calls of whoever runs turns.

taken, refused = supervisor.admit(batch)
with supervisor.turn(taken[-1]) as (turn, callbacks):
    ...  # run the agent, with these callbacks in its config
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from ..errors import MeshError, RemoteError
from ..mesh.context import Turn, current_turn
from ..mesh.types import Incoming
from .budget_ledger import BudgetLedger
from .guard import guarded, kept_back
from .policy import InboundPolicy
from .trace import under_caller
from .usage import counted

logger = logging.getLogger(__name__)

OUR_REFUSALS = frozenset({"tool_refused", "budget_exceeded"})
"""Codes of errors that end a turn and whose text is for the peer: it tells the policy, not our insides."""


class Supervisor:
    """Holds the turns of one agent to an `InboundPolicy`. On one loop."""

    def __init__(self, policy: InboundPolicy) -> None:
        self.policy = policy
        self._ledger = BudgetLedger(policy)

    def warn(self, name: str, agent: Any) -> None:
        """Tell the operator, once, which tools of `agent` peers cannot use, and how to allow them."""
        kept = kept_back(agent, self.policy.turn_tools)
        if kept:
            logger.warning(
                "%s: turns that peers start may not use the tools %s, since they may act. To allow some: "
                "MeshAgent(..., policy=InboundPolicy(tools=[...])); to mark one that only reads: its metadata "
                "{'readOnlyHint': True}",
                name,
                ", ".join(kept),
            )

    def admit(self, batch: Sequence[Incoming]) -> tuple[list[Incoming], list[tuple[Incoming, MeshError]]]:
        """Sort the messages of one turn into those that may start it and those refused, each with why."""
        taken, refused = self._ledger.admit(batch, time.monotonic())
        for message, why in refused:
            logger.warning("refused peer=%s id=%s: %s", message.peer, message.message_id, why)
        return taken, refused

    @contextmanager
    def turn(self, message: Incoming) -> Iterator[tuple[Turn, list[BaseCallbackHandler]]]:
        """Make the turn that serves `message` the current one, guarded and counted; what it used is booked however it
        ends. Enter and leave it in the task that runs the turn.
        """
        turn = Turn.of(message, tools=self.policy.turn_tools)
        turn.budget = self._ledger.budget(message, time.monotonic())
        before = current_turn.set(turn)
        try:
            with (
                guarded(turn.tools) as guard,
                counted(turn) as counter,
                under_caller(message, trust=self.policy.trust_trace),
            ):
                yield turn, [guard, counter]
        finally:
            current_turn.reset(before)
            self._ledger.spent(turn.budget.root, turn.spent.total()["total_tokens"])


def for_peer(error: BaseException) -> MeshError | None:
    """The error that ended a turn as the peer may read it, None when it is none of its business.

    Whatever it was refused, the turn did run; and what a third agent wrote is not passed on.
    """
    if not isinstance(error, MeshError) or error.code not in OUR_REFUSALS:
        return None
    why = "an agent that was asked on the way refused" if isinstance(error, RemoteError) else error.message
    return MeshError(why, code=error.code, executed="yes")
