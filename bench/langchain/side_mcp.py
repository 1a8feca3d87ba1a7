"""The same agents as MCP tools over streamable HTTP: FastMCP on one side, langchain-mcp-adapters on the other."""

from __future__ import annotations

import asyncio

from agents import specialist
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from side import Side, http_server, thread_of, tool


def app(url: str):
    from mcp.server.fastmcp import FastMCP

    server, graph = FastMCP("bench", log_level="WARNING"), specialist()

    @server.tool(name="specialist")
    async def ask(message: str, thread: str) -> str:
        config = {"configurable": {"thread_id": thread}}
        out = await graph.ainvoke({"messages": [HumanMessage(message)]}, config)
        return out["messages"][-1].text

    @server.tool(name="echo")
    async def echo(message: str) -> str:
        return message

    return server.streamable_http_app()


class Mcp(Side):
    name = "mcp-http"
    note = "FastMCP over streamable HTTP, langchain-mcp-adapters with one kept session; tools only, no token streaming"
    needs = ("mcp", "langchain_mcp_adapters")
    streams = False

    async def serve(self, given):
        return {"url": await http_server(app)}

    async def connect(self, told):
        ready = asyncio.Event()
        self.task = asyncio.create_task(self.hold(f"{told['url']}/mcp", ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({self.task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            self.task.result()

    async def hold(self, url: str, ready: asyncio.Event) -> None:
        """Keep one session open: a new one for each call, the adapters' default, costs several requests more."""
        from langchain_mcp_adapters.tools import load_mcp_tools
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client

        async with streamable_http_client(url) as (reader, writer, _), ClientSession(reader, writer) as session:
            await session.initialize()
            tools = {t.name: t for t in await load_mcp_tools(session)}
            self.remote, self.echo = tools["specialist"], tools["echo"]
            self.specialist = self.at_thread()
            ready.set()
            await asyncio.Event().wait()

    def at_thread(self):
        """The remote tool with the conversation filled in, which a model would not know."""

        async def ask(message: str, config: RunnableConfig) -> str:
            return await self.ask(message, thread_of(config))

        return tool("specialist", ask)

    async def ask(self, prompt, thread):
        return (await self.remote.ainvoke({"message": prompt, "thread": thread}))[0]["text"]
