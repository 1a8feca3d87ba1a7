"""An agent that was restarted knows what it worked on: no message and no decision is taken up twice.

The checkpointer and `state_dir` are files; a restart is a new mesh, a new graph and a new agent over the same files.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from chatixia_langchain import ChatLoop, LocalMesh, MeshAgent, MeshError
from chatixia_langchain.agent.history import human, message_id
from chatixia_langchain.mesh.types import Incoming
from chatixia_langchain.testing import ScriptedChat

from ...support import until
from .test_approval import ALL, LOCAL, Desk, all_of, decide, said
from .test_mesh_agent import local as local
from .test_mesh_agent import served

agents = pytest.importorskip("langchain.agents")
sqlite = pytest.importorskip("langgraph.checkpoint.sqlite.aio")


@asynccontextmanager
async def restarted(
    local: LocalMesh, folder: Path, make: Any, *, state: bool = True, **options: Any
) -> AsyncIterator[MeshAgent]:
    """The agent "b" of one process: its files are `folder`'s, all else is new."""
    mesh = await local.join("b", **({"state_dir": str(folder / "state")} if state else {}))
    async with sqlite.AsyncSqliteSaver.from_conn_string(str(folder / "graph.sqlite")) as saver:
        async with served(mesh, make(saver), **{"policy": ALL, **options}) as agent:
            yield agent
        await mesh.aclose()


async def test_a_paused_turn_goes_on_after_a_restart(local: LocalMesh, tmp_path: Path) -> None:
    a, desk = await local.join("a"), Desk()
    async with restarted(local, tmp_path, desk.graph):
        first = await a.ask("b", "delete x", conversation="c", message_id="m1", timeout=10)
    async with restarted(local, tmp_path, desk.graph) as agent:
        await until(agent.paused)
        (entry,) = agent.paused()
        assert (entry.peer, entry.conversation, entry.message_id, entry.asked) == ("a", "c", "m1", True)
        held = asyncio.create_task(a.ask("b", "hi", conversation="c", timeout=20))
        await asyncio.sleep(0.05)
        again = await a.ask("b", "delete x", conversation="c", message_id="m1", timeout=10)
        assert again.interrupts == first.interrupts, "the repeated request is answered as before, and not run"
        assert not held.done()
        assert (await decide(a, "b", again, all_of(again, "yes"), message_id="r1")).content == "x: ['yes']"
        assert (await held).content == "heard delete x, hi"
    async with restarted(local, tmp_path, desk.graph) as agent:
        assert agent.paused() == []
        repeated = await a.ask("b", "delete x", conversation="c", message_id="m1", timeout=10)
        assert repeated.content == "x: ['yes']", "the turn's own last text, not that of a later turn"
        repeated = await decide(a, "b", again, all_of(again, "yes"), message_id="r1")
        assert repeated.content == "x: ['yes']"
    assert desk.done == ["x"]


async def test_mail_that_was_held_is_there_after_a_restart(local: LocalMesh, tmp_path: Path) -> None:
    """Its sender was told that it arrived, and the human may take days."""
    a, desk = await local.join("a"), Desk()
    async with restarted(local, tmp_path, desk.graph, max_queue=64) as agent:
        paused = await a.ask("b", "delete x", conversation="c", timeout=10)
        for n in range(40):  # more than one turn takes, and than the next process lets wait
            await (await a.send("b", f"note-{n}", conversation="c")).delivered()
        await until(lambda: len(agent._mail._kept) == 40)
    async with restarted(local, tmp_path, desk.graph, max_queue=20) as agent:
        await until(lambda: agent._router is not None and agent._router.waiting == 40)
        assert (await decide(a, "b", paused, all_of(paused, "yes"))).content == "x: ['yes']"
        heard = (await a.ask("b", "all?", conversation="c", timeout=10)).content
        assert heard == "heard " + ", ".join(["delete x", *(f"note-{n}" for n in range(40)), "all?"])
        await until(lambda: not agent._mail._kept)
    async with restarted(local, tmp_path, desk.graph) as agent:
        heard = (await a.ask("b", "again?", conversation="c", timeout=10)).content
        assert heard.count("note-0,") == 1, "what had its turn is forgotten"


