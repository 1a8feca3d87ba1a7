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

from ..mesh.context import current_turn
from .usage import count, used_up

REFUSED = (400, 422)  # how servers say that they do not know an option


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
    """An `openai.AsyncOpenAI` client (or one that looks like it), by its chat completions.

    It has no callbacks, so it counts the tokens of its turn itself, and ends the turn when they are used up.
    """

    def __init__(self, client: Any, model_name: str) -> None:
        self._client, self._model_name = client, model_name
        self._says_usage = True  # until the server refuses to be asked for it

    async def step(
        self, messages: Sequence[BaseMessage], tools: Sequence[BaseTool], config: RunnableConfig
    ) -> AsyncIterator[BaseMessage]:
        """Yield the deltas of one streamed completion, and last what it used. Raises MeshError `budget_exceeded`."""
        turn = current_turn.get()
        refused = used_up(turn) if turn is not None else None
        if refused is not None:
            raise refused
        more: dict[str, Any] = {"tools": [convert_to_openai_tool(t) for t in tools]} if tools else {}
        stream = await self._open(messages=convert_to_openai_messages(list(messages)), **more)
        usage: Any = None
        try:
            async for event in stream:
                usage = event.usage or usage  # some servers say it with every chunk, each time the sum so far
                if event.choices:
                    yield _chunk(event.choices[0])
        finally:
            await stream.close()
            used = None if usage is None else _used(usage)
            if used is not None and turn is not None:
                count(turn, used, self._model_name)
        if used is not None:
            yield AIMessageChunk(content="", usage_metadata=used)

    async def _open(self, **request: Any) -> Any:
        """Ask for a stream that ends with its usage; a server that refuses to say it is not asked again."""
        create = self._client.chat.completions.create
        request |= {"model": self._model_name, "stream": True}
        if self._says_usage:
            try:
                return await create(stream_options={"include_usage": True}, **request)
            except Exception as exc:  # openai's own errors, told by their status: it is not imported here
                if getattr(exc, "status_code", None) not in REFUSED:
                    raise
        stream = await create(**request)
        self._says_usage = False
        return stream


def _used(usage: Any) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens, total_tokens=usage.total_tokens
    )


def _chunk(choice: Any) -> AIMessageChunk:
    calls = [
        tool_call_chunk(name=c.function.name, args=c.function.arguments, id=c.id, index=c.index)
        for c in choice.delta.tool_calls or []
        if c.function is not None
    ]
    refusal = getattr(choice.delta, "refusal", None) or ""
    finish = {"finish_reason": choice.finish_reason} if choice.finish_reason else {}
    text = (choice.delta.content or "") + refusal
    return AIMessageChunk(content=text, tool_call_chunks=calls, response_metadata=finish)


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
