"""AGNTCY SLIM: apps A and B on a SLIM node (its own process), point-to-point session."""

import asyncio
import datetime
import sys

from .base import HOST, PipeClient, ServerRole, System

SECRET = "bench-shared-secret-of-enough-length-0123456789"
NODE = """
import asyncio, sys, slim_bindings as slim
async def main():
    slim.uniffi_set_event_loop(asyncio.get_running_loop())
    slim.initialize_with_defaults()
    await slim.get_global_service().run_server_async(slim.new_insecure_server_config(sys.argv[1]))
    await asyncio.Event().wait()
asyncio.run(main())
"""


def unix(ctx):
    return f"unix://{ctx.path('slim.sock')}"


def tcp(ctx):
    return f"http://{HOST}:{ctx.ports[0]}"


async def app(role, name):
    import slim_bindings as slim

    slim.uniffi_set_event_loop(asyncio.get_running_loop())
    slim.initialize_with_defaults()
    service = slim.get_global_service()
    conn = await service.connect_async(slim.new_insecure_client_config(role.endpoint(role.ctx)))
    me = slim.Name.from_string(name)
    out = service.create_app_with_secret(me, SECRET)
    await out.subscribe_async(me, conn)
    return slim, out, conn


class Server(ServerRole):
    endpoint = staticmethod(tcp)

    async def start(self):
        self.slim, self.app, _ = await app(self, "bench/agents/b")
        self.task = asyncio.create_task(self.serve())

    async def serve(self):
        session = await self.app.listen_for_session_async(None)
        while True:
            msg = await session.get_message_async(None)
            reply = self.handle(msg.payload)
            if reply is not None:
                await session.publish_async(reply, None, None)


class Slim(System):
    name = "slim"
    note = "node process + Rust data plane in each agent; p2p session, MLS off; Nagle is on"
    Server = Server

    @classmethod
    async def start_helpers(cls, ctx):
        port = ctx.ports[0]
        return [await ctx.spawn([sys.executable, "-c", NODE, f"{HOST}:{port}"], wait_port=port)]

    class Client(PipeClient):
        mls = False
        endpoint = staticmethod(tcp)

        async def start(self):
            slim, self.app, conn = await app(self, "bench/agents/a")
            there = slim.Name.from_string("bench/agents/b")
            await self.app.set_route_async(there, conn)
            made = await self.app.create_session_async(
                slim.SessionConfig(
                    session_type=slim.SessionType.POINT_TO_POINT,
                    max_retries=5,
                    interval=datetime.timedelta(seconds=5),
                    metadata={},
                    mls_settings=slim.MlsSettings(
                        header_integrity_validation_percent=100, max_seen_control_message_ids_size=None
                    )
                    if self.mls
                    else None,
                ),
                there,
            )
            await made.completion.wait_async()
            self.session, self.last = made.session, None
            self.window = []
            self.task = asyncio.create_task(self.read())

        async def read(self):
            while True:
                self.replies.feed((await self.session.get_message_async(None)).payload)

        async def request(self, data):
            fut = self.replies.expect(data)
            await self.session.publish_async(data, None, None)
            return await fut

        async def send(self, data):  # delivery handles give the backpressure
            self.window.append(await self.session.publish_async(data, None, None))
            if len(self.window) >= 512:
                await self.flush()

        async def flush(self):
            if self.window:
                held, self.window = self.window, []
                await held[-1].wait_async()


class SlimUds(Slim):
    name = "slim-uds"
    note = "same over a Unix socket to the node, which avoids Nagle + delayed ACK"

    @classmethod
    async def start_helpers(cls, ctx):
        return [await ctx.spawn([sys.executable, "-c", NODE, unix(ctx)], wait_path=ctx.path("slim.sock"))]

    class Server(Server):
        endpoint = staticmethod(unix)

    class Client(Slim.Client):
        endpoint = staticmethod(unix)


class SlimMls(Slim):
    name = "slim-mls"
    note = "same with MLS end-to-end encryption"

    class Client(Slim.Client):
        mls = True
