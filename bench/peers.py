"""Side-by-side benchmark of agent-to-agent transports. See README.md.

    ./dev bench                                    this project, and every peer that is installed
    python bench/peers.py --systems http,nats --metrics rtt,rate,bulk,conc --rounds 3 --json out.json

Every sample of a system is taken right after a fresh sample of both floors; ratios are
formed inside such a triplet and the median over rounds is reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import systems
from systems.base import HOST, Ctx

HERE = Path(__file__).resolve().parent
FLOORS = ["floor-uds", "floor-uds4"]
METRICS = ["rtt", "rate", "bulk", "conc"]
# key, heading, digits, True when larger is better (ratios are always "cost": >1 is worse)
COLUMNS = [
    ("rtt_p50_us", "rtt p50 µs", 0, False),
    ("rtt_p99_us", "rtt p99 µs", 0, False),
    ("rate_msg_s", "rate msg/s", 0, True),
    ("bulk_mb_s", "bulk MB/s", 1, True),
    ("conc_rt_s", "conc rt/s", 0, True),
]


def free_ports(n: int) -> list[int]:
    socks = []
    for _ in range(n):
        s = socket.socket()
        s.bind((HOST, 0))
        socks.append(s)
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


class Worker:
    """A worker process with its JSON-lines control pipe."""

    def __init__(self, proc):
        self.proc = proc

    @classmethod
    async def start(cls, role, name, ctx, opts):
        log = open(ctx.folder / f"{role}.log", "wb")  # noqa: SIM115 - the child keeps it
        proc = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / "worker.py"),
            role,
            name,
            json.dumps(ctx.dump()),
            json.dumps(opts),
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        log.close()
        return cls(proc)

    async def read(self, timeout=90) -> dict:
        line = await asyncio.wait_for(self.proc.stdout.readline(), timeout)
        if not line:
            raise RuntimeError("worker ended early")
        return json.loads(line)

    async def ask(self, what: str, timeout=90) -> dict:
        self.proc.stdin.write(json.dumps({"do": what}).encode() + b"\n")
        return await self.read(timeout)

    async def stop(self):
        try:
            self.proc.stdin.close()
            await asyncio.wait_for(self.proc.wait(), 2)
        except Exception:
            if self.proc.returncode is None:
                self.proc.kill()
                await self.proc.wait()


def helpers_rss_kb(ctx: Ctx, workers: list[Worker]) -> int:
    """Memory of all processes but A and B: those we started, and those that A and B started (a sidecar each)."""
    found = [psutil.Process(p.pid) for p in ctx.procs if p.poll() is None]
    for worker in workers:
        found += psutil.Process(worker.proc.pid).children(recursive=True)
    return sum(p.memory_info().rss // 1024 for p in found)


async def sample(name: str, metrics: list[str], opts: dict) -> dict:
    """One fresh pair of agents (and helpers), all metrics once."""
    out: dict = {"system": name, "errors": []}
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        ctx = Ctx(folder, free_ports(4))
        try:
            cls = systems.load(name)
            t0 = time.monotonic_ns()
            await cls.start_helpers(ctx)
            t1 = time.monotonic_ns()
            b = await Worker.start("server", name, ctx, opts)
            workers.append(b)
            ready = await b.read(40)
            if "error" in ready:
                raise RuntimeError(f"server: {ready['error']}")
            t2 = time.monotonic_ns()
            a = await Worker.start("client", name, ctx, opts)
            workers.append(a)
            await a.read(40)
            got = await a.ask("connect", 45)
            if "error" in got:
                raise RuntimeError(f"connect: {got['error']}")
            out["connect_ms"] = got["connect_ms"]
            out["cold_ms"] = (got["first"] - t0) / 1e6
            out["helper_ms"], out["server_ms"] = (t1 - t0) / 1e6, (t2 - t1) / 1e6
            out["rss_a_kb"], out["rss_b_kb"] = got["rss_kb"], (await b.ask("rss"))["rss_kb"]
            for m in metrics:
                got = await a.ask(m)
                if "error" in got:
                    out["errors"].append(got["error"])
                    break
                out |= got
            out["rss_helpers_kb"] = helpers_rss_kb(ctx, workers)
        except Exception as e:
            out["errors"].append(f"{type(e).__name__}: {e}"[:300])
        finally:
            for w in reversed(workers):
                await w.stop()
            for p in ctx.procs:
                p.terminate()
                try:
                    p.wait(3)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
            if out["errors"] and opts.get("verbose"):
                for log in sorted(Path(folder).glob("*.log")):
                    text = log.read_text(errors="replace")[-3000:]
                    print(f"--- {name} {log.name}\n{text}", file=sys.stderr)
    return out


def median(xs):
    xs = [x for x in xs if x is not None]
    return statistics.median(xs) if xs else None


def ratio(peer: dict, floor: dict, key: str, bigger: bool):
    if not peer.get(key) or not floor.get(key):
        return None
    return floor[key] / peer[key] if bigger else peer[key] / floor[key]


def summarize(triplets: list[dict], names: list[str]) -> dict:
    rows = {}
    for name in FLOORS + [n for n in names if n not in FLOORS]:
        if name in FLOORS:
            samples = [t[name] for t in triplets]
            pairs = [(t[name], t) for t in triplets]
        else:
            mine = [t for t in triplets if t["peer"]["system"] == name]
            samples = [t["peer"] for t in mine]
            pairs = [(t["peer"], t) for t in mine]
        row = {"samples": len(samples), "errors": [e for s in samples for e in s["errors"]]}
        for key in [c[0] for c in COLUMNS] + ["connect_ms", "cold_ms", "rss_a_kb", "rss_b_kb", "rss_helpers_kb"]:
            row[key] = median([s.get(key) for s in samples])
        for key, _, _, bigger in COLUMNS:
            for floor in FLOORS:
                xs = [ratio(s, t[floor], key, bigger) for s, t in pairs]
                xs = [x for x in xs if x is not None]
                row[f"{key}/{floor}"] = median(xs)
                row[f"{key}/{floor}/spread"] = [min(xs), max(xs)] if xs else None
        rows[name] = row
    return rows


def fmt(x, digits=0):
    return "–" if x is None else f"{x:,.{digits}f}"


def tables(rows: dict) -> str:
    heads = [c[1] for c in COLUMNS]
    lines = [
        "Absolute medians (this machine only; compare with the ratios below):",
        "",
        "| system | " + " | ".join(heads) + " | connect ms | cold ms | A RSS MB | helpers RSS MB |",
        "|---" * (len(heads) + 5) + "|",
    ]
    for name, r in rows.items():
        cells = [fmt(r[k], d) for k, _, d, _ in COLUMNS]
        cells += [
            fmt(r["connect_ms"], 1),
            fmt(r["cold_ms"]),
            fmt(r["rss_a_kb"] and r["rss_a_kb"] / 1024),
            fmt((r["rss_helpers_kb"] or 0) / 1024, 1),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for floor in FLOORS:
        lines += [
            "",
            f"Cost relative to `{floor}`, measured in the same triplet "
            "(median of per-round ratios, [min–max]; above 1 = slower than the floor):",
            "",
            "| system | " + " | ".join(heads) + " |",
            "|---" * (len(heads) + 1) + "|",
        ]
        for name, r in rows.items():
            cells = []
            for key, *_ in COLUMNS:
                mid, spread = r[f"{key}/{floor}"], r[f"{key}/{floor}/spread"]
                cells.append("–" if mid is None else f"{mid:.2f} [{spread[0]:.2f}–{spread[1]:.2f}]")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    bad = [
        f"- {n}: {e} ({r['errors'].count(e)} of {r['samples']} samples)"
        for n, r in rows.items()
        for e in sorted(set(r["errors"]))
    ]
    if bad:
        lines += ["", "Errors:", "", *bad]
    return "\n".join(lines)


async def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument(
        "--systems",
        default="all",
        help="comma list, or `ours` (" + ", ".join(systems.OURS) + "), or `all`: " + ", ".join(systems.REGISTRY),
    )
    ap.add_argument("--metrics", default=",".join(METRICS))
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--json", default="", help="write every sample and the summary here")
    ap.add_argument("--markdown", default="", help="write the tables here")
    ap.add_argument("--cap-s", type=float, default=4.0, help="time limit of one metric")
    ap.add_argument("--minutes", type=float, default=30, help="stop after the sample that crosses this")
    ap.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    ap.add_argument("--verbose", action="store_true", help="show logs of failed samples")
    args = ap.parse_args()
    names = {"all": list(systems.REGISTRY), "ours": systems.OURS}.get(args.systems) or args.systems.split(",")
    metrics = args.metrics.split(",")
    if bad := [n for n in names if n not in systems.REGISTRY] + [m for m in metrics if m not in METRICS]:
        ap.error(f"unknown: {', '.join(bad)}")
    absent = {n: lacks for n in [*FLOORS, *names] if (lacks := systems.missing(n))}
    if lacks := [f"{n} needs {', '.join(absent[n])}" for n in FLOORS if n in absent]:
        ap.error("a floor cannot run: " + "; ".join(lacks))
    names = [n for n in names if n not in absent]
    if not names:
        ap.error("not installed: " + "; ".join(f"{n} needs {', '.join(lacks)}" for n, lacks in absent.items()))
    opts = {"cap_s": args.cap_s, "loop": args.loop, "verbose": args.verbose}
    peers = [n for n in names if n not in FLOORS] or [FLOORS[1]]
    triplets, started, broken = [], time.time(), set()
    for r in range(args.rounds):
        order = peers[r % len(peers) :] + peers[: r % len(peers)]
        for name in order:
            if name in broken or time.time() - started > args.minutes * 60:
                continue
            t = {"round": r, **{f: await sample(f, metrics, opts) for f in FLOORS}}
            t["peer"] = await sample(name, metrics, opts) if name not in FLOORS else t[name]
            triplets.append(t)
            p = t["peer"]
            if p["errors"] and "connect_ms" not in p:
                broken.add(name)  # does not work here at all: one attempt is enough
            print(
                f"[{time.time() - started:5.0f}s] round {r} {name}: "
                + "  ".join(
                    f"{h} {fmt(p.get(k), d)} (x{ratio(p, t[FLOORS[1]], k, b) or 0:.2f})"
                    for k, h, d, b in COLUMNS
                    if p.get(k)
                )
                + " ".join(p["errors"]),
                file=sys.stderr,
                flush=True,
            )
            rows = summarize(triplets, names)
            if args.json:
                Path(args.json).write_text(
                    json.dumps(
                        {
                            "machine": {
                                "cpus": os.cpu_count(),
                                "kernel": platform.release(),
                                "python": platform.python_version(),
                            },
                            "options": vars(args),
                            "rows": rows,
                            "triplets": triplets,
                        },
                        indent=1,
                    )
                )
    text = tables(rows)
    if absent:
        text += "\n\nNot installed here (see bench/requirements.txt):\n\n"
        text += "\n".join(f"- {n}: needs {', '.join(lacks)}" for n, lacks in absent.items())
    print(text)
    if args.markdown:
        Path(args.markdown).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
