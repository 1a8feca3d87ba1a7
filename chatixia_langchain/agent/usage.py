"""What the models of a turn used, summed into `Turn.spent`; and the end of a turn whose tokens are used up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import LLMResult
from langchain_core.tracers.context import register_configure_hook

from ..errors import MeshError
from ..mesh.context import Turn

REMOTE_TAG = "chatixia:remote"
"""Tag of runs that only show what a peer's model does: its tokens come with the peer's reply, and count once."""
UNKNOWN_MODEL = "unknown"


def used_up(turn: Turn) -> MeshError | None:
    """Say so when the root request of `turn` has no tokens or no time left."""
    left = turn.left()
    for what, rest, had in (("tokens", left.tokens, turn.budget.tokens), ("ms", left.ms, turn.budget.ms)):
        if rest <= 0:
            why = f"the {had} {what} that request {left.root!r} had left are used up"
            return MeshError(why, code="budget_exceeded", executed="yes")
    return None


def count(turn: Turn, usage: UsageMetadata, model: str) -> None:
    """Add what one answer of a model used."""
    turn.spent.add_model(model or UNKNOWN_MODEL, usage["input_tokens"], usage["output_tokens"])


class UsageCounter(BaseCallbackHandler):
    """Sums the tokens of every model call inside a turn, by model; refuses the next one when they are used up."""

    raise_error = True  # the refusal must reach the run
    run_inline = True  # and must come before the model is called

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._lock = threading.Lock()  # sync models run in threads
        self._models: dict[UUID, str] = {}  # of the calls that run: as many as the agent makes at once

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Note the model's name. Raises MeshError (`budget_exceeded`) when nothing is left."""
        if REMOTE_TAG in (tags or ()):
            return
        with self._lock:
            refused = used_up(self._turn)
            if refused is not None:
                raise refused
            self._models[run_id] = str((metadata or {}).get("ls_model_name") or "")

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Count one call; those that were not noted at their start are a peer's."""
        with self._lock:
            model = self._models.pop(run_id, None)
            if model is None:
                return
            for generations in response.generations:
                message = getattr(generations[0], "message", None) if generations else None
                if isinstance(message, AIMessage) and message.usage_metadata is not None:
                    named = message.response_metadata.get("model_name")
                    count(self._turn, message.usage_metadata, named if isinstance(named, str) else model)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Forget a call that failed."""
        with self._lock:
            self._models.pop(run_id, None)


_counter: ContextVar[UsageCounter | None] = ContextVar("chatixia_usage_counter", default=None)
# Callbacks of a config do not reach the models that a plain function calls; what is registered here does.
register_configure_hook(_counter, inheritable=True)


@contextmanager
def counted(turn: Turn) -> Iterator[UsageCounter]:
    """Count the models that run in this context for `turn`; gives the counter, for the callbacks of its config."""
    counter = UsageCounter(turn)
    before = _counter.set(counter)
    try:
        yield counter
    finally:
        _counter.reset(before)
