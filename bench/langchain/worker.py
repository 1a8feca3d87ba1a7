"""One process of a system. `worker.py serve|call NAME GIVEN_JSON`; JSON lines on stdin and stdout, ends with stdin."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import traceback
from collections.abc import Collection
from typing import Any

# Set before LangChain is imported; a proxy of this machine has no part in loopback traffic.
os.environ.update({"LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"})

OUT = os.fdopen(os.dup(1), "wb", buffering=0)
os.dup2(2, 1)  # a library that prints must not disturb the pipe
LIMIT_S = 600  # of one order: the largest load on a busy machine


def say(**what: Any) -> None:
    """One line to the orchestrator."""
    OUT.write(json.dumps(what).encode() + b"\n")


async def orders():
    """The orchestrator's lines."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


async def answer(work: Any) -> None:
    """Run it; what goes wrong is an answer too."""
    try:
        say(**(await asyncio.wait_for(work, LIMIT_S)))
    except Exception as exc:
        traceback.print_exc()
        say(error=f"{type(exc).__name__}: {exc}"[:300])


async def run(side: Any, metrics: Collection[str]) -> None:
    """Start the role on the command line, then the methods of `side` that the orchestrator names."""
    logging.basicConfig(level=logging.WARNING)
    role, given = sys.argv[1], json.loads(sys.argv[3])
    try:
        await answer(side.serve(given) if role == "serve" else side.connect(given))
        async for line in orders():
            if line["do"] in metrics:
                await answer(getattr(side, line["do"])())
    finally:
        await side.stop()


class Measured:
    """A side with its workload."""

    def __init__(self, side: Any) -> None:
        self.side = side

    async def serve(self, given: dict[str, Any]) -> dict[str, Any]:
        return await self.side.serve(given)

    async def stop(self) -> None:
        await self.side.stop()

    async def connect(self, told: dict[str, Any]) -> dict[str, Any]:
        """Connect and warm up."""
        await self.side.connect(told)
        self.workload = Workload(self.side, told["cap_s"])
        await self.workload.warm_up()
        return {"ready": True}

    def __getattr__(self, metric: str) -> Any:
        return getattr(self.workload, metric)


if __name__ == "__main__":
    from sides import load
    from workload import METRICS, Workload

    asyncio.run(run(Measured(load(sys.argv[2])), METRICS))
