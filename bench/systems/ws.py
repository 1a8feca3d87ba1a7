"""websockets client <-> server, text-free binary frames, compression off."""

import asyncio

from .base import HOST, PipeClient, ServerRole, System


class WebSockets(System):
    name = "websockets"
    note = "compression off (the default permessage-deflate is slower on loopback)"

    class Server(ServerRole):
        async def start(self):
            from websockets.asyncio.server import serve

            async def on_conn(ws):
                async for data in ws:
                    reply = self.handle(data)
                    if reply is not None:
                        await ws.send(reply)

            self.server = await serve(on_conn, HOST, self.ctx.ports[0], compression=None)

        async def stop(self):
            self.server.close()

    class Client(PipeClient):
        async def start(self):
            from websockets.asyncio.client import connect

            self.ws = await connect(f"ws://{HOST}:{self.ctx.ports[0]}", compression=None, proxy=None)
            self.task = asyncio.create_task(self.read())

        async def read(self):
            async for data in self.ws:
                self.replies.feed(data)

        async def send(self, data):
            await self.ws.send(data)

        async def stop(self):
            await self.ws.close()
