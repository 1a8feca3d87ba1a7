"""This project as its users meet it: `Mesh.ask` for a request, `Mesh.send` for one way.

Each agent process makes a `Mesh` on the run's registry. With `sidecar` the mesh spawns its own sidecar process, which
counts among the helpers; with `aiortc` WebRTC runs inside the agent process.
"""

from __future__ import annotations

import asyncio

from .base import ClientRole, ServerRole, System
from .project import KEYS, registry_url, sidecar_binary, start_registry

TIMEOUT_S = 30.0


async def join(ctx, name: str, transport: str):
    """A started `Mesh` of this name."""
    from chatixia_langchain import Mesh

    more = {"sidecar_binary": sidecar_binary()} if transport == "sidecar" else {}
    mesh = Mesh(name, registry=registry_url(ctx), api_key=KEYS[name], transport=transport, **more)
    return await mesh.start()


class MeshSystem(System):
    """Common to both transports."""

    transport = ""

    @classmethod
    async def start_helpers(cls, ctx):
        return [await start_registry(ctx)]

    class Server(ServerRole):
        transport = ""

        async def start(self):
            self.mesh = await join(self.ctx, "beta", self.transport)
            self.task = asyncio.create_task(self.serve(), name="serve")

        async def serve(self):
            async for incoming in self.mesh.incoming():
                reply = self.handle(incoming.content)
                if reply is not None:
                    await incoming.reply(reply.decode())

    class Client(ClientRole):
        transport = ""

        async def start(self):
            self.mesh = await join(self.ctx, "alpha", self.transport)
            await self.mesh.wait_for_peer("beta")

        async def request(self, data):
            return (await self.mesh.ask("beta", data.decode(), timeout=TIMEOUT_S)).content

        async def send(self, data):
            await self.mesh.send("beta", data.decode())


def of_transport(transport: str, name: str, note: str) -> type[MeshSystem]:
    """The system for one transport."""
    return type(
        name,
        (MeshSystem,),
        {
            "name": name,
            "note": note,
            "Server": type("Server", (MeshSystem.Server,), {"transport": transport}),
            "Client": type("Client", (MeshSystem.Client,), {"transport": transport}),
        },
    )


MeshSidecar = of_transport("sidecar", "mesh-sidecar", "Mesh over its sidecar process (WebRTC), fast delivery")
MeshAiortc = of_transport("aiortc", "mesh-aiortc", "Mesh over aiortc in the agent process (WebRTC), fast delivery")
