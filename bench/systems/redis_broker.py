"""Redis: pub/sub, and streams, with redis-py asyncio; replies matched by id."""

import asyncio

from .base import HOST, PipeClient, ServerRole, System

BATCH = 100


async def start_redis(ctx):
    port = ctx.ports[0]
    return [
        await ctx.spawn(
            [
                "redis-server",
                "--bind",
                HOST,
                "--port",
                str(port),
                "--save",
                "",
                "--appendonly",
                "no",
                "--client-output-buffer-limit",
                "pubsub",
                "0",
                "0",
                "0",
            ],
            wait_port=port,
        )
    ]


def connect(ctx):
    import redis.asyncio as redis

    return redis.Redis(host=HOST, port=ctx.ports[0])


async def subscribe(role, channel):
    """An iterator of payloads on a channel; subscribed when this returns."""
    sub = connect(role.ctx).pubsub()
    await sub.subscribe(channel)
    await sub.get_message(timeout=5)

    async def payloads():
        while True:
            msg = await sub.get_message(ignore_subscribe_messages=True, timeout=None)
            if msg is not None:
                yield msg["data"]

    return payloads()


async def tail(role, stream):
    """An iterator of payloads on a stream, from its beginning."""
    db, last = connect(role.ctx), "0"

    async def payloads():
        nonlocal last
        while True:
            got = await db.xread({stream: last}, count=512, block=0)
            for last, fields in got[0][1] if isinstance(got, list) else got.popitem()[1][0]:
                yield fields[b"d"]

    return payloads()


class Server(ServerRole):
    async def start(self):
        self.db = connect(self.ctx)
        inbound = await self.read("b")
        self.task = asyncio.create_task(self.serve(inbound))

    async def serve(self, inbound):
        async for data in inbound:
            reply = self.handle(data)
            if reply is not None:
                await self.put(self.db, "a", reply)


class Client(PipeClient):
    async def start(self):
        self.db, self.held, self.size = connect(self.ctx), [], 0
        inbound = await self.read("a")
        self.task = asyncio.create_task(self.pump(inbound))

    async def pump(self, inbound):
        async for data in inbound:
            self.replies.feed(data)

    async def request(self, data):
        fut = self.replies.expect(data)
        await self.put(self.db, "b", data)
        return await fut

    async def send(self, data):  # pipelined, as the redis docs advise
        self.held.append(data)
        self.size += len(data)
        if len(self.held) >= BATCH or self.size > 1 << 20:
            await self.flush()

    async def flush(self):
        if self.held:
            pipe = self.db.pipeline(transaction=False)
            for data in self.held:
                self.put(pipe, "b", data)
            self.held, self.size = [], 0
            await pipe.execute()


class PubSub:
    read = subscribe

    def put(self, db, channel, data):
        return db.publish(channel, data)


class Streams:
    read = tail

    def put(self, db, stream, data):
        return db.xadd(stream, {"d": data}, maxlen=50_000, approximate=True)


class RedisPubSub(System):
    name = "redis-pubsub"
    note = "broker process; sends pipelined by 100"
    start_helpers = staticmethod(start_redis)

    class Server(PubSub, Server): ...

    class Client(PubSub, Client): ...


class RedisStreams(System):
    name = "redis-streams"
    note = "broker process; XADD/XREAD, sends pipelined by 100"
    start_helpers = staticmethod(start_redis)

    class Server(Streams, Server): ...

    class Client(Streams, Client): ...
