"""grpcio asyncio: unary calls, and one bidirectional stream (AutoGen's runtime style)."""

import asyncio

from .base import HOST, ClientRole, PipeClient, ServerRole, System

OPTIONS = [("grpc.max_receive_message_length", 1 << 22)]


class Server(ServerRole):
    async def start(self):
        import grpc

        async def unary(data, context):
            return self.handle(data)

        async def stream(it, context):
            async for data in it:
                reply = self.handle(data)
                if reply is not None:
                    yield reply

        self.server = grpc.aio.server(options=OPTIONS)
        self.server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "bench.Agent",
                    {
                        "Unary": grpc.unary_unary_rpc_method_handler(unary),
                        "Stream": grpc.stream_stream_rpc_method_handler(stream),
                    },
                )
            ]
        )
        self.server.add_insecure_port(f"{HOST}:{self.ctx.ports[0]}")
        await self.server.start()


def channel(ctx):
    import grpc

    return grpc.aio.insecure_channel(f"{HOST}:{ctx.ports[0]}", options=OPTIONS)


class GrpcUnary(System):
    name = "grpc-unary"
    note = "grpc.aio unary calls, bytes payload; one call per message"
    one_way = False
    Server = Server

    class Client(ClientRole):
        async def start(self):
            self.channel = channel(self.ctx)
            self.call = self.channel.unary_unary("/bench.Agent/Unary")

        async def request(self, data):
            return await self.call(data)


class GrpcStream(System):
    name = "grpc-stream"
    note = "one grpc.aio bidirectional stream, replies matched by id"
    Server = Server

    class Client(PipeClient):
        async def start(self):
            self.channel = channel(self.ctx)
            self.stream = self.channel.stream_stream("/bench.Agent/Stream")()
            self.lock = asyncio.Lock()  # one write at a time per call
            self.task = asyncio.create_task(self.read())

        async def read(self):
            async for data in self.stream:
                self.replies.feed(data)

        async def send(self, data):
            async with self.lock:
                await self.stream.write(data)
