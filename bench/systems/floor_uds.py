"""Floor: JSON lines over one raw Unix stream socket, A <-> B, no middle process."""

import asyncio

from .base import LinePipe, PipeClient, ServerRole, System


class FloorUds(System):
    name = "floor-uds"
    note = "raw asyncio Unix socket, 1 hop"

    class Server(ServerRole):
        async def start(self):
            def make():
                def on_line(line):
                    reply = self.handle(line)
                    if reply is not None:
                        pipe.write(reply)

                pipe = LinePipe(on_line)
                return pipe

            loop = asyncio.get_running_loop()
            self.server = await loop.create_unix_server(make, self.ctx.path("b.sock"))

        async def stop(self):
            self.server.close()

    class Client(PipeClient):
        async def start(self):
            _, self.pipe = await asyncio.get_running_loop().create_unix_connection(
                lambda: LinePipe(self.replies.feed), self.ctx.path("b.sock")
            )

        async def stop(self):
            self.pipe.transport.close()
