"""What the drivers of this project share: a registry, its keys, and where the programs are.

Environment: BENCH_REGISTRY_CMD, a command line with {port} and {keys} filled in, and BENCH_SIDECAR_BIN, to measure
other programs that speak the same protocol. Default: this tree's.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import orjson

from .base import HOST, Ctx

ROOT = Path(__file__).resolve().parents[2]
# Only good for the registry that this run starts on the loopback interface.
KEYS = {"alpha": "k-alpha-0123456789abcdef", "beta": "k-beta-0123456789abcdef"}
REGISTRY_CMD = f"{shlex.quote(sys.executable)} -m chatixia_langchain registry --port {{port}} --api-keys {{keys}}"


def sidecar_binary() -> str:
    """The sidecar to measure. Raises FileNotFoundError with what to do."""
    built = ROOT / "sidecar-rs/target/release/chatixia-sidecar"
    for named in (os.environ.get("BENCH_SIDECAR_BIN"), os.environ.get("SIDECAR_BINARY"), str(built)):
        if named and shutil.which(named):
            return named
    raise FileNotFoundError("no sidecar: run `./dev bench`, which builds it, or set BENCH_SIDECAR_BIN")


def registry_url(ctx: Ctx) -> str:
    """Base URL of this run's registry."""
    return f"http://{HOST}:{ctx.ports[0]}"


async def start_registry(ctx: Ctx):
    """Start the registry and wait until it listens."""
    port, keys = ctx.ports[0], ctx.path("keys.json")
    with open(keys, "wb") as f:
        f.write(orjson.dumps({"keys": {k: {"peer_id": n, "role": "agent"} for n, k in KEYS.items()}}))
    os.chmod(keys, 0o600)
    command = os.environ.get("BENCH_REGISTRY_CMD", REGISTRY_CMD).format(port=port, keys=keys)
    env = {"PORT": str(port), "API_KEYS_FILE": keys, "SIGNALING_SECRET": "bench-secret-0123456789-0123456789-ab"}
    return await ctx.spawn(shlex.split(command), wait_port=port, env=env)


async def start_sidecar(ctx: Ctx, name: str):
    """Start a sidecar for one of the two agents; its socket is `<name>.sock`."""
    env = {
        "IPC_SOCKET": ctx.path(f"{name}.sock"),
        "SIGNALING_URL": f"ws://{HOST}:{ctx.ports[0]}/ws",
        "TOKEN_URL": f"{registry_url(ctx)}/api/token",
        "API_KEY": KEYS[name],
        "PEER_ID": name,
        "ICE_ALLOW_LOOPBACK": "1",  # read by chatixia-mesh's sidecar; ours gathers what there is
    }
    return await ctx.spawn([sidecar_binary()], wait_path=ctx.path(f"{name}.sock"), env=env)
