"""A graph whose tool asks a human before it acts, for tests of approval on the caller's side."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import interrupt

from chatixia_langchain.testing import ScriptedChat


class Desk:
    """Notes what its graphs did."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def graph(self, questions: int = 1) -> Any:
        @tool
        def delete(what: str) -> str:
            """Delete something."""
            answers = [interrupt({"delete": what, "n": n}) for n in range(questions)]
            self.done.append(what)
            return f"deleted {what} after {answers}"

        def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
            if isinstance(messages[-1], ToolMessage):
                return messages[-1].text
            return AIMessage("", tool_calls=[{"name": "delete", "args": {"what": "x"}, "id": f"d{len(messages)}"}])

        return create_agent(ScriptedChat(rule=rule), [delete], checkpointer=InMemorySaver())
