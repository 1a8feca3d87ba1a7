"""The baseline: the same graph, called in this process."""

from __future__ import annotations

from agents import specialist
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from side import Side, text_of, thread_of, tool


class InProcess(Side):
    name = "in-process"
    note = "no mesh: the specialist is a local graph, the echo a local tool"
    alone = True

    async def connect(self, told):
        self.graph = specialist()

        async def ask(message: str, config: RunnableConfig) -> str:
            return await self.ask(message, thread_of(config))

        async def echo(message: str) -> str:
            return message

        self.specialist, self.echo = tool("specialist", ask), tool("echo", echo)

    async def ask(self, prompt, thread):
        given = {"messages": [HumanMessage(prompt)]}
        out = await self.graph.ainvoke(given, {"configurable": {"thread_id": thread}})
        return out["messages"][-1].text

    async def stream(self, prompt, thread):
        given = {"messages": [HumanMessage(prompt)]}
        config = {"configurable": {"thread_id": thread}}
        async for chunk, _ in self.graph.astream(given, config, stream_mode="messages"):
            yield text_of(chunk)
