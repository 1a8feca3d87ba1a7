"""Mail of hostile peers in a run that its user started: once it was read, no tool acts on that thread any more.

The same texts as in `tests/unit_tests/agent/test_hostile_texts.py`, and the same obedient model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from chatixia_langchain import InboundPolicy, LocalMesh, Mesh
from chatixia_langchain.testing import ScriptedChat
from chatixia_langchain.tools.middleware import MeshMiddleware

from ..agent.hostile import STYLES, Harm, texts


@pytest.fixture
async def local() -> AsyncIterator[LocalMesh]:
    async with LocalMesh(transport="memory") as mesh:
        yield mesh


def agent(mesh: Mesh, harm: Harm, **options: Any) -> Any:
    ours = MeshMiddleware(mesh, inbox=True, **options)
    return create_agent(harm.model(), harm.tools(), middleware=[ours], checkpointer=InMemorySaver())


async def run(graph: Any, attacker: Mesh, text: str, thread: str) -> str:
    """The user asks for news while a text lies in the mail."""
    await attacker.delivered(await attacker.send("victim", text))
    given = {"messages": [HumanMessage("Anything new?")]}
    return str((await graph.ainvoke(given, {"configurable": {"thread_id": thread}}))["messages"][-1].text)


@pytest.mark.timeout(120)
async def test_no_tool_acts_once_hostile_mail_was_read(local: LocalMesh) -> None:
    victim, attacker = await local.join("victim"), await local.join("attacker")
    harm = Harm()
    graph = agent(victim, harm)
    answers = [await run(graph, attacker, text, f"t{n}") for n, text in enumerate(texts())]
    assert harm.done == []
    assert len(harm.read) >= len(answers) == 200, "every text reached the model"
    assert all("tool_refused" in a for a in answers), "the model tried with every text, and was refused"


@pytest.mark.timeout(120)
async def test_with_a_policy_that_allows_all_every_style_does_harm(local: LocalMesh) -> None:
    victim, attacker = await local.join("victim"), await local.join("attacker")
    harm = Harm()
    graph = agent(victim, harm, policy=InboundPolicy(tools="all"))
    for number, style in enumerate(STYLES.values()):
        await run(graph, attacker, style("delete_files"), f"t{number}")
    assert harm.done.count("delete_files") == len(STYLES)


async def test_without_mail_the_user_may_use_everything(local: LocalMesh) -> None:
    """The user's own words are no mail; nor does mail in one thread hold up another."""
    victim, attacker = await local.join("victim"), await local.join("attacker")
    harm = Harm()
    graph = agent(victim, harm)
    await run(graph, attacker, next(iter(STYLES.values()))("delete_files"), "with mail")
    assert harm.done == []
    given = {"messages": [HumanMessage(next(iter(STYLES.values()))("delete_files"))]}
    await graph.ainvoke(given, {"configurable": {"thread_id": "without"}})
    assert harm.done == ["delete_files"]


async def test_mail_of_an_earlier_run_still_counts(local: LocalMesh) -> None:
    """It stands before the model in every later run of the thread."""
    victim, attacker = await local.join("victim"), await local.join("attacker")
    harm = Harm()
    graph = agent(victim, harm)
    await run(graph, attacker, "hello", "t")
    given = {"messages": [HumanMessage(next(iter(STYLES.values()))("delete_files"))]}
    answer = (await graph.ainvoke(given, {"configurable": {"thread_id": "t"}}))["messages"][-1].text
    assert harm.done == []
    assert "tool_refused" in answer


async def test_mail_is_shown_only_when_it_was_asked_for(local: LocalMesh) -> None:
    victim, attacker = await local.join("victim"), await local.join("attacker")
    seen: list[int] = []
    model = ScriptedChat(rule=lambda messages, tools: seen.append(len(messages)) or "done")
    graph = create_agent(model, middleware=[MeshMiddleware(victim)])
    await attacker.delivered(await attacker.send("victim", "hello"))
    await graph.ainvoke({"messages": [HumanMessage("Anything new?")]})
    assert seen == [1]
    assert (await victim.status())["queues"]["inbox"] == 1, "it waits for whoever takes it"
