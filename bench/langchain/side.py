"""What each system implements, and what their drivers share.

Three processes: the orchestrator, a server that runs the agents, a client that calls them. `serve` runs in the server
and returns what the client must know; `connect` runs in the client with it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool

HOST = "127.0.0.1"


class Side:
    """One way to reach the specialist. A tool or method that a system has not is None, and is not measured."""

    name = ""
    note = ""
    needs: tuple[str, ...] = ()  # modules that have to be installed
    alone = False  # True: the agents run in the client's process
    mesh = False  # True: wants a registry

    specialist: BaseTool  # the specialist as a tool: `message` -> its words
    echo: BaseTool  # a tool without a model behind it: `message` -> the same
    streams = True

    async def serve(self, given: dict[str, Any]) -> dict[str, Any]:
        """Start the agents; reachable when this returns."""
        return {}

    async def connect(self, told: dict[str, Any]) -> None:
        """Set `specialist` and `echo`; ready for `ask` and `stream` when this returns."""
        raise NotImplementedError

    async def ask(self, prompt: str, thread: str) -> str:
        """One turn of a conversation."""
        raise NotImplementedError

    def stream(self, prompt: str, thread: str) -> AsyncIterator[str]:
        """The words of one turn as they come."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End what `serve` started outside of its process."""

    def missing(self) -> list[str]:
        """Modules it needs that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]


def tool(name: str, function: Any) -> BaseTool:
    """A LangChain tool around `async function(message, config)`."""
    return StructuredTool.from_function(coroutine=function, name=name, description=name)


def thread_of(config: RunnableConfig) -> str:
    """The conversation that a tool call belongs to."""
    return str(config["configurable"]["thread_id"])


def text_of(chunk: Any) -> str:
    """The text of a chunk of `stream_mode="messages"`, which the SDKs give as an object or as its dict."""
    if isinstance(chunk, BaseMessage):
        return chunk.text
    return chunk["content"] if isinstance(chunk, dict) and isinstance(chunk.get("content"), str) else ""


async def http_server(make_app: Any) -> str:
    """Serve `make_app(base url)` on a free port with uvicorn, in this process; returns the base URL."""
    import uvicorn

    # asyncio sets TCP_NODELAY only on sockets that say they are TCP; without it each answer waits 40 ms.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind((HOST, 0))
    url = f"http://{HOST}:{bound.getsockname()[1]}"
    config = uvicorn.Config(make_app(url), log_level="warning", access_log=False, timeout_keep_alive=75, loop="none")
    server = uvicorn.Server(config)
    http_server.task = asyncio.create_task(server.serve([bound]))  # type: ignore[attr-defined]  # kept alive
    while not server.started:
        await asyncio.sleep(0.01)
    return url
