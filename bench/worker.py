"""One agent process. `worker.py server|client <system> <ctx-json> [options-json]`.

Talks to the orchestrator in JSON lines on stdin/stdout; exits when stdin closes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
import traceback

import orjson
import systems
from systems.base import Ctx
from workload import Agent, Load, make

REAL_OUT = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)  # a library that prints must not disturb the control pipe


def say(**what) -> None:
    REAL_OUT.write(orjson.dumps(what) + b"\n")


def rss_kb() -> int:
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


async def stdin_lines():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield orjson.loads(line)


async def server(cls, ctx):
    role = cls.Server(ctx, Agent().handle)
    await role.start()
    say(ready=time.monotonic_ns())
    async for cmd in stdin_lines():
        if cmd["do"] == "rss":
            say(rss_kb=rss_kb())
        if cmd["do"] == "stop":
            break


async def client(cls, ctx, opts):
    role = cls.Client(ctx)
    load = Load(role, cls, opts["cap_s"])
    say(loaded=time.monotonic_ns())
    async for cmd in stdin_lines():
        if cmd["do"] == "connect":
            t = time.monotonic_ns()
            await asyncio.wait_for(role.start(), 20)
            await asyncio.wait_for(load.echo(make("echo", 200)), 20)
            first = time.monotonic_ns()
            say(connect_ms=(first - t) / 1e6, first=first, rss_kb=rss_kb())
        elif cmd["do"] == "stop":
            break
        else:
            gc.collect()
            try:
                say(**await asyncio.wait_for(getattr(load, cmd["do"])(), 60))
            except Exception as e:
                say(error=f"{cmd['do']}: {type(e).__name__}: {e}"[:300])


async def main():
    role, name, ctx = sys.argv[1], sys.argv[2], Ctx(*orjson.loads(sys.argv[3]))
    opts = orjson.loads(sys.argv[4])
    cls = systems.load(name)
    try:
        await (server(cls, ctx) if role == "server" else client(cls, ctx, opts))
    except Exception as e:
        traceback.print_exc()
        say(error=f"{type(e).__name__}: {e}"[:300])
    sys.stderr.flush()
    os._exit(0)  # native runtimes may keep threads; nothing here needs a clean exit


if __name__ == "__main__":
    if len(sys.argv) > 4 and orjson.loads(sys.argv[4]).get("loop") == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
