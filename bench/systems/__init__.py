"""Every system by name: where its driver is and what it needs. Drivers are imported only in the runs that use them."""

from __future__ import annotations

import shutil
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

# name: (module:class, what has to be installed; "program:x" is a program, anything else a Python module)
REGISTRY: dict[str, tuple[str, tuple[str, ...]]] = {
    "floor-uds": ("floor_uds:FloorUds", ()),
    "floor-uds4": ("floor_uds4:FloorUds4", ("program:gcc",)),
    "sidecar-ipc": ("sidecar_ipc:SidecarIpc", ("fastapi", "uvicorn")),
    "mesh-sidecar": ("mesh_member:MeshSidecar", ("fastapi", "uvicorn")),
    "mesh-aiortc": ("mesh_member:MeshAiortc", ("fastapi", "uvicorn", "aiortc")),
    "aiortc": ("aiortc_dc:Aiortc", ("aiortc",)),
    "pylibdatachannel": ("libdatachannel_dc:LibDataChannel", ("pylibdatachannel",)),
    "iroh": ("iroh_quic:Iroh", ("iroh",)),
    "http": ("http_httpx:Http", ("httpx", "starlette", "uvicorn", "httptools")),
    "http-pool8": ("http_httpx:HttpPool8", ("httpx", "starlette", "uvicorn", "httptools")),
    "websockets": ("ws:WebSockets", ("websockets",)),
    "grpc-unary": ("grpc_aio:GrpcUnary", ("grpc",)),
    "grpc-stream": ("grpc_aio:GrpcStream", ("grpc",)),
    "a2a-jsonrpc": ("a2a_sdk:A2AJsonRpc", ("a2a", "uvicorn", "sse_starlette")),
    "a2a-jsonrpc-pool8": ("a2a_sdk:A2AJsonRpcPool8", ("a2a", "uvicorn", "sse_starlette")),
    "a2a-grpc": ("a2a_sdk:A2AGrpc", ("a2a", "grpc")),
    "nats": ("nats_broker:Nats", ("nats", "program:nats-server")),
    "redis-pubsub": ("redis_broker:RedisPubSub", ("redis", "program:redis-server")),
    "redis-streams": ("redis_broker:RedisStreams", ("redis", "program:redis-server")),
    "zenoh": ("zenoh_peer:Zenoh", ("zenoh",)),
    "slim": ("slim_agntcy:Slim", ("slim_bindings",)),
    "slim-uds": ("slim_agntcy:SlimUds", ("slim_bindings",)),
    "slim-mls": ("slim_agntcy:SlimMls", ("slim_bindings",)),
}
OURS = ["sidecar-ipc", "mesh-sidecar", "mesh-aiortc"]


def load(name: str):
    """The driver class of a system."""
    module, cls = REGISTRY[name][0].split(":")
    return getattr(import_module(f"{__name__}.{module}"), cls)


def missing(name: str) -> list[str]:
    """What a system needs that is not installed here; empty when it can run."""
    return [need for need in REGISTRY[name][1] if not _installed(need)]


def _installed(need: str) -> bool:
    kind, _, program = need.rpartition(":")
    if kind != "program":
        return find_spec(need) is not None
    return shutil.which(program) is not None or (Path(sys.executable).parent / program).exists()