async def test_held_mail_that_had_its_turn_before_a_crash_is_not_given_again(local: LocalMesh, tmp_path: Path) -> None:
    """The turn is on disk, the mark that it was is not yet: the thread knows the message."""
    a, desk = await local.join("a"), Desk()
    async with restarted(local, tmp_path, desk.graph) as agent:
        await (await a.send("b", "note", conversation="c", message_id="n1")).delivered()
        assert (await a.ask("b", "hi", conversation="c", timeout=10)).content == "heard note, hi"
        await agent._mail.keep([Incoming("a", "note", "c", "n1", expects_reply=False)])
    async with restarted(local, tmp_path, desk.graph) as agent:
        await until(lambda: not agent._mail._kept)
        assert (await a.ask("b", "ho", conversation="c", timeout=10)).content == "heard note, hi, ho"


async def test_a_repeated_decision_does_not_answer_the_next_question(local: LocalMesh, tmp_path: Path) -> None:
    """The tool asks twice. The first yes, sent again after a restart, must not be taken for the second."""
    a, desk = await local.join("a"), Desk()
    async with restarted(local, tmp_path, desk.graph):
        paused = await a.ask("b", "delete p q", conversation="c", timeout=10)
        first = all_of(paused, "yes")
        second = await decide(a, "b", paused, first, message_id="r1")
    async with restarted(local, tmp_path, desk.graph):
        repeated = await decide(a, "b", paused, first, message_id="r1")
        assert repeated.interrupts == second.interrupts
        assert desk.done == []
        assert (await decide(a, "b", paused, all_of(second, "no"))).content == "p q: ['yes', 'no']"
    assert desk.done == ["p q"]


async def test_where_this_side_decides_a_repeated_request_waits_again(local: LocalMesh, tmp_path: Path) -> None:
    a, desk = await local.join("a"), Desk()
    async with restarted(local, tmp_path, desk.graph, policy=LOCAL) as agent:
        asked = asyncio.create_task(a.ask("b", "delete x", conversation="c", message_id="m1", timeout=10))
        await until(agent.paused)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    async with restarted(local, tmp_path, desk.graph, policy=LOCAL) as agent:
        asked = asyncio.create_task(a.ask("b", "delete x", conversation="c", message_id="m1", timeout=10))
        await until(lambda: any(p.waiting for p in agent.paused()))
        assert await agent.resume("a", "c", {agent.paused()[0].interrupts[0].id: "yes"}) == "x: ['yes']"
        assert (await asked).content == "x: ['yes']"
    assert desk.done == ["x"]


async def test_without_a_state_dir_the_checkpointer_is_enough_to_go_on(local: LocalMesh, tmp_path: Path) -> None:
    a, desk = await local.join("a"), Desk()
    async with restarted(local, tmp_path, desk.graph, state=False):
        await a.ask("b", "delete x", conversation="c", message_id="m1", timeout=10)
    async with restarted(local, tmp_path, desk.graph, state=False) as agent:
        assert agent.paused() == [], "the list is not kept; the pause itself is"
        again = await a.ask("b", "delete x", conversation="c", message_id="m1", timeout=10)
        assert len(agent.paused()) == 1
        assert await agent.resume("a", "c", all_of(again, "yes")) == "x: ['yes']"


async def test_a_turn_that_was_cut_off_is_reported_and_never_run_again(local: LocalMesh, tmp_path: Path) -> None:
    """Whether its tool had an effect is unknown, so neither "done" nor "not done" would be true."""
    runs: list[str] = []
    histories: list[list[str]] = []
    running = asyncio.Event()

    @tool
    async def press(what: str) -> str:
        """Press a button."""
        runs.append(what)
        running.set()
        await asyncio.sleep(60)
        return "never"

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> AIMessage | str:
        histories.append([m.type for m in messages])
        if isinstance(messages[-1], HumanMessage) and said(messages[-1]) == "press":
            return AIMessage("", tool_calls=[{"name": "press", "args": {"what": "x"}, "id": "c1", "type": "tool_call"}])
        return f"last: {messages[-1].text.splitlines()[-2 if messages[-1].type == 'human' else 0]}"

    def make(saver: Any) -> Any:
        return agents.create_agent(ScriptedChat(rule=rule), [press], checkpointer=saver)

    a = await local.join("a")
    async with restarted(local, tmp_path, make):
        cut = asyncio.create_task(a.ask("b", "press", conversation="c", message_id="m1", timeout=20))
        await asyncio.wait_for(running.wait(), 10)
    await asyncio.gather(cut, return_exceptions=True)
    async with restarted(local, tmp_path, make):
        with pytest.raises(MeshError, match="in the middle of this request") as caught:
            await a.ask("b", "press", conversation="c", message_id="m1", timeout=10)
        assert caught.value.executed == "unknown"
        assert (await a.ask("b", "hi", conversation="c", timeout=10)).content == "last: hi"
    assert runs == ["x"]
    assert histories[-1] == ["human", "ai", "tool", "human"], "the call that was cut off has an error result"


