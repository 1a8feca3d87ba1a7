"""Two kinds of model behind one door: any LangChain chat model, and `openai.AsyncOpenAI` itself.

`step` yields AIMessageChunks as they come; the loop adds them up. Openai is imported by whoever makes its client,
never here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool


class ModelPort(Protocol):
    """One call of a model."""

    def step(
        self, messages: Sequence[BaseMessage], tools: Sequence[BaseTool], config: RunnableConfig
    ) -> AsyncIterator[BaseMessage]:
        """Yield the answer to `messages` in chunks (or whole)."""


class ChatModelPort:
    """Any `BaseChatModel`."""

    def __init__(self, model: BaseChatModel) -> None:
        self._model = model

    async def step(
        self, messages: Sequence[BaseMessage], tools: Sequence[BaseTool], config: RunnableConfig
    ) -> AsyncIterator[BaseMessage]:
        """Yield what the model says."""
        bound: Any = self._model.bind_tools(tools) if tools else self._model
        async for chunk in bound.astream(list(messages), config):
            yield chunk


class OpenAIPort:
    """An `openai.AsyncOpenAI` client (or one that looks like it), by its chat completions."""

    def __init__(self, client: Any, model_name: str) -> None:
        self._client, self._model_name = client, model_name

    async def step(
        self, messages: Sequence[BaseMessage], tools: Sequence[BaseTool], config: RunnableConfig
    ) -> AsyncIterator[BaseMessage]:
        """Yield the deltas of one streamed completion."""
        more: dict[str, Any] = {"tools": [convert_to_openai_tool(t) for t in tools]} if tools else {}
        stream = await self._client.chat.completions.create(
            model=self._model_name, messages=convert_to_openai_messages(list(messages)), stream=True, **more
        )
        try:
            async for event in stream:
                yield _chunk(event)
        finally:
            await stream.close()


def _chunk(event: Any) -> AIMessageChunk:
    usage = None
    if event.usage is not None:
        usage = UsageMetadata(
            input_tokens=event.usage.prompt_tokens,
            output_tokens=event.usage.completion_tokens,
            total_tokens=event.usage.total_tokens,
        )
    if not event.choices:
        return AIMessageChunk(content="", usage_metadata=usage)
    choice = event.choices[0]
    calls = [
        tool_call_chunk(name=c.function.name, args=c.function.arguments, id=c.id, index=c.index)
        for c in choice.delta.tool_calls or []
        if c.function is not None
    ]
    refusal = getattr(choice.delta, "refusal", None) or ""
    finish = {"finish_reason": choice.finish_reason} if choice.finish_reason else {}
    text = (choice.delta.content or "") + refusal
    return AIMessageChunk(content=text, tool_call_chunks=calls, usage_metadata=usage, response_metadata=finish)


def port_of(model: Any, model_name: str | None) -> ModelPort:
    """Choose the door for `model`.

    Raises TypeError for anything that is neither, ValueError for an OpenAI client without `model_name`.
    """
    if isinstance(model, BaseChatModel):
        return ChatModelPort(model)
    if not is_openai_client(model):
        raise TypeError(
            f"model must be a LangChain chat model or an openai.AsyncOpenAI client, not {type(model).__name__}"
        )
    if not model_name:
        raise ValueError("model_name is needed with an AsyncOpenAI client")
    return OpenAIPort(model, model_name)


def is_openai_client(thing: Any) -> bool:
    """True for what has the chat completions of `openai.AsyncOpenAI`."""
    return hasattr(getattr(getattr(thing, "chat", None), "completions", None), "create")
