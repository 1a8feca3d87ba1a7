"""Our own JSON form of the messages in a history: four roles, written out field by field. Pure.

LangChain's `load` builds whatever object a file names, and `messages_from_dict` whatever role: neither is used. Of our
own models' answers it keeps what a provider may want back (thought signatures, say), as plain JSON that builds nothing.
What is not written here (artifacts, usage, anything more of the other roles) is not kept.
"""

from __future__ import annotations

import json
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
    add_notification_metadata,
    get_notification_metadata,
)

ROLES: dict[type[BaseMessage], str] = {
    HumanMessage: "human",
    AIMessage: "ai",
    ToolMessage: "tool",
    SystemMessage: "system",
}

EXTRA = ("additional_kwargs", "response_metadata")  # of AI messages


def role(message: BaseMessage) -> str:
    """The role of `message`. Raises TypeError for one that has none of the four."""
    for kind, name in ROLES.items():
        if isinstance(message, kind):
            return name
    raise TypeError(f"a {type(message).__name__} cannot be stored: only human, ai, tool and system messages can")


def encode(message: BaseMessage) -> str:
    """Write `message` as JSON in ASCII, so that any text can be stored, lone surrogates too.

    Raises TypeError for another kind of message, or content that is not plain JSON.
    """
    body: dict[str, Any] = {"role": role(message), "content": message.content, "id": message.id, "name": message.name}
    if isinstance(message, AIMessage):
        body["calls"] = [{"name": c["name"], "args": c["args"], "id": c["id"]} for c in message.tool_calls]
        body |= {key: kept for key in EXTRA if (kept := _plain(getattr(message, key)))}
    if isinstance(message, ToolMessage):
        body |= {"call": message.tool_call_id, "status": message.status}
    note = get_notification_metadata(message) if isinstance(message, HumanMessage) else None
    if note is not None:
        body["note"] = {"source": note["source"], "data": note.get("data")}
    return json.dumps({k: v for k, v in body.items() if v is not None})


def decode(raw: str) -> BaseMessage:
    """Read what `encode` wrote. Raises ValueError naming the fault."""
    body = json.loads(raw)
    if not isinstance(body, dict) or not isinstance(body.get("content"), str | list):
        raise ValueError("no message: it has no content")
    common: dict[str, Any] = {"content": body["content"], "id": body.get("id"), "name": body.get("name")}
    try:
        match body.get("role"):
            case "human":
                return _human(common, body.get("note"))
            case "ai":
                calls = [ToolCall(name=c["name"], args=c["args"], id=c["id"], type="tool_call") for c in body["calls"]]
                extra: dict[str, Any] = {k: dict(body[k]) for k in EXTRA if k in body}
                return AIMessage(**common, **extra, tool_calls=calls)
            case "tool":
                return ToolMessage(**common, tool_call_id=body["call"], status=body["status"])
            case "system":
                return SystemMessage(**common)
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"no {body['role']} message: {exc}") from exc
    raise ValueError(f"no message: its role is {body.get('role')!r}")


def _plain(extra: dict[str, Any]) -> dict[str, Any]:
    """Those entries that are JSON: a client's own objects are of no use in another process."""
    plain = {}
    for key, value in extra.items():
        try:
            plain[key] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    return plain


def _human(common: dict[str, Any], note: Any) -> HumanMessage:
    human = HumanMessage(**common)
    return add_notification_metadata(human, source=note["source"], data=note.get("data")) if note else human
