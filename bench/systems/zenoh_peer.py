"""Eclipse Zenoh in peer mode over loopback TCP: queryable/get and put/subscribe."""

import asyncio

from .base import HOST, ClientRole, ServerRole, System


def session(listen=None, connect=None):
    import json

    import zenoh

    conf = zenoh.Config()
    conf.insert_json5("mode", '"peer"')
    conf.insert_json5("scouting/multicast/enabled", "false")
    conf.insert_json5("listen/endpoints", json.dumps([listen] if listen else []))
    conf.insert_json5("connect/endpoints", json.dumps([connect] if connect else []))
    return zenoh, zenoh.open(conf)


class Zenoh(System):
    name = "zenoh"
    note = "peer mode, no router; native threads bridged to asyncio"

    class Server(ServerRole):
        async def start(self):
            loop = asyncio.get_running_loop()
            self.zenoh, self.z = session(listen=f"tcp/{HOST}:{self.ctx.ports[0]}")

            def answer(query):
                with query:
                    query.reply("agent/b/ask", self.handle(query.payload.to_bytes()))

            self.q = self.z.declare_queryable("agent/b/ask", lambda q: loop.call_soon_threadsafe(answer, q))
            self.s = self.z.declare_subscriber(
                "agent/b/in", lambda s: loop.call_soon_threadsafe(self.handle, s.payload.to_bytes())
            )

    class Client(ClientRole):
        async def start(self):
            self.loop = asyncio.get_running_loop()
            self.zenoh, self.z = session(connect=f"tcp/{HOST}:{self.ctx.ports[0]}")
            self.pub = self.z.declare_publisher("agent/b/in", congestion_control=self.zenoh.CongestionControl.BLOCK)
            self.ask = self.z.declare_querier("agent/b/ask", timeout=20.0)
            while not (self.pub.matching_status.matching and self.ask.matching_status.matching):
                await asyncio.sleep(0.002)

        async def request(self, data):
            fut = self.loop.create_future()

            def on_reply(reply):
                out = reply.ok.payload.to_bytes()
                self.loop.call_soon_threadsafe(lambda: fut.done() or fut.set_result(out))

            self.ask.get(on_reply, payload=data)
            return await fut

        async def send(self, data):
            self.pub.put(data)

        async def stop(self):
            self.z.close()
