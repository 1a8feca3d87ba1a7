"""What the demo's offline model says: a rule over the request, instead of a model. Pure.

Each agent is recognised by its system prompt, as a real model would know its part by it:
- the planner asks the researcher, tells everyone what came out, then answers;
- the researcher asks the librarian for a distance, and computes with it;
- the librarian knows the distance by heart.
"""

from __future__ import annotations

import json
import re
from typing import Any

QUESTION = "How long does light take from the Moon to the Earth?"

PROMPTS = {
    "planner": (
        "You are the planner. Ask the researcher with ask_researcher, tell all agents the result once with "
        "mesh_broadcast, then answer the user in one sentence."
    ),
    "researcher": (
        "You are the researcher. For facts ask the librarian with ask_librarian. Compute what was asked, and answer "
        "in one sentence. To a broadcast say only: noted."
    ),
    "librarian": (
        "You are the librarian. Answer with the fact asked for, in one sentence. To a broadcast say only: noted."
    ),
}
ABOUT = {
    "planner": "plans, and asks others for what it does not know",
    "researcher": "computes answers from facts",
    "librarian": "knows distances by heart",
}

LIGHT_KM_S = 299_792.458
_Body = dict[str, Any]


def rule(body: _Body) -> _Body:
    """Answer one chat completion request."""
    messages = body["messages"]
    system = str(messages[0].get("content") or "")
    last = messages[-1]
    text = str(last.get("content") or "")
    if "the planner" in system:
        return _planner(messages, text, came_from_tool=last["role"] == "tool")
    if "A broadcast from" in text:
        return _say("Noted.")
    if "the researcher" in system:
        return _researcher(text, came_from_tool=last["role"] == "tool")
    return _say("The mean distance of the Moon is 384,400 km.")


def _planner(messages: list[_Body], text: str, *, came_from_tool: bool) -> _Body:
    results = [str(m["content"]) for m in messages if m["role"] == "tool"]
    if not came_from_tool:
        return _call("ask_researcher", len(messages), message=f"Please find out: {text}")
    if len(results) == 1:
        return _call("mesh_broadcast", len(messages), message=f"For your notes: {results[0]}")
    return _say(f"The researcher found: {results[0]}")


def _researcher(text: str, *, came_from_tool: bool) -> _Body:
    if not came_from_tool:
        return _call("ask_librarian", 0, message="What is the mean distance from the Earth to the Moon, in km?")
    found = re.search(r"([\d,]+) km", text)
    if found is None:
        return _say(f"I could not find out: {text}")
    seconds = float(found[1].replace(",", "")) / LIGHT_KM_S
    return _say(f"Light takes {seconds:.2f} s for the {found[1]} km, as the librarian gives them.")


def _say(text: str) -> _Body:
    return {"role": "assistant", "content": text}


def _call(name: str, number: int, **arguments: str) -> _Body:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{name}_{number}", "type": "function", "function": function}],
    }
