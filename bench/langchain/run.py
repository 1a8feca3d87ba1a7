"""What the mesh costs a LangChain program, beside the same graph in process and beside what one would use instead.

    ./dev bench langchain                                  all that is installed, five rounds
    python bench/langchain/run.py --systems ours --rounds 3
    python bench/langchain/run.py --systems mesh-sidecar,a2a-http --metrics call,paced

All systems are started once and measured in interleaved rounds; the order rotates. See bench/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pair import Pair
from sides import BASELINE, OURS, WHERE, load
from tables import tables
from workload import METRICS, STREAMED

from chatixia_langchain import LocalMesh

OUT = Path(__file__).resolve().parents[1] / "out"
MEMBERS = ("specialist", "echo", "client")


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line. Ends the program for a name that does not exist."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--systems", default="all", help="`all`, `ours`, or some of: " + ", ".join(WHERE))
    parser.add_argument("--metrics", default=",".join(METRICS), help="some of: " + ", ".join(METRICS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cap-s", type=float, default=3.0, help="seconds after which a burst of a metric ends")
    parser.add_argument("--json", type=Path, default=OUT / "langchain.json", help="every sample and the summary")
    parser.add_argument("--verbose", action="store_true", help="show the logs of a system that failed")
    args = parser.parse_args()
    ours = [name for name in WHERE if name.startswith("mesh-")]
    args.systems = {"all": list(WHERE), "ours": ours}.get(args.systems) or args.systems.split(",")
    args.systems = list(dict.fromkeys([BASELINE, *args.systems]))
    args.metrics = args.metrics.split(",")
    unknown = [n for n in args.systems if n not in WHERE] + [m for m in args.metrics if m not in METRICS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    return args


async def start(args: argparse.Namespace, folder: Path, local: LocalMesh, pairs: list[Pair]) -> list[str]:
    """Fill `pairs` with the systems that run here; returns a line for each that does not."""
    absent = []
    for name in args.systems:
        side = load(name)
        if lacks := side.missing():
            absent.append(f"{name}: not installed here, needs {', '.join(lacks)}")
            continue
        given: dict[str, Any] = {"folder": str(folder), "cap_s": args.cap_s}
        if side.mesh:
            # Members of two systems must not meet: each system has names, and so keys, of its own.
            given |= {"registry": local.registry_url, "keys": {m: local.api_key(f"{m}-{name}") for m in MEMBERS}}
            given["names"] = {m: f"{m}-{name}" for m in MEMBERS}
        pair = Pair(name, side, folder)
        pairs.append(pair)
        try:
            await pair.start(given)
        except (RuntimeError, TimeoutError) as exc:
            absent.append(f"{name}: did not start, {exc}")
            if args.verbose:
                for log in sorted(folder.glob(f"{name}-*.log")):
                    progress(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")
            pairs.remove(pair)
            await pair.stop()
            continue
        progress(f"started {name}")
    return absent


def save(args: argparse.Namespace, samples: list[dict[str, Any]], absent: list[str]) -> str:
    """Write samples and tables, after each round: a run that is broken off keeps what it has. Returns the tables."""
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"machine": machine, "samples": samples, "absent": absent}, indent=1))
    text = tables(samples, {name: load(name).note for name in args.systems}, absent, OURS)
    args.json.with_suffix(".md").write_text(text + "\n")
    return text


async def rounds(args: argparse.Namespace, pairs: list[Pair], absent: list[str]) -> list[dict[str, Any]]:
    """All samples: {round, system, metric, figures or error}."""
    samples: list[dict[str, Any]] = []
    began = time.monotonic()
    for n in range(args.rounds):
        order = pairs[n % len(pairs) :] + pairs[: n % len(pairs)]
        for metric in args.metrics:
            for pair in order:
                if metric in STREAMED and not pair.side.streams:
                    continue
                try:
                    found = await pair.measure(metric)
                except (RuntimeError, TimeoutError) as exc:
                    found = {"error": str(exc)[:200]}
                samples.append({"round": n, "system": pair.name, "metric": metric, **found})
                shown = " ".join(f"{k}={v:,.1f}" for k, v in found.items() if isinstance(v, float | int))
                progress(f"[{time.monotonic() - began:5.0f} s] round {n} {metric:6} {pair.name:17} {shown or found}")
        save(args, samples, absent)
    return samples


async def main() -> int:
    args = arguments()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # and stop all of it
    with tempfile.TemporaryDirectory(prefix="bench-langchain-") as folder:
        async with LocalMesh() as local:
            pairs: list[Pair] = []
            try:
                absent = await start(args, Path(folder), local, pairs)
                samples = await rounds(args, pairs, absent)
            finally:
                for pair in pairs:
                    await pair.stop()
    print(save(args, samples, absent))
    return 1 if any("error" in s for s in samples) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
