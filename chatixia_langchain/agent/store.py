"""Where the messages of conversations are kept when no checkpointer keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from langchain_core.messages import BaseMessage, HumanMessage

MAX_THREADS = 1024  # the thread used least recently is forgotten
MAX_MESSAGES = 200  # of one thread; the oldest turns are forgotten, whole turns only


class ConversationStore(Protocol):
    """Messages by thread id. One process owns a thread: there is no fencing of writers."""

    async def load(self, thread_id: str) -> list[BaseMessage]:
        """Return the messages of a thread, oldest first; [] for one that is not known."""

    async def append(self, thread_id: str, messages: Sequence[BaseMessage]) -> None:
        """Add the messages of one turn."""


class MemoryStore:
    """A bounded store in memory. It ends with the process."""

    def __init__(self, *, max_threads: int = MAX_THREADS, max_messages: int = MAX_MESSAGES) -> None:
        self._max_threads, self._max_messages = max_threads, max_messages
        self._threads: OrderedDict[str, list[BaseMessage]] = OrderedDict()

    async def load(self, thread_id: str) -> list[BaseMessage]:
        """Return the messages of a thread, oldest first."""
        if thread_id in self._threads:
            self._threads.move_to_end(thread_id)
        return list(self._threads.get(thread_id, ()))

    async def append(self, thread_id: str, messages: Sequence[BaseMessage]) -> None:
        """Add the messages of one turn; forget what is over the bounds."""
        kept = [*self._threads.pop(thread_id, ()), *messages]
        if len(kept) > self._max_messages:
            kept = _whole_turns(kept[-self._max_messages :])
        self._threads[thread_id] = kept
        while len(self._threads) > self._max_threads:
            self._threads.popitem(last=False)


def _whole_turns(messages: list[BaseMessage]) -> list[BaseMessage]:
    """Cut at the first human message: a tool result without its call makes providers refuse the whole request."""
    first = next((n for n, m in enumerate(messages) if isinstance(m, HumanMessage)), len(messages))
    return messages[first:]
