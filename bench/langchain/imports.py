"""What an import costs in fresh interpreters, above a bare start measured right before.

CPU is the figure to go by: on a machine that does other things too, an import takes as long as the others let it. The
least of the wall times is what it would take alone.
"""

from __future__ import annotations

import resource
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


def cost_ms(statement: str) -> tuple[float, float]:
    """Milliseconds of CPU and of the wall clock that a fresh interpreter takes, start and end included."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, timeout=60)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3, wall * 1e3


def modules(statement: str) -> int:
    """How many modules it brings."""
    code = f"import sys\nold = len(sys.modules)\n{statement}\nprint(len(sys.modules) - old)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60).stdout)


def measure(rounds: int) -> str:
    """The table, statement by statement in interleaved rounds."""
    cpu: dict[str, list[float]] = {s: [] for s in STATEMENTS}
    wall: dict[str, list[float]] = {s: [] for s in STATEMENTS}
    bare: list[float] = []
    for _ in range(rounds):
        for statement in STATEMENTS:
            bare_cpu, bare_wall = cost_ms("pass")
            full_cpu, full_wall = cost_ms(statement)
            cpu[statement].append(full_cpu - bare_cpu)
            bare.append(bare_wall)
            wall[statement].append(full_wall)
    lines = ["| statement | CPU ms above a bare start | least wall ms | modules |", "|---|---|---|---|"]
    for s in STATEMENTS:
        cells = (
            f"{statistics.median(cpu[s]):.0f} [{min(cpu[s]):.0f}–{max(cpu[s]):.0f}] | {min(wall[s]) - min(bare):.0f}"
        )
        lines.append(f"| `{s}` | {cells} | {modules(s)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
