"""The benchmark runs: both agents as processes, every message answered, ratios to floors; figures are not judged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
METRICS = ["rtt_p50_us", "rate_msg_s", "bulk_mb_s", "conc_rt_s"]


def bench(*argv: str, out: Path) -> tuple[dict[str, Any], str]:
    """Run `bench/peers.py`; returns the rows of its JSON and what it printed."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not on PATH, so the floor's relays cannot be built")
    command = [
        sys.executable,
        str(ROOT / "bench/peers.py"),
        "--rounds",
        "1",
        "--cap-s",
        "0.2",
        "--json",
        str(out),
        *argv,
    ]
    done = subprocess.run(command, cwd=out.parent, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows: dict[str, Any] = json.loads(out.read_text())["rows"]
    return rows, done.stdout


def test_a_peer_is_measured_beside_both_floors(tmp_path: Path) -> None:
    rows, printed = bench("--systems", "websockets,slim", out=tmp_path / "out.json")
    for metric in METRICS:
        assert rows["websockets"][metric] > 0
        assert rows["websockets"][f"{metric}/floor-uds4"] > 0
    assert rows["floor-uds4"]["errors"] == rows["websockets"]["errors"] == []
    assert "- slim: needs slim_bindings" in printed, "what is not installed is said, and is no error"


@pytest.mark.sidecar
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("system", ["sidecar-ipc", "mesh-sidecar", "mesh-aiortc"])
def test_this_project_is_measured(tmp_path: Path, system: str) -> None:
    if system != "mesh-aiortc" and not (ROOT / "sidecar-rs/target/release/chatixia-sidecar").exists():
        pytest.skip("no sidecar binary: run ./dev setup")
    rows, _ = bench("--systems", system, "--verbose", out=tmp_path / "out.json")
    assert rows[system]["errors"] == []
    assert [m for m in METRICS if not rows[system][m]] == []


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench/peers.py"), "--systems", "pigeon"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "unknown: pigeon" in done.stderr
