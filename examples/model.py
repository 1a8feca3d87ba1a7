"""The model of these examples: a real one when OPENAI_API_KEY is set, else a script, so that all of them run offline.

With a key (and `pip install langchain-openai`) `OPENAI_MODEL` and `OPENAI_BASE_URL` choose the model and the service.
In your own program this whole file is `init_chat_model("openai:gpt-5-mini")`, or any other chat model.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from chatixia_langchain.testing import ScriptedChat

Script = Callable[[list[BaseMessage], tuple[str, ...]], AIMessage | str]


def chat_model(script: Script) -> BaseChatModel:
    """A real model, or one that says what `script(messages, tool_names)` returns."""
    if not os.environ.get("OPENAI_API_KEY"):
        return ScriptedChat(rule=script, delay_s=0.01)
    from langchain.chat_models import init_chat_model

    return init_chat_model(os.environ.get("OPENAI_MODEL", "gpt-5-mini"), model_provider="openai")


def says(text: str) -> Script:
    """Always say `text`."""
    return lambda messages, tools: text


def calls(*wanted: tuple[str, dict[str, str]], then: str) -> Script:
    """Call tools, all at once, with their arguments; after their results say `then`, with {0}, {1}... filled in."""

    def script(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
        if results := [m.text for m in messages if isinstance(m, ToolMessage)]:
            return then.format(*results)
        made = [{"name": name, "args": args, "id": f"call-{n}"} for n, (name, args) in enumerate(wanted)]
        return AIMessage("", tool_calls=made)

    return script
