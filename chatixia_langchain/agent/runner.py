"""Whatever a user calls an agent, as one function: messages and a thread in, text out."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig

from ..mesh.types import Incoming
from .chat_loop import ChatLoop
from .models import is_openai_client
from .store import ConversationStore, MemoryStore

Run = Callable[[Sequence[Incoming], Sequence[BaseMessage], RunnableConfig], Awaitable[str]]
"""One turn: the messages as they came, the same for a model, and a config whose `thread_id` is the conversation."""


def runner_of(agent: Any, *, model_name: str | None = None, store: ConversationStore | None = None) -> Run:
    """Make the function for `agent`: a compiled graph, a chat model, an AsyncOpenAI client, a ChatLoop, any Runnable
    over messages, or an async function of one Incoming.

    Raises TypeError for anything else.
    """
    if isinstance(agent, ChatLoop):
        return _loop(agent)
    if isinstance(agent, BaseChatModel) or is_openai_client(agent):
        return _loop(ChatLoop(agent, model_name=model_name, store=store))
    if isinstance(agent, Runnable):
        is_graph = hasattr(agent, "checkpointer")
        keeps = is_graph and bool(getattr(agent, "checkpointer", None))
        return _runnable(agent, None if keeps else store or MemoryStore(), is_graph=is_graph)
    if inspect.iscoroutinefunction(agent) or inspect.iscoroutinefunction(getattr(agent, "__call__", None)):  # noqa: B004
        return _function(agent)
    raise TypeError(
        f"cannot serve a {type(agent).__name__}: give a compiled graph, a chat model, an AsyncOpenAI client, "
        "a ChatLoop, a Runnable over messages, or an async function of one Incoming"
    )


def _loop(loop: ChatLoop) -> Run:
    async def run(_: Sequence[Incoming], messages: Sequence[BaseMessage], config: RunnableConfig) -> str:
        answer = await loop.ainvoke(messages, thread_id=_thread(config), config=config)
        return str(answer.text)

    return run


def _runnable(agent: Runnable[Any, Any], store: ConversationStore | None, *, is_graph: bool) -> Run:
    async def run(_: Sequence[Incoming], messages: Sequence[BaseMessage], config: RunnableConfig) -> str:
        history = await store.load(_thread(config)) if store is not None else []
        given: Any = [*history, *messages]
        result = await agent.ainvoke({"messages": given} if is_graph else given, config)
        answer = answer_text(result)
        if store is not None:
            await store.append(_thread(config), [*messages, AIMessage(answer)])
        return answer

    return run


def _function(function: Callable[[Incoming], Awaitable[Any]]) -> Run:
    async def run(came: Sequence[Incoming], _: Sequence[BaseMessage], config: RunnableConfig) -> str:
        answer = ""
        for message in came:
            answer = answer_text(await function(message))
        return answer

    return run


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


def _thread(config: RunnableConfig) -> str:
    return str(config["configurable"]["thread_id"])
