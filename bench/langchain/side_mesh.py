"""This project: `MeshTool` and `RemoteAgent` on one side, `MeshAgent` on the other."""

from __future__ import annotations

import asyncio

from agents import specialist
from side import Side

from chatixia_langchain import InboundPolicy, LocalMesh, Mesh, MeshAgent, MeshTool, RemoteAgent

SERVED = ("specialist", "echo")
# No agent lets a peer start this many turns by default; everything else of the policy stands.
POLICY = InboundPolicy(max_turns_per_minute=1_000_000)


async def echo(incoming) -> str:
    """An agent without a model."""
    return incoming.content


class MeshSide(Side):
    """Common to all transports. The two served agents are two members of the mesh."""

    transport = ""
    mesh = True

    async def join(self, role, given) -> Mesh:
        name = given["names"][role]
        mesh = Mesh(name, registry=given["registry"], api_key=given["keys"][role], transport=self.transport)
        return await mesh.start()

    async def serve(self, given):
        self.run_agents({role: await self.join(role, given) for role in SERVED})
        return {}

    def run_agents(self, members: dict[str, Mesh]):
        agents = {"specialist": specialist(), "echo": echo}
        self.tasks = [
            asyncio.create_task(MeshAgent(members[role], agent, policy=POLICY).serve(), name=f"serve-{role}")
            for role, agent in agents.items()
        ]

    async def connect(self, told):
        await self.use(await self.join("client", told), told["names"])

    async def use(self, mesh: Mesh, names: dict[str, str]):
        for role in SERVED:
            await mesh.wait_for_peer(names[role])
        self.specialist = MeshTool(mesh, peer=names["specialist"], name="specialist")
        self.echo = MeshTool(mesh, peer=names["echo"], name="echo")
        self.remote = RemoteAgent(mesh, names["specialist"])

    async def ask(self, prompt, thread):
        return (await self.remote.ainvoke(prompt, {"configurable": {"thread_id": thread}})).text

    async def stream(self, prompt, thread):
        async for chunk in self.remote.astream(prompt, {"configurable": {"thread_id": thread}}):
            yield chunk.text


class MeshSidecar(MeshSide):
    name = "mesh-sidecar"
    note = "this project: WebRTC by a sidecar for each agent, two Python processes"
    transport = "sidecar"


class MeshAiortc(MeshSide):
    name = "mesh-aiortc"
    note = "this project: WebRTC inside the Python processes"
    needs = ("aiortc",)
    transport = "aiortc"


class MeshMemory(MeshSide):
    name = "mesh-memory"
    note = "this project: all members in one process, no network"
    alone = True
    mesh = False

    async def connect(self, told):
        self.local = await LocalMesh(transport="memory").start()
        self.run_agents({role: await self.local.join(role) for role in SERVED})
        await self.use(await self.local.join("client"), {role: role for role in SERVED})
