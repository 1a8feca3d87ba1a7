"""The same agents behind the official A2A SDK: JSON-RPC over HTTP, streaming by server-sent events."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from agents import specialist
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from side import Side, http_server, text_of, thread_of, tool


def card(url: str, name: str):
    from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill

    return AgentCard(
        name=name,
        description=name,
        version="1",
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text"],
        default_output_modes=["text"],
        skills=[AgentSkill(id=name, name=name, description=name, tags=[name])],
        supported_interfaces=[AgentInterface(protocol_binding="JSONRPC", protocol_version="1.0", url=f"{url}/{name}")],
    )


def executors():
    """The two agents as the SDK's server wants them."""
    from a2a.server.agent_execution.agent_executor import AgentExecutor
    from a2a.server.tasks.task_updater import TaskUpdater
    from a2a.types import Message, Part, Role, Task, TaskState, TaskStatus

    graph = specialist()

    class Specialist(AgentExecutor):
        """A task whose artifact grows by each token when the client streams, else comes whole."""

        async def execute(self, context, event_queue):
            given = {"messages": [HumanMessage(context.get_user_input())]}
            config = {"configurable": {"thread_id": context.context_id}}
            state = TaskStatus(state=TaskState.TASK_STATE_WORKING)
            await event_queue.enqueue_event(Task(id=context.task_id, context_id=context.context_id, status=state))
            updater = TaskUpdater(event_queue, context.task_id, context.context_id)
            if context.message.metadata.fields["stream"].bool_value:
                began = False
                async for chunk, _ in graph.astream(given, config, stream_mode="messages"):
                    if text := text_of(chunk):
                        await updater.add_artifact([Part(text=text)], artifact_id="answer", append=began)
                        began = True
            else:
                out = await graph.ainvoke(given, config)
                await updater.add_artifact([Part(text=out["messages"][-1].text)], artifact_id="answer")
            await updater.complete()

        async def cancel(self, context, event_queue):
            raise NotImplementedError

    class Echo(AgentExecutor):
        """Answers with a message, the SDK's shortest way."""

        async def execute(self, context, event_queue):
            said = [Part(text=context.get_user_input())]
            answer = Message(message_id=uuid4().hex, role=Role.ROLE_AGENT, context_id=context.context_id, parts=said)
            await event_queue.enqueue_event(answer)

        async def cancel(self, context, event_queue):
            raise NotImplementedError

    return {"specialist": Specialist(), "echo": Echo()}


def app(url: str):
    from a2a.server.request_handlers import DefaultRequestHandler
    from a2a.server.routes import create_jsonrpc_routes
    from a2a.server.tasks.inmemory_task_store import InMemoryTaskStore
    from starlette.applications import Starlette

    routes = []
    for name, executor in executors().items():
        store = InMemoryTaskStore()
        handler = DefaultRequestHandler(agent_executor=executor, task_store=store, agent_card=card(url, name))
        routes += create_jsonrpc_routes(request_handler=handler, rpc_url=f"/{name}")
    return Starlette(routes=routes)


class A2A(Side):
    name = "a2a-http"
    note = "official a2a-sdk 1.x client and server, JSON-RPC and SSE over uvicorn and httpx with kept connections"
    needs = ("a2a", "sse_starlette")

    async def serve(self, given):
        return {"url": await http_server(app)}

    async def connect(self, told):
        import httpx
        from a2a.client import ClientConfig, create_client

        self.clients = {}
        for name in ("specialist", "echo"):
            for streaming in (True, False):
                http = httpx.AsyncClient(timeout=60, trust_env=False)
                config = ClientConfig(streaming=streaming, httpx_client=http)
                self.clients[name, streaming] = await create_client(card(told["url"], name), client_config=config)

        async def ask(message: str, config: RunnableConfig) -> str:
            return await self.ask(message, thread_of(config))

        async def echo(message: str) -> str:
            async for event in self.clients["echo", False].send_message(self.request(message, "", False)):
                return event.message.parts[0].text
            raise RuntimeError("no answer")

        self.specialist, self.echo = tool("specialist", ask), tool("echo", echo)

    @staticmethod
    def request(prompt: str, thread: str, streaming: bool):
        from a2a.types import Message, Part, Role, SendMessageRequest

        message = Message(role=Role.ROLE_USER, message_id=uuid4().hex, context_id=thread, parts=[Part(text=prompt)])
        message.metadata["stream"] = streaming
        return SendMessageRequest(message=message)

    async def ask(self, prompt, thread):
        said = ""
        async for event in self.clients["specialist", False].send_message(self.request(prompt, thread, False)):
            for artifact in event.task.artifacts:
                said += "".join(part.text for part in artifact.parts)
        return said

    async def stream(self, prompt, thread):
        async for event in self.clients["specialist", True].send_message(self.request(prompt, thread, True)):
            if event.HasField("artifact_update"):
                for part in event.artifact_update.artifact.parts:
                    yield part.text
        await asyncio.sleep(0)