@pytest.mark.parametrize("kind", ["loop", "model", "graph without checkpointer"])
async def test_conversations_go_on_in_the_state_dir(local: LocalMesh, tmp_path: Path, kind: str) -> None:
    calls: list[int] = []

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        calls.append(1)
        return ", ".join(said(m) for m in messages if isinstance(m, HumanMessage))

    def make(saver: Any) -> Any:
        model = ScriptedChat(rule=rule)
        if kind == "graph without checkpointer":
            return agents.create_agent(model, [])
        if kind == "loop":
            from chatixia_langchain.agent.sqlite_store import SQLiteStore

            return ChatLoop(model, store=SQLiteStore(tmp_path / "own.sqlite"))
        return model

    a = await local.join("a")
    async with restarted(local, tmp_path, make):
        assert (await a.ask("b", "one", conversation="c", message_id="m1", timeout=10)).content == "one"
    async with restarted(local, tmp_path, make):
        assert (await a.ask("b", "one", conversation="c", message_id="m1", timeout=10)).content == "one"
        assert len(calls) == 1, "known from its history, and not run again"
        assert (await a.ask("b", "two", conversation="c", timeout=10)).content == "one, two"


async def test_the_message_id_survives_in_the_checkpoint(tmp_path: Path) -> None:
    """All of the above rests on it."""
    path = str(tmp_path / "graph.sqlite")
    config: Any = {"configurable": {"thread_id": "t"}}
    for n in range(2):
        async with sqlite.AsyncSqliteSaver.from_conn_string(path) as saver:
            graph = agents.create_agent(ScriptedChat(rule=lambda m, t: "ok"), [], checkpointer=saver)
            if n == 0:
                incoming = Incoming("a", "hi", "c", "m1", expects_reply=True)
                await graph.ainvoke({"messages": [human(incoming)]}, config)
            state = await graph.aget_state(config)
            assert [message_id(m) for m in state.values["messages"]] == ["m1", ""]


async def test_ids_of_peers_do_not_overwrite_history(local: LocalMesh, tmp_path: Path) -> None:
    """A peer that names its message as one of ours gets a new message, under an id that is made here."""
    a, seen = await local.join("a"), list[list[BaseMessage]]()

    def rule(messages: list[BaseMessage], _: tuple[str, ...]) -> str:
        seen.append(list(messages))
        return "ok"

    def make(saver: Any) -> Any:
        return agents.create_agent(ScriptedChat(rule=rule), [], checkpointer=saver)

    async with restarted(local, tmp_path, make):
        await a.ask("b", "one", conversation="c", timeout=10)
        forged = str(seen[-1][0].id)
        assert forged
        await a.ask("b", "two", conversation="c", message_id=forged, timeout=10)
    assert [said(m) for m in seen[-1] if isinstance(m, HumanMessage)] == ["one", "two"]


def test_tool_messages_are_no_answer() -> None:
    from chatixia_langchain.agent.history import History

    asked = human(Incoming("a", "hi", "c", "m1", expects_reply=True))
    call = AIMessage("", tool_calls=[{"name": "x", "args": {}, "id": "1", "type": "tool_call"}])
    result = ToolMessage("y", tool_call_id="1")
    for messages in ([asked], [asked, call], [asked, call, result]):
        assert History(messages).ids() == {"m1"}
        assert History(messages).answer("m1") is None
    done = [asked, call, result, AIMessage("done")]
    later = human(Incoming("a", "ho", "c", "m2", expects_reply=True))
    assert History(done).answer("m1") == "done"
    assert History(done, unfinished=True).answer("m1") is None
    assert History([*done, later], unfinished=True).answer("m1") == "done"
    assert History(done).answer("m9") is None
