"""Runs a LangGraph server. `langgraph_server.py PORT POLL_S GRAPHS_JSON`.

The in-memory runtime looks at its queue every 0.5 s; another POLL_S changes that one sleep and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

import uvicorn
from langgraph_api.cli import run_server

AS_SHIPPED_S = 0.5


def poll_every(seconds: float) -> None:
    """Make the queue look at its runs that often."""
    from langgraph_runtime_inmem import ops

    async def sleep(delay: float, result: Any = None) -> Any:
        return await asyncio.sleep(seconds if delay == AS_SHIPPED_S else delay, result)

    ops.asyncio = SimpleNamespace(**{**vars(asyncio), "sleep": sleep})


def main() -> None:
    """Serve until killed."""
    port, poll_s, graphs = int(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
    run = uvicorn.run

    def patched(*args: Any, **options: Any) -> None:
        if poll_s != AS_SHIPPED_S:
            poll_every(poll_s)  # not before: run_server sets the environment that the runtime reads on import
        run(*args, **options)

    uvicorn.run = patched
    run_server(
        "127.0.0.1",
        port,
        graphs=graphs,
        n_jobs_per_worker=100,
        allow_blocking=True,
        disable_persistence=True,
        server_level="ERROR",
    )


if __name__ == "__main__":
    main()
