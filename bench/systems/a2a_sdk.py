"""a2a-sdk: the reference A2A client and server with a minimal echo agent."""

from .base import HOST, ClientRole, ServerRole, System
from .http_httpx import UvicornRole, httpx_client


def card(url: str, binding: str):
    from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill

    return AgentCard(
        name="echo",
        description="echo",
        version="1",
        capabilities=AgentCapabilities(streaming=False),
        default_input_modes=["text"],
        default_output_modes=["text"],
        skills=[AgentSkill(id="echo", name="echo", description="echo", tags=["echo"])],
        supported_interfaces=[AgentInterface(protocol_binding=binding, protocol_version="1.0", url=url)],
    )


def request_handler(handle, agent_card):
    from a2a.server.agent_execution.agent_executor import AgentExecutor
    from a2a.server.request_handlers import DefaultRequestHandler
    from a2a.server.tasks.inmemory_task_store import InMemoryTaskStore
    from a2a.types import Message, Part, Role

    class Echo(AgentExecutor):
        async def execute(self, context, event_queue):
            reply = handle(context.get_user_input())
            await event_queue.enqueue_event(
                Message(
                    message_id=context.message.message_id,
                    role=Role.ROLE_AGENT,
                    context_id=context.context_id,
                    parts=[Part(text=reply.decode())],
                )
            )

        async def cancel(self, context, event_queue):
            pass

    return DefaultRequestHandler(agent_executor=Echo(), task_store=InMemoryTaskStore(), agent_card=agent_card)


class Client(ClientRole):
    async def connect(self, agent_card, **how):
        from a2a.client import ClientConfig, create_client

        self.client = await create_client(agent_card, client_config=ClientConfig(streaming=False, **how))

    async def request(self, data):
        from uuid import uuid4

        from a2a.types import Message, Part, Role, SendMessageRequest

        message = Message(role=Role.ROLE_USER, message_id=uuid4().hex, parts=[Part(text=data.decode())])
        async for event in self.client.send_message(SendMessageRequest(message=message)):
            return event.message.parts[0].text.encode()

    async def stop(self):
        await self.client.close()


class A2AJsonRpc(System):
    name = "a2a-jsonrpc"
    note = "message/send answered with a Message (no task), uvicorn + httpx"
    one_way = False

    class Server(UvicornRole):
        def app(self):
            from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
            from starlette.applications import Starlette

            me = card(f"http://{HOST}:{self.ctx.ports[0]}/a2a", "JSONRPC")
            return Starlette(
                routes=[
                    *create_agent_card_routes(agent_card=me),
                    *create_jsonrpc_routes(request_handler=request_handler(self.handle, me), rpc_url="/a2a"),
                ]
            )

    class Client(Client):
        pool = 64

        async def start(self):
            from a2a.client import A2ACardResolver

            http = httpx_client(self.pool)
            found = await A2ACardResolver(http, f"http://{HOST}:{self.ctx.ports[0]}").get_agent_card()
            await self.connect(found, httpx_client=http)


class A2AJsonRpcPool8(A2AJsonRpc):
    name = "a2a-jsonrpc-pool8"
    note = "same with 8 connections (see http-pool8)"
    window = 8

    class Client(A2AJsonRpc.Client):
        pool = 8


class A2AGrpc(System):
    name = "a2a-grpc"
    note = "the SDK's gRPC transport, card known beforehand"
    one_way = False

    class Server(ServerRole):
        async def start(self):
            import grpc
            from a2a.server.request_handlers import GrpcHandler
            from a2a.types import a2a_pb2_grpc

            where = f"{HOST}:{self.ctx.ports[0]}"
            self.server = grpc.aio.server()
            a2a_pb2_grpc.add_A2AServiceServicer_to_server(
                GrpcHandler(request_handler(self.handle, card(where, "GRPC"))), self.server
            )
            self.server.add_insecure_port(where)
            await self.server.start()

    class Client(Client):
        async def start(self):
            import grpc

            await self.connect(
                card(f"{HOST}:{self.ctx.ports[0]}", "GRPC"),
                supported_protocol_bindings=["GRPC"],
                grpc_channel_factory=grpc.aio.insecure_channel,
            )
