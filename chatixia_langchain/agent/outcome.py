"""What goes into a turn of an agent, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from ..mesh.types import Incoming, RemoteInterrupt
from .history import History, human
from .streaming import Emit


@dataclass(frozen=True, slots=True)
class Job:
    """One turn: the messages as they came, and a config whose `thread_id` is the conversation.

    `history` is what the runner's `look` gave just before. `emit` is None when nobody listens. `resume` holds the
    values by interrupt when the turn goes on after a pause; then what came is the decision.
    """

    came: Sequence[Incoming]
    config: RunnableConfig
    history: History
    emit: Emit | None = None
    resume: Mapping[str, Any] | None = None

    def messages(self) -> list[BaseMessage]:
        """What came, for a model."""
        return [human(message) for message in self.came] if self.resume is None else []

    @property
    def thread(self) -> str:
        """The thread of the conversation."""
        return str(self.config["configurable"]["thread_id"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended: with a text, or paused, with what it waits for."""

    text: str = ""
    interrupts: tuple[RemoteInterrupt, ...] = ()


class Runner(Protocol):
    """An agent of one kind."""

    async def look(self, thread: str) -> History:
        """What is kept of a thread."""

    async def run(self, job: Job) -> Outcome:
        """Run one turn. Raises what the agent raises."""


def answer_text(result: Any) -> str:
    """Read the text of what an agent returned: a str, a message, a list of messages, or a state with `messages`."""
    if result is None:
        return ""
    if isinstance(result, str):
        return result
    if isinstance(result, BaseMessage):
        return str(result.text)
    if isinstance(result, dict) and "messages" in result:
        result = result["messages"]
    if isinstance(result, Sequence) and result:
        return answer_text(result[-1])
    raise TypeError(f"the agent returned a {type(result).__name__}, which has no text")
