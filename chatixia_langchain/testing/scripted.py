"""`ScriptedChat`: a chat model that follows a rule instead of thinking.

langchain-core's own fakes have no `bind_tools`, and keep an iterator, so they cannot serve two conversations at once.
This one is stateless: the answer is a function of the messages and the names of the bound tools.
"""

from __future__ import annotations

import asyncio
import json
import time
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
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

Rule = Callable[[list[BaseMessage], tuple[str, ...]], AIMessage | str]


class ScriptedChat(BaseChatModel):
    """A chat model whose answer is `rule(messages, bound_tool_names)`: an AIMessage, or a str for plain text.

    It behaves as real models do where agents can tell: streamed text comes word by word and tool calls in fragments,
    answers carry token counts (one word, one token) and the model's name, and it may be slow or fail.

    Setup:
        Nothing beside the package.

    Instantiation:
        - `delay_s`: seconds before each token, streamed or not.
        - `failure`: raised instead of the `fail_at`-th token (0: before the first); a call that is not streamed has no
          part of an answer, it just fails. To fail once, let the rule raise.

    Invocation:
        As every chat model. `bind_tools(tools, tool_choice=...)` shows the rule only the tools that may be called, and
        holds it to a choice that forces a call. `with_structured_output(Schema)` works with a rule that calls the tool
        `Schema`.

    Within an agent:
        `create_agent(ScriptedChat(rule=ask_then_answer("look", ...)), [look])`. One instance serves any number of
        conversations at once: it keeps nothing.

    Raises ValueError when a tool call is forced and the rule makes none.
    """

    rule: Rule
    model_name: str = "scripted"
    delay_s: float = 0.0
    failure: Exception | None = None
    fail_at: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **more: Any,
    ) -> Runnable[Any, AIMessage]:
        """Return the model with `tools`, in the form of OpenAI, as arguments of each call.

        `tool_choice` as OpenAI has it: "auto", "none", "any" or "required" (or True), the name of a tool, or
        `{"type": "function", "function": {"name": ...}}`. Raises ValueError for a tool that is not among `tools`.
        """
        given: dict[str, Any] = {"tools": [convert_to_openai_tool(t) for t in tools], **more}
        if tool_choice not in (None, False):
            given["tool_choice"] = tool_choice
        _offered(given)
        return self.bind(**given)

    def _answer(self, messages: list[BaseMessage], given: dict[str, Any]) -> AIMessage:
        names, forced = _offered(given)
        said = self.rule(messages, names)
        answer = AIMessage(said) if isinstance(said, str) else said
        if forced and not any(call["name"] in names for call in answer.tool_calls):
            raise ValueError(f"tool_choice forces a call of {' or '.join(names)}, and the rule made none")
        usage = answer.usage_metadata or _usage(messages, answer)
        about = {"finish_reason": "tool_calls" if answer.tool_calls else "stop"}
        named = {"model_name": self.model_name} if self.model_name else {}
        meta = {**about, **named, **answer.response_metadata}
        return answer.model_copy(update={"usage_metadata": usage, "response_metadata": meta})

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._answer(messages, kwargs)
        for _ in self._paced(answer):
            time.sleep(self.delay_s)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = self._answer(messages, kwargs)
        for _ in self._paced(answer):
            await asyncio.sleep(self.delay_s)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in self._paced(self._answer(messages, kwargs)):
            time.sleep(self.delay_s)
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
        for chunk in self._paced(self._answer(messages, kwargs)):
            await asyncio.sleep(self.delay_s)
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _paced(self, answer: AIMessage) -> Iterator[ChatGenerationChunk]:
        """The fragments of an answer, up to the failure if there is to be one."""
        chunks = [ChatGenerationChunk(message=part) for part in _fragments(answer)]
        if self.failure is not None:
            yield from chunks[: self.fail_at]
            raise self.failure
        yield from chunks


def _offered(given: dict[str, Any]) -> tuple[tuple[str, ...], bool]:
    """The names of the tools that may be called, and whether one must be. Raises ValueError for an unknown one."""
    names = tuple(str(t["function"]["name"]) for t in given.get("tools") or ())
    choice = given.get("tool_choice", "auto")
    if isinstance(choice, dict):
        choice = choice["function"]["name"]
    if choice in ("auto", "none"):
        return (() if choice == "none" else names), False
    if choice in (True, "any", "required"):
        return names, True
    if choice not in names:
        raise ValueError(f"tool_choice {choice!r} is none of the tools: {', '.join(names)}")
    return (str(choice),), True


def _fragments(answer: AIMessage) -> list[AIMessageChunk]:
    words = answer.text.split(" ") if answer.text else []
    parts = [AIMessageChunk(content=word if n == len(words) - 1 else word + " ") for n, word in enumerate(words)]
    for index, call in enumerate(answer.tool_calls):
        text = json.dumps(call["args"])
        heads = [tool_call_chunk(name=call["name"], id=call["id"], args="", index=index)]
        rest = [tool_call_chunk(args=text[at : at + 16], index=index) for at in range(0, len(text), 16)]
        parts += [AIMessageChunk(content="", tool_call_chunks=[piece]) for piece in heads + rest]
    # As OpenAI's: the last chunk has no fragment of a call. LangChain's typed events would lose it there.
    last = parts.pop() if parts and not answer.tool_calls else AIMessageChunk(content="")
    about = {"usage_metadata": answer.usage_metadata, "response_metadata": answer.response_metadata}
    return [*parts, last.model_copy(update={**about, "chunk_position": "last"})]


def _usage(messages: list[BaseMessage], answer: AIMessage) -> UsageMetadata:
    """Words for tokens: the same in every run, and never zero."""
    read = sum(len(m.text.split()) for m in messages) or 1
    said = len(answer.text.split()) + sum(1 + len(json.dumps(c["args"]).split()) for c in answer.tool_calls) or 1
    return UsageMetadata(input_tokens=read, output_tokens=said, total_tokens=read + said)


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
