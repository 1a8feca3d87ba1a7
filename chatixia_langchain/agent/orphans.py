"""Tool calls that never got a result: a turn was cancelled, refused or killed between a call and its result. Pure.

Providers refuse a whole history for one such call, from then on and for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from . import text


def repairs(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return `messages` with an error result after each AI message whose tool calls have none.

    The results that are there keep their place; nothing is removed. A history that is whole comes back equal.
    """
    whole: list[BaseMessage] = []
    for at, message in enumerate(messages):
        whole.append(message)
        if isinstance(message, AIMessage) and message.tool_calls:
            whole.extend(_missing(message, messages[at + 1 :]))
    return whole


def _missing(asked: AIMessage, after: Sequence[BaseMessage]) -> list[ToolMessage]:
    """The results that lack: looked for only up to the next AI message, for call ids may be used again later."""
    done = set()
    for message in after:
        if isinstance(message, AIMessage):
            break
        if isinstance(message, ToolMessage):
            done.add(message.tool_call_id)
    return [
        ToolMessage(text.INTERRUPTED_CALL, tool_call_id=call["id"] or "", name=call["name"], status="error")
        for call in asked.tool_calls
        if call["id"] not in done
    ]
