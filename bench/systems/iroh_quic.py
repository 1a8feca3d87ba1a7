"""iroh: QUIC between the two Python processes by direct address; relays and lookup off."""

import asyncio

from .base import HOST, PipeClient, ServerRole, System, signal_ask, signal_serve

ALPN = b"bench/1"


async def endpoint():
    import iroh

    iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    return iroh, await iroh.Endpoint.bind(
        iroh.EndpointOptions(
            preset=iroh.preset_minimal(), bind_addr=f"{HOST}:0", alpns=[ALPN], relay_mode=iroh.RelayMode.disabled()
        )
    )


async def read_lines(recv, on_line):
    tail = b""
    while data := await recv.read(1 << 18):
        *lines, tail = (tail + bytes(data)).split(b"\n")
        for line in lines:
            out = on_line(line)
            if out is not None:
                await out


class Iroh(System):
    name = "iroh"
    note = "QUIC P2P in process, one bidirectional stream, newline framing"

    class Server(ServerRole):
        async def start(self):
            self.iroh, self.ep = await endpoint()

            async def answer(_):
                return {"id": str(self.ep.id()), "addrs": self.ep.bound_sockets()}

            self.signal = await signal_serve(self.ctx, answer)
            self.task = asyncio.create_task(self.serve())

        async def serve(self):
            incoming = await self.ep.accept_next()
            conn = await (await incoming.accept()).connect()
            stream = await conn.accept_bi()
            out = stream.send()

            def on_line(line):
                reply = self.handle(line)
                return None if reply is None else out.write_all(reply + b"\n")

            await read_lines(stream.recv(), on_line)

    class Client(PipeClient):
        async def start(self):
            self.iroh, self.ep = await endpoint()
            where = await signal_ask(self.ctx, {})
            addr = self.iroh.EndpointAddr(self.iroh.EndpointId.from_string(where["id"]), None, where["addrs"])
            self.conn = await self.ep.connect(addr, ALPN)
            stream = await self.conn.open_bi()
            self.out, self.lock, self.held, self.size = stream.send(), asyncio.Lock(), [], 0
            self.task = asyncio.create_task(read_lines(stream.recv(), self.replies.feed))

        async def request(self, data):
            fut = self.replies.expect(data)
            await self.write(data + b"\n")
            return await fut

        async def write(self, data):
            async with self.lock:  # a stream has one writer
                await self.out.write_all(data)

        async def send(self, data):  # gather small messages: one FFI call per 64 KiB
            self.held += (data, b"\n")
            self.size += len(data)
            if self.size >= 1 << 16:
                await self.flush()

        async def flush(self):
            if self.held:
                data, self.held, self.size = b"".join(self.held), [], 0
                await self.write(data)
