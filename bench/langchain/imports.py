"""What an import costs, in fresh interpreters: milliseconds above a bare start, interleaved, median and range."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STATEMENTS = [
    "import chatixia_langchain",
    "from chatixia_langchain import Mesh",
    "from langchain_core.tools import BaseTool",
    "from chatixia_langchain import Mesh, MeshTool",
    "from chatixia_langchain import Mesh, MeshTool, MeshAgent, RemoteAgent",
]


def start_ms(statement: str) -> float:
    """Milliseconds that a fresh interpreter takes for it, start and end included."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, timeout=60)
    return (time.perf_counter() - began) * 1e3


def modules(statement: str) -> int:
    """How many modules it brings."""
    code = f"import sys\nold = len(sys.modules)\n{statement}\nprint(len(sys.modules) - old)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60).stdout)


def measure(rounds: int) -> str:
    """The table. Each round starts a bare interpreter right before each statement."""
    above: dict[str, list[float]] = {s: [] for s in STATEMENTS}
    for _ in range(rounds):
        for statement in STATEMENTS:
            bare = start_ms("pass")
            above[statement].append(start_ms(statement) - bare)
    lines = ["| statement | ms above a bare start | modules |", "|---|---|---|"]
    for statement, took in above.items():
        cell = f"{statistics.median(took):.0f} [{min(took):.0f}–{max(took):.0f}]"
        lines.append(f"| `{statement}` | {cell} | {modules(statement)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
