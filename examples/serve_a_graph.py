"""An existing LangGraph graph on the mesh: served as it is, its checkpointer keeps each peer's conversation.

    python examples/serve_a_graph.py

Needs the extras registry and agents. The graph knows nothing of the mesh: it takes and returns `messages`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from model import chat_model, says

from chatixia_langchain import LocalMesh, MeshAgent

draft_model = chat_model(says("gulls nest on roofs because roofs are safe"))


class State(MessagesState):
    """What the graph keeps of a conversation."""

    drafts: int


async def draft(state: State) -> dict[str, Any]:
    """Let the model write."""
    return {"messages": [await draft_model.ainvoke(state["messages"])], "drafts": state.get("drafts", 0) + 1}


def polish(state: State) -> dict[str, Any]:
    """Finish by code."""
    text = state["messages"][-1].text.strip().rstrip(".")
    return {"messages": [AIMessage(f"{text[:1].upper()}{text[1:]}. (draft {state['drafts']})")]}


graph = (
    StateGraph(State)
    .add_node("draft", draft)
    .add_node("polish", polish)
    .add_edge(START, "draft")
    .add_edge("draft", "polish")
    .add_edge("polish", END)
    .compile(checkpointer=InMemorySaver())
)


async def main() -> None:
    """Serve the graph; ask it from another agent, twice in one conversation and once in another."""
    async with LocalMesh() as local:
        writer = await local.join("writer", description="writes one sentence")
        reader = await local.join("reader")
        served = MeshAgent(writer, graph)
        serving = asyncio.create_task(served.serve())
        await reader.wait_for_peer("writer")

        for conversation in ("birds", "birds", "towns"):
            reply = await reader.ask("writer", "Why do gulls nest on roofs?", conversation=conversation)
            print(f"{conversation}: {reply.content}")
        state = await graph.aget_state({"configurable": {"thread_id": served.thread_id("reader", "birds")}})
        print(f"the graph keeps {len(state.values['messages'])} messages of the conversation about birds")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())
