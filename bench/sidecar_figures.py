"""What a sidecar costs: size, start, memory, connects. Real registry, real sidecars, raw IPC, all on this machine.

    python bench/sidecar_figures.py [--json FILE]

Medians of several goes, with the range. Absolute numbers of a shared machine: compare them only with others of the
same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from systems.base import HOST
from systems.project import REGISTRY_CMD, sidecar_binary

PEERS = (1, 10, 50)
FULL_MESH = (10, 20)
GOES = 15


class Sidecar:
    """One sidecar process and its agent's socket, with hello said."""

    def __init__(self, name: str, folder: Path, url: str, key: str, dial: str) -> None:
        self.name, self.path = name, folder / f"{name}.sock"
        self.env = {
            "PATH": os.environ["PATH"],
            "IPC_SOCKET": str(self.path),
            "SIGNALING_URL": url.replace("http", "ws", 1) + "/ws",
            "TOKEN_URL": f"{url}/api/token",
            "API_KEY": key,
            "DIAL": dial,
            "RUST_LOG": "error",
        }
        self.open: set[str] = set()
        self.online: set[str] = set()
        self.changed = asyncio.Event()
        self.answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.number = 0

    async def start(self) -> float:
        """Start it; returns the ms until its socket could be connected."""
        began = time.perf_counter()
        self.process = await asyncio.create_subprocess_exec(sidecar_binary(), env=self.env)
        while True:
            with contextlib.suppress(OSError):
                self.reader, self.writer = await asyncio.open_unix_connection(str(self.path), limit=1 << 20)
                break
            await asyncio.sleep(0.001)
        took = (time.perf_counter() - began) * 1e3
        self.task = asyncio.create_task(self._read())
        await self.ask("hello", protocol=1)
        return took

    async def _read(self) -> None:
        async for line in self.reader:
            event = json.loads(line)
            kind, payload = event["type"], event["payload"]
            if "id" in event:
                self.answers.pop(event["id"]).set_result(event)
            elif kind in ("peer_connected", "peer_disconnected"):
                (self.open.add if kind == "peer_connected" else self.open.discard)(payload["peer_id"])
            elif kind in ("peer_joined", "peer_left"):
                (self.online.add if kind == "peer_joined" else self.online.discard)(payload["peer_id"])
            self.changed.set()

    async def ask(self, kind: str, **payload: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.number += 1
        answer = self.answers[self.number] = asyncio.get_running_loop().create_future()
        self.writer.write(json.dumps({"type": kind, "id": self.number, "payload": payload}).encode() + b"\n")
        return await answer

    async def until(self, what: Any) -> None:
        """Wait until `what()` is true."""
        while not what():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 30)

    def rss_kib(self) -> int:
        """Resident memory now."""
        return psutil.Process(self.process.pid).memory_info().rss // 1024

    async def stop(self) -> None:
        """End it."""
        self.process.terminate()
        await self.process.wait()
        self.task.cancel()
        self.writer.close()


class Lab:
    """A registry, and sidecars that join it."""

    def __init__(self, folder: Path, names: int) -> None:
        self.folder = folder
        self.keys = {f"n{n}": f"k-{n}-0123456789abcdef" for n in range(names)}

    async def start(self) -> None:
        """Start the registry."""
        keys = self.folder / "keys.json"
        keys.write_text(json.dumps({"keys": {k: {"peer_id": n, "role": "agent"} for n, k in self.keys.items()}}))
        keys.chmod(0o600)
        command = [*shlex.split(REGISTRY_CMD.format(port=0, keys=keys)), "--log-level", "error"]
        self.registry = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self.registry.stdout is not None
        self.url = (await self.registry.stdout.readline()).decode().split()[-1]
        assert HOST in self.url

    def sidecar(self, n: int, dial: str = "on_demand") -> Sidecar:
        """A sidecar that is not started yet."""
        name = f"n{n}"
        return Sidecar(name, self.folder, self.url, self.keys[name], dial)

    async def stop(self) -> None:
        """End the registry."""
        self.registry.terminate()
        await self.registry.wait()


def figure(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": round(statistics.median(values), 2), "min": round(min(values), 2), "max": round(max(values), 2)}


async def pair(lab: Lab) -> dict[str, Any]:
    """Start, connect and leave, over and over."""
    starts, connects, leaves = [], [], []
    a = lab.sidecar(0)
    starts.append(await a.start())
    idle = []
    for _ in range(GOES):
        b = lab.sidecar(1)
        starts.append(await b.start())
        await a.until(lambda: "n1" in a.online)
        idle.append(b.rss_kib())
        began = time.perf_counter()
        answer = await a.ask("connect", target_peer_id="n1")
        assert answer["type"] == "ok", answer
        connects.append((time.perf_counter() - began) * 1e3)
        await b.until(lambda: "n0" in b.open)  # noqa: B023  awaited in this turn of the loop
        began = time.perf_counter()
        await b.stop()
        await a.until(lambda: "n1" not in a.open)
        leaves.append((time.perf_counter() - began) * 1e3)
    await a.stop()
    return {
        "start_to_ready_ms": figure(starts),
        "rss_idle_kib": figure(idle),
        "connect_ms": figure(connects),
        "clean_leave_seen_ms": figure(leaves),
    }


async def memory(lab: Lab) -> dict[str, Any]:
    """Memory of one sidecar with more and more open channels."""
    hub, others = lab.sidecar(0), []
    await hub.start()
    await asyncio.sleep(0.5)
    base = hub.rss_kib()
    out: dict[str, Any] = {"rss_0_peers_kib": base}
    for wanted in PEERS:
        while len(others) < wanted:
            other = lab.sidecar(len(others) + 1)
            await other.start()
            others.append(other)
            await hub.until(lambda: other.name in hub.online)  # noqa: B023
            await hub.ask("connect", target_peer_id=other.name)
        await asyncio.sleep(1)
        out[f"rss_{wanted}_peers_kib"] = hub.rss_kib()
        out[f"per_peer_at_{wanted}_kib"] = round((hub.rss_kib() - base) / wanted)
    await asyncio.gather(hub.stop(), *(o.stop() for o in others))
    return out


async def full_mesh(lab: Lab, size: int) -> float:
    """Seconds from the start of the first of `size` sidecars until each has a channel to each."""
    sidecars = [lab.sidecar(n, "peer_list") for n in range(size)]
    began = time.perf_counter()
    await asyncio.gather(*(s.start() for s in sidecars))
    await asyncio.gather(*(s.until(lambda s=s: len(s.open) == size - 1) for s in sidecars))
    took = time.perf_counter() - began
    await asyncio.gather(*(s.stop() for s in sidecars))
    return round(took, 2)


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    out: dict[str, Any] = {"binary_mib": round(Path(sidecar_binary()).stat().st_size / (1 << 20), 2)}
    with tempfile.TemporaryDirectory(prefix="cx-fig-") as folder:
        lab = Lab(Path(folder), max(*PEERS, *FULL_MESH) + 1)
        await lab.start()
        out |= await pair(lab)
        out |= await memory(lab)
        for size in FULL_MESH:
            out[f"full_mesh_of_{size}_s"] = await full_mesh(lab, size)
        await lab.stop()
    for name, value in out.items():
        text = f"{value['median']}  [{value['min']} - {value['max']}]" if isinstance(value, dict) else value
        print(f"{name:24} {text}")
    if args.json:
        Path(args.json).write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
