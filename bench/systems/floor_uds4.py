"""Floor of the sidecar shape: A -> UDS -> relay -> UDP -> relay -> UDS -> B, relays in C."""

import asyncio
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from .base import LinePipe, PipeClient, ServerRole, System

SOURCE = Path(__file__).with_name("relay.c")


def relay_binary() -> str:
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    binary = Path(tempfile.gettempdir()) / f"bench-relay-{os.getuid()}-{digest}"
    if not binary.exists():
        subprocess.run(["gcc", "-O2", "-o", f"{binary}.new", str(SOURCE)], check=True)
        os.replace(f"{binary}.new", binary)
    return str(binary)


class FloorUds4(System):
    name = "floor-uds4"
    note = "sidecar-shaped chain, two C relays, UDP loopback, no crypto"

    @classmethod
    async def start_helpers(cls, ctx):
        binary, (pa, pb) = relay_binary(), ctx.ports[:2]
        return [
            await ctx.spawn([binary, ctx.path("ra.sock"), str(pa), str(pb)], wait_path=ctx.path("ra.sock")),
            await ctx.spawn([binary, ctx.path("rb.sock"), str(pb), str(pa)], wait_path=ctx.path("rb.sock")),
        ]

    class Server(ServerRole):
        async def start(self):
            def on_line(line):
                reply = self.handle(line)
                if reply is not None:
                    self.pipe.write(reply)

            _, self.pipe = await asyncio.get_running_loop().create_unix_connection(
                lambda: LinePipe(on_line), self.ctx.path("rb.sock")
            )

        async def stop(self):
            self.pipe.transport.close()

    class Client(PipeClient):
        async def start(self):
            _, self.pipe = await asyncio.get_running_loop().create_unix_connection(
                lambda: LinePipe(self.replies.feed), self.ctx.path("ra.sock")
            )

        async def stop(self):
            self.pipe.transport.close()
