"""One system with its two processes, kept for a whole run; driven by the orchestrator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from side import Side

HERE = Path(__file__).resolve().parent
START_S = 90  # imports of a LangGraph server on a busy machine


class Worker:
    """A process of `worker.py`, or of another script with the same pipe."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen = psutil.Process(process.pid)

    @classmethod
    async def start(cls, role: str, name: str, given: dict[str, Any], log: Path, script: str = "worker.py") -> Worker:
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(HERE / script),
                role,
                name,
                json.dumps(given),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
            )
        return cls(process)

    async def read(self, timeout_s: float) -> dict[str, Any]:
        line = await asyncio.wait_for(self.process.stdout.readline(), timeout_s)
        if not line:
            raise RuntimeError("the process ended")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise RuntimeError(found["error"])
        return found

    async def ask(self, what: str) -> dict[str, Any]:
        self.process.stdin.write(json.dumps({"do": what}).encode() + b"\n")
        return await self.read(630)

    def cpu_s(self) -> float:
        """CPU seconds of this process and those it started: a sidecar, a server."""
        total = 0.0
        for process in [self.seen, *self.seen.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    async def stop(self) -> None:
        """End it and its children."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*self.seen.children(recursive=True), self.seen]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), 5)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Pair:
    """Server and client of one system. `alone`: the client is both."""

    def __init__(self, name: str, side: Side, folder: Path) -> None:
        self.name, self.side, self.folder = name, side, folder
        self.workers: list[Worker] = []

    async def start(self, given: dict[str, Any]) -> None:
        """Start both and warm up. Raises RuntimeError with what went wrong."""
        told = dict(given)
        if not self.side.alone:
            server = await Worker.start("serve", self.name, given, self.folder / f"{self.name}-serve.log")
            self.workers.append(server)
            told |= await server.read(START_S)
        client = await Worker.start("call", self.name, told, self.folder / f"{self.name}-call.log")
        self.workers.append(client)
        await client.read(START_S)

    async def measure(self, metric: str) -> dict[str, Any]:
        """One burst of one metric; `cpu_s` is what both processes and their children spent on it."""
        before = sum(w.cpu_s() for w in self.workers)
        found = await self.workers[-1].ask(metric)
        spent = sum(w.cpu_s() for w in self.workers) - before
        return {**found, "cpu_s": spent}

    async def stop(self) -> None:
        for worker in reversed(self.workers):
            await worker.stop()
