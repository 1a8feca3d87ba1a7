"""Any pair of sidecars that speak the seed's IPC, below the Python library: what the sidecars alone cost.

Plain seed protocol: no ids, no hello, back-pressure only by the socket. Which programs run: see project.py.
"""

from __future__ import annotations

import asyncio

import orjson

from .base import LinePipe, PipeClient, ServerRole, System
from .project import start_registry, start_sidecar


def wrap(data: bytes, me: str, to: str) -> bytes:
    return (
        b'{"type":"send","payload":{"target_peer":"'
        + to.encode()
        + b'","message":{"type":"agent_prompt","request_id":"",'
        b'"source_agent":"' + me.encode() + b'","target_agent":"' + to.encode() + b'","payload":' + bytes(data) + b"}}}"
    )


def unwrap(line: bytes) -> bytes | None:
    event = orjson.loads(line)
    return orjson.dumps(event["payload"]["message"]["payload"]) if event["type"] == "message" else None


class SidecarIpc(System):
    name = "sidecar-ipc"
    note = "two sidecars over WebRTC, driven by raw IPC lines"

    @classmethod
    async def start_helpers(cls, ctx):
        procs = [await start_registry(ctx)]
        for name in ("alpha", "beta"):
            procs.append(await start_sidecar(ctx, name))
            await asyncio.sleep(0.5)  # an old sidecar offers to those it finds online: let the first register
        return procs

    class Server(ServerRole):
        async def start(self):
            def on_line(line):
                data = unwrap(line)
                if data is not None and (reply := self.handle(data)) is not None:
                    self.pipe.write(wrap(reply, "beta", "alpha"))

            _, self.pipe = await asyncio.get_running_loop().create_unix_connection(
                lambda: LinePipe(on_line), self.ctx.path("beta.sock")
            )

        async def stop(self):
            self.pipe.transport.close()

    class Client(PipeClient):
        async def start(self):
            ready = asyncio.Event()

            def on_line(line):
                if b'"peer_connected"' in line[:40] or (b'"peer_list"' in line[:80] and b'"beta"' in line):
                    ready.set()
                data = unwrap(line)
                if data is not None:
                    self.replies.feed(data)

            _, self.pipe = await asyncio.get_running_loop().create_unix_connection(
                lambda: LinePipe(on_line), self.ctx.path("alpha.sock")
            )
            while not ready.is_set():
                self.pipe.write(b'{"type":"list_peers","payload":{}}')
                try:
                    await asyncio.wait_for(ready.wait(), 0.05)
                except TimeoutError:
                    pass

        async def send(self, data):
            self.pipe.write(wrap(data, "alpha", "beta"))
            await self.pipe.drain()

        async def stop(self):
            self.pipe.transport.close()
