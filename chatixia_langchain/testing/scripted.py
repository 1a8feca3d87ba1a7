"""`ScriptedChat`: a chat model that follows a rule instead of thinking.

langchain-core's own fakes have no `bind_tools`, and keep an iterator, so they cannot serve two conversations at once.
This one is stateless: the answer is a function of the messages and the names of the bound tools.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

Rule = Callable[[list[BaseMessage], tuple[str, ...]], AIMessage | str]


class ScriptedChat(BaseChatModel):
    """A chat model whose answer is `rule(messages, bound_tool_names)`: an AIMessage, or a str for plain text.

    Streaming gives the text word by word and tool calls in fragments, as real models do.
    """

    rule: Rule
    bound: tuple[str, ...] = ()

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **_: Any
    ) -> Runnable[Any, AIMessage]:
        """Return a copy that knows the names of `tools`."""
        names = tuple(convert_to_openai_tool(t)["function"]["name"] for t in tools)
        return self.model_copy(update={"bound": names})

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        answer = self.rule(messages, self.bound)
        return AIMessage(answer) if isinstance(answer, str) else answer

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _fragments(self._answer(messages)):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _fragments(self._answer(messages)):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _fragments(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    words = message.text.split(" ")
    for n, word in enumerate(words if message.text else []):
        yield ChatGenerationChunk(message=AIMessageChunk(content=word if n == len(words) - 1 else word + " "))
    for index, call in enumerate(message.tool_calls):
        text = json.dumps(call["args"])
        head = tool_call_chunk(name=call["name"], id=call["id"], args="", index=index)
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[head]))
        for at in range(0, len(text), 16):
            part = tool_call_chunk(args=text[at : at + 16], index=index)
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))
    # The last piece says what the call used, as providers do: the sum of the pieces is the whole message.
    end = AIMessageChunk(content="", usage_metadata=message.usage_metadata, response_metadata=message.response_metadata)
    if message.usage_metadata or message.response_metadata or (not message.text and not message.tool_calls):
        yield ChatGenerationChunk(message=end)


def ask_then_answer(tool: str, args: Callable[[str], dict[str, Any]], answer: Callable[[str], str]) -> Rule:
    """Make a rule: call `tool` once with `args(question)`, then say `answer(what the tool said)`.

    Without the tool, or after its answer, the turn ends. The call's id is made from the history, so it is the same on
    a re-run.
    """

    def rule(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage | str:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            return answer(last.text)
        question = next((m.text for m in reversed(messages) if isinstance(m, HumanMessage)), "")
        if tool not in tools:
            return answer(question)
        call = {"name": tool, "args": args(question), "id": f"call-{len(messages)}", "type": "tool_call"}
        return AIMessage("", tool_calls=[call])

    return rule


def from_openai_rule(rule: Callable[[dict[str, Any]], dict[str, Any]]) -> Rule:
    """Make a rule of one for `OpenAIServer`: it gets a request's `messages`, and returns the assistant's message."""

    def answer(messages: list[BaseMessage], tools: tuple[str, ...]) -> AIMessage:
        said = rule({"messages": convert_to_openai_messages(messages)})
        calls = [
            {"name": c["function"]["name"], "args": json.loads(c["function"]["arguments"]), "id": c["id"]}
            for c in said.get("tool_calls") or []
        ]
        return AIMessage(said.get("content") or "", tool_calls=calls)

    return answer
