"""Memory of an agent under many peers and many streams: two processes over real sidecars, sampled from outside.

python bench/langchain/memory.py [--peers 50] [--messages 20] [--streams 100] [--words 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from pair import Worker

from chatixia_langchain import LocalMesh

EVERY_S = 0.05


def rss_mb(worker: Worker) -> tuple[float, float]:
    """MB of the Python process, and of the sidecars that it started."""
    children = sum(c.memory_info().rss for c in worker.seen.children(recursive=True))
    return worker.seen.memory_info().rss / 1e6, children / 1e6


class Watch:
    """The largest RSS seen of each process while the block runs."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self.before = self.peak = [rss_mb(w)[0] for w in workers]

    async def __aenter__(self) -> Watch:
        self.task = asyncio.create_task(self.sample(), name="sample")
        return self

    async def sample(self) -> None:
        while True:
            self.peak = [max(p, rss_mb(w)[0]) for p, w in zip(self.peak, self.workers, strict=True)]
            await asyncio.sleep(EVERY_S)

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        self.after = [rss_mb(w)[0] for w in self.workers]


async def measure(args: argparse.Namespace, folder: Path) -> str:
    """Run both loads; the table."""
    workers: list[Worker] = []
    rows = [
        "| load | seconds | agent RSS MB: before, peak, after | callers RSS MB: before, peak, after |",
        "|---" * 4 + "|",
    ]
    async with LocalMesh() as local:
        names = ["hub", *(f"peer{n}" for n in range(args.peers))]
        given = {**vars(args), "registry": local.registry_url, "keys": {n: local.api_key(n) for n in names}}
        try:
            for role in ("serve", "call"):
                workers.append(await Worker.start(role, "crowd", given, folder / f"{role}.log", "crowd.py"))
                await workers[-1].read(120)
            loads = {
                "messages": f"{args.peers} peers × {args.messages} messages at once",
                "streams": f"{args.streams} streams × {args.words} tokens at once",
            }
            for what, shown in loads.items():
                async with Watch(workers) as watch:
                    found = await workers[1].ask(what)
                cells = [
                    f"{b:.0f}, {p:.0f}, {a:.0f}" for b, p, a in zip(watch.before, watch.peak, watch.after, strict=True)
                ]
                rows.append(f"| {shown} | {found['seconds']:.1f} ({found['done']:,}) | {' | '.join(cells)} |")
                print(rows[-1], file=sys.stderr, flush=True)
            hub, callers = rss_mb(workers[0])[1], rss_mb(workers[1])[1]
        except Exception:
            for log in sorted(folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
            raise
        finally:
            for worker in reversed(workers):
                await worker.stop()
    rows += ["", f"Sidecars: {hub:.0f} MB at the agent, {callers:.0f} MB for the {args.peers} callers together."]
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, default in (("peers", 50), ("messages", 20), ("streams", 100), ("words", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as folder:
        print(asyncio.run(measure(parser.parse_args(), Path(folder))))


if __name__ == "__main__":
    main()
