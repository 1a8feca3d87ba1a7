"""`RemoteGraph` on a real LangGraph Server: `langgraph-api` with its in-memory runtime, as `langgraph dev` runs it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from side import HOST, Side, text_of, thread_of, tool

HERE = Path(__file__).resolve().parent
GRAPHS = {"specialist": f"{HERE}/agents.py:served_specialist", "echo": f"{HERE}/agents.py:echo_graph"}
QUIET = {"LOG_LEVEL": "ERROR", "LANGSMITH_TRACING": "false", "LANGGRAPH_NO_VERSION_CHECK": "true"}
PYTHONPATH = [path for path in [os.environ.get("PYTHONPATH", "")] if path]


def free_port() -> int:
    """A port that was free a moment ago: the server does not take a socket."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return found.getsockname()[1]


class LangGraphServer(Side):
    name = "langgraph-server"
    note = "RemoteGraph, langgraph-api in-memory runtime as shipped: its queue is polled every 0.5 s"
    needs = ("langgraph_api", "langgraph_runtime_inmem")
    poll_s = 0.5
    process = None

    async def serve(self, given):
        port, folder = free_port(), tempfile.mkdtemp(prefix="bench-langgraph-", dir=given["folder"])
        command = [sys.executable, str(HERE / "langgraph_server.py"), str(port), str(self.poll_s), json.dumps(GRAPHS)]
        env = {**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join([str(HERE), *PYTHONPATH])}
        self.process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=env, stdout=sys.stderr)
        url = f"http://{HOST}:{port}"
        import httpx

        async with httpx.AsyncClient(trust_env=False) as http:
            for _ in range(600):
                try:
                    if (await http.get(f"{url}/ok")).status_code == 200:
                        return {"url": url}
                except httpx.TransportError:
                    pass
                if self.process.returncode is not None:
                    raise RuntimeError(f"the LangGraph server exited with {self.process.returncode}")
                await asyncio.sleep(0.05)
        raise TimeoutError("the LangGraph server did not come up")

    async def stop(self):
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    async def connect(self, told):
        from langgraph.pregel.remote import RemoteGraph

        self.graph = RemoteGraph("specialist", url=told["url"])
        self.echo_graph = RemoteGraph("echo", url=told["url"])
        self.threads: dict[str, str] = {}

        async def ask(message: str, config: RunnableConfig) -> str:
            return await self.ask(message, thread_of(config))

        async def echo(message: str) -> str:
            out = await self.echo_graph.ainvoke({"messages": [HumanMessage(message)]})
            return out["messages"][-1]["content"]

        self.specialist, self.echo = tool("specialist", ask), tool("echo", echo)

    async def at(self, thread: str) -> RunnableConfig:
        """The server's thread for one of ours; it has to exist before a run."""
        if thread not in self.threads:
            made = await self.graph._validate_client().threads.create()
            self.threads[thread] = made["thread_id"]
        return {"configurable": {"thread_id": self.threads[thread]}}

    async def ask(self, prompt, thread):
        out = await self.graph.ainvoke({"messages": [HumanMessage(prompt)]}, await self.at(thread))
        return out["messages"][-1]["content"]

    async def stream(self, prompt, thread):
        given = {"messages": [HumanMessage(prompt)]}
        async for chunk, _ in self.graph.astream(given, await self.at(thread), stream_mode="messages"):
            yield text_of(chunk)


class LangGraphServerEager(LangGraphServer):
    name = "langgraph-eager"
    note = "the same with its queue polled every 1 ms: what is left when nothing waits in the queue"
    poll_s = 0.001
