"""The interface every benchmarked system implements, and small shared helpers.

To add a system, put one file in this folder with a subclass of `System`:

    class MySystem(System):
        name = "my-system"

        @classmethod
        async def start_helpers(cls, ctx):      # runs in the orchestrator
            return [await ctx.spawn([...])]     # brokers / sidecars; [] if none

        class Server(ServerRole):               # runs in process B
            async def start(self): ...          # must be reachable when this returns
            async def stop(self): ...

        class Client(ClientRole):               # runs in process A
            async def start(self): ...          # connected when this returns
            async def request(self, data: bytes) -> bytes: ...
            async def send(self, data: bytes) -> None: ...   # one way, with backpressure
            async def flush(self): ...
            async def stop(self): ...

and name it in `REGISTRY` (systems/__init__.py). `ServerRole.handle(data)` is the agent's
handler: feed it every inbound message, send back what it returns when that is not None.
A, B and the orchestrator are three separate processes; they share `ctx` (temp folder,
free ports) and nothing else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import orjson

HOST = "127.0.0.1"


class Ctx:
    """What the three processes of one run agree on."""

    def __init__(self, folder: str, ports: list[int]):
        self.folder, self.ports = Path(folder), ports
        self.procs: list[subprocess.Popen] = []

    def path(self, name: str) -> str:
        return str(self.folder / name)

    async def spawn(
        self,
        argv: list[str],
        wait_port: int = 0,
        wait_path: str = "",
        timeout: float = 20.0,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen:
        """Start a helper process, `env` added to this one's, and wait until its port or socket file is there."""
        with open(self.folder / f"helper{len(self.procs)}.log", "wb") as log:
            proc = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=os.environ | (env or {})
            )
        self.procs.append(proc)
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if proc.poll() is not None:
                raise RuntimeError(f"helper {argv[0]} exited with {proc.returncode}")
            if wait_path and Path(wait_path).exists():
                return proc
            if wait_port:
                try:
                    socket.create_connection((HOST, wait_port), 0.2).close()
                    return proc
                except OSError:
                    pass
            if not wait_path and not wait_port:
                return proc
            await asyncio.sleep(0.002)
        raise TimeoutError(f"helper {argv[0]} not ready")

    def dump(self) -> list:
        return [str(self.folder), self.ports]


class ServerRole:
    def __init__(self, ctx: Ctx, handle):
        self.ctx, self.handle = ctx, handle

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class ClientRole:
    def __init__(self, ctx: Ctx):
        self.ctx = ctx

    async def start(self) -> None: ...
    async def request(self, data: bytes) -> bytes: ...
    async def send(self, data: bytes) -> None: ...
    async def flush(self) -> None: ...
    async def stop(self) -> None: ...


class System:
    name = ""
    note = ""
    one_way = True  # False: no one-way send; rate and bulk are acknowledged requests,
    window = 64  # with this many in flight
    bulk = True  # False: 64 KiB messages are not supported
    Server: type[ServerRole]
    Client: type[ClientRole]

    @classmethod
    async def start_helpers(cls, ctx: Ctx) -> list[subprocess.Popen]:
        return []


class Correlator:
    """Matches replies to requests by the "id" field, for systems that only move messages."""

    def __init__(self):
        self.waiting: dict[int, asyncio.Future] = {}

    def expect(self, data: bytes) -> asyncio.Future:
        fut = asyncio.get_running_loop().create_future()
        self.waiting[orjson.loads(data)["id"]] = fut
        return fut

    def feed(self, data: bytes) -> None:
        fut = self.waiting.pop(orjson.loads(data)["id"], None)
        if fut is not None and not fut.done():
            fut.set_result(data)


class LinePipe(asyncio.Protocol):
    """Newline-framed messages over a stream transport.

    The first write in a loop turn goes straight out; later ones in the same turn are
    gathered and written together.
    """

    LIMIT = 1 << 16

    def __init__(self, on_line):
        self.on_line, self.tail = on_line, []
        self.out: list[bytes] = []
        self.size, self.in_turn = 0, False
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport):
        self.transport, self.loop = transport, asyncio.get_running_loop()
        transport.set_write_buffer_limits(high=1 << 20)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)

    def data_received(self, data):
        if b"\n" not in data:
            self.tail.append(data)
            return
        lines = data.split(b"\n")
        if self.tail:
            self.tail.append(lines[0])
            lines[0], self.tail = b"".join(self.tail), []
        last = lines.pop()
        if last:
            self.tail.append(last)
        for line in lines:
            self.on_line(line)

    def pause_writing(self):
        self.writable.clear()

    def resume_writing(self):
        self.writable.set()

    def connection_lost(self, exc):
        self.writable.set()

    def write(self, data: bytes) -> None:
        if not self.in_turn:
            self.in_turn = True
            self.loop.call_soon(self._end_turn)
            self.transport.write(data + b"\n")
            return
        self.out += (data, b"\n")
        self.size += len(data)
        if self.size > self.LIMIT:
            self._write_out()

    def _write_out(self):
        self.transport.write(b"".join(self.out))
        self.out, self.size = [], 0

    def _end_turn(self):
        self.in_turn = False
        if self.out:
            self._write_out()

    async def drain(self) -> None:
        if not self.writable.is_set():
            await self.writable.wait()


class PipeClient(ClientRole):
    """Client half for any system that only has write(data) / drain() on a message pipe."""

    pipe = None

    def __init__(self, ctx):
        super().__init__(ctx)
        self.replies = Correlator()

    async def request(self, data):
        fut = self.replies.expect(data)
        await self.send(data)
        return await fut

    async def send(self, data):
        self.pipe.write(data)
        await self.pipe.drain()


async def signal_serve(ctx: Ctx, answer) -> asyncio.AbstractServer:
    """Out-of-band exchange over a Unix socket: one JSON question, one JSON answer."""

    async def on_conn(reader, writer):
        line = await reader.readline()
        writer.write(orjson.dumps(await answer(orjson.loads(line))) + b"\n")
        await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(on_conn, ctx.path("signal.sock"), limit=1 << 22)


async def signal_ask(ctx: Ctx, question):
    reader, writer = await asyncio.open_unix_connection(ctx.path("signal.sock"), limit=1 << 22)
    writer.write(orjson.dumps(question) + b"\n")
    line = await reader.readline()
    writer.close()
    return orjson.loads(line)


def venv_bin(name: str) -> str:
    """A program installed next to this interpreter, else found on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


_counter = itertools.count(1)


def next_id() -> int:
    return next(_counter)
