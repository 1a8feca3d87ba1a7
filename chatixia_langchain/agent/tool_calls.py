"""From a model's chunks to tool calls that can be trusted to be whole, and from tool calls to results.

langchain-core repairs truncated JSON while it adds up chunks; a tool must never run on arguments that were guessed.
So the arguments are read strictly here, from the fragments themselves.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall, ToolMessage
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from pydantic import ValidationError

from ..errors import MeshError
from ..mesh.context import current_tool_call
from . import text
from .guard import allowed, refusal

logger = logging.getLogger(__name__)

CUT: dict[str, text.Ending] = {  # what providers call it
    "length": "length",
    "max_tokens": "length",
    "content_filter": "filter",
    "safety": "filter",
}

RAW_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True, slots=True)
class Asked:
    """One tool call of a model; `fault` says why it must not run, "" when it may."""

    call: ToolCall
    fault: str = ""


def assemble(chunks: Sequence[BaseMessage]) -> tuple[AIMessage, list[Asked]]:
    """Add up one answer of a model: the message for the history, and what it asks for.

    Calls with unusable arguments stay in the message (with `{}`), so that each has a result and the history stays
    valid.
    """
    if len(chunks) == 1 and isinstance(chunks[0], AIMessage) and not isinstance(chunks[0], AIMessageChunk):
        whole = chunks[0]
        bad = [_asked(c.get("name"), c.get("args"), c.get("id")) for c in whole.invalid_tool_calls]
        asked = [*(_named(c) for c in whole.tool_calls), *bad]
    else:
        pieces = [c for c in chunks if isinstance(c, AIMessageChunk)]
        if not pieces:
            return AIMessage(""), []
        merged = add_ai_message_chunks(pieces[0], *pieces[1:])
        asked = [_asked(c["name"], c["args"], c["id"]) for c in merged.tool_call_chunks]
        whole = AIMessage(
            merged.content,
            additional_kwargs=merged.additional_kwargs,
            usage_metadata=merged.usage_metadata,
            response_metadata=merged.response_metadata,
            id=merged.id,
        )
    if ended(whole) and asked:
        asked = [Asked(a.call, text.NOT_RUN_CUT) for a in asked]
    declined = whole.additional_kwargs.get("refusal")  # openai's word for an answer that is a no
    update: dict[str, Any] = {
        "content": whole.content or (declined if isinstance(declined, str) else ""),
        # What a provider wants back in the next step (thought signatures, say) stays; other forms of the calls do not.
        "additional_kwargs": {k: v for k, v in whole.additional_kwargs.items() if k not in RAW_CALLS},
        "tool_calls": [a.call for a in asked],
        "invalid_tool_calls": [],
    }
    return whole.model_copy(update=update), asked


def ended(answer: AIMessage) -> text.Ending:
    """How the model's output was cut off: by its length limit ("length"), by a filter ("filter"), or not ("")."""
    said = answer.response_metadata
    return CUT.get(str(said.get("finish_reason") or said.get("stop_reason")).lower(), "")


def _named(call: ToolCall) -> Asked:
    return Asked(ToolCall(name=call["name"], args=call["args"], id=call["id"] or _new_id(), type="tool_call"))


def _asked(name: str | None, arguments: str | None, call_id: str | None) -> Asked:
    fault = ""
    args: Any = {}
    try:
        args = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as exc:
        fault = text.bad_arguments(str(exc) or type(exc).__name__)
    if not isinstance(args, dict):
        fault, args = text.bad_arguments(f"got {type(args).__name__}"), {}
    return Asked(ToolCall(name=name or "", args=args, id=call_id or _new_id(), type="tool_call"), fault)


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def failed(call: ToolCall, why: str) -> ToolMessage:
    """The result of a call that did not run."""
    return ToolMessage(why, tool_call_id=call["id"] or "", name=call["name"], status="error")


async def run_all(
    asked: Sequence[Asked], tools: Mapping[str, BaseTool], config: RunnableConfig, timeout_s: float
) -> list[ToolMessage]:
    """Run the calls of one answer side by side; every call has exactly one result, in the order of the calls.

    A tool that raises becomes an error result: the log has the traceback, the model only the kind.
    """
    return list(await asyncio.gather(*(_run(a, tools, config, timeout_s) for a in asked)))


async def _run(asked: Asked, tools: Mapping[str, BaseTool], config: RunnableConfig, timeout_s: float) -> ToolMessage:
    call = asked.call
    if asked.fault:
        return failed(call, asked.fault)
    tool = tools.get(call["name"])
    if tool is None:
        return failed(call, text.no_such_tool(call["name"], [t.name for t in allowed(tools.values())]))
    refused = refusal(tool.name, tool.metadata)
    if refused is not None:
        return failed(call, text.tool_refused(refused))
    current_tool_call.set(call["id"])  # this task's own context: gather gave each call a copy
    try:
        async with asyncio.timeout(timeout_s):
            result: Any = await tool.ainvoke(call, config)
    except TimeoutError:
        return failed(call, text.tool_failed(f"no result within {timeout_s:g} s"))
    except ValidationError as exc:
        return failed(call, text.wrong_arguments((".".join(map(str, e["loc"])), e["msg"]) for e in exc.errors()))
    except MeshError as exc:  # a tool inside this one was refused, say
        return failed(call, text.error(exc))
    except Exception as exc:  # one broken tool must not leave the other calls without results
        logger.exception("tool failed name=%s id=%s", call["name"], call["id"])
        return failed(call, text.tool_failed(type(exc).__name__))
    if isinstance(result, ToolMessage):
        return result
    return ToolMessage(str(result), tool_call_id=call["id"] or "", name=call["name"])
