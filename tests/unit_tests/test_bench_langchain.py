"""The benchmark of the LangChain surface runs, and its tables say what was measured; figures are not judged."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench/langchain"


def load(name: str) -> ModuleType:
    """A module of the benchmark, which is no package."""
    spec = importlib.util.spec_from_file_location(f"bench_langchain_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def samples(system: str, per_round: list[float]) -> list[dict[str, object]]:
    """Tool calls of one system that took so many microseconds, a round each."""
    return [
        {"round": n, "system": system, "metric": "call", "p50_us": us, "p99_us": us, "n": 10, "cpu_s": 0.01}
        for n, us in enumerate(per_round)
    ]


def test_ratios_are_of_the_overhead_and_formed_within_a_round() -> None:
    """A machine that is slower in one round slows both: their ratio stays, that of the medians would not."""
    found = load("tables").tables(
        samples("in-process", [100, 200, 100])
        + samples("mesh-sidecar", [200, 600, 200])
        + samples("other", [400, 1400, 500]),
        {"in-process": "a", "mesh-sidecar": "b", "other": "c"},
        ["gone: not installed here"],
        "mesh-sidecar",
    )
    overhead = next(line for line in found.splitlines() if line.startswith("| other |") and "[" in line)
    assert overhead.startswith("| other | 3.0 [3.0–4.0] |")
    assert "- gone: not installed here" in found


@pytest.mark.slow
def test_a_system_is_measured_beside_the_baseline(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCH / "run.py"), "--systems", "mesh-memory", "--rounds", "1", "--cap-s", "0.1"]
    env = {**os.environ, "CHATIXIA_TRANSPORT": ""}
    done = subprocess.run(
        [*command, "--json", str(out)], capture_output=True, text=True, timeout=110, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())["samples"]
    assert {(s["system"], s["metric"]) for s in found} == {
        (system, metric)
        for system in ("in-process", "mesh-memory")
        for metric in ("call", "turn", "agent", "paced", "burst")
    }
    assert all(s["n"] > 0 for s in found)


@pytest.mark.parametrize("wrong", [["--systems", "pigeon"], ["--metrics", "colour"]])
def test_wrong_names_are_refused(wrong: list[str]) -> None:
    command = [sys.executable, str(BENCH / "run.py"), *wrong]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"unknown: {wrong[1]}" in done.stderr
