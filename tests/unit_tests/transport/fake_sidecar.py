"""A sidecar that only speaks IPC: one peer, `echo`, that sends everything back. Its faults are chosen by FAKE_MODE.

Run by the tests as a real process through a wrapper script, the way the real binary is run.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

MODE = os.environ.get("FAKE_MODE", "")


class Fake:
    """Serves one client at a time."""

    def __init__(self) -> None:
        self.taken = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(kind: str, payload: Any, request_id: Any = None) -> None:
            line = {"type": kind} | ({} if request_id is None else {"id": request_id}) | {"payload": payload}
            writer.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")

        if self.taken:
            say("error", {"code": "busy", "message": "another client is attached", "retryable": True, "executed": "no"})
            writer.close()
            return
        self.taken = True
        held = []
        while line := await reader.readline():
            command = json.loads(line)
            number, payload = command.get("id"), command.get("payload", {})
            match command["type"]:
                case "hello":
                    protocol = 2 if MODE == "mismatch" else 1
                    hello = {
                        "protocol": protocol,
                        "version": "9",
                        "peer_id": "",
                        "fingerprint": "sha-256 AB",
                        "window_bytes": 300_000,
                    }
                    say("hello", hello | {"max_message_bytes": 262144, "max_line_bytes": 270336}, number)
                    state = {"refused": "refused", "silent": "connecting"}.get(MODE, "connected")
                    say(
                        "signaling",
                        {
                            "state": state,
                            "peer_id": os.environ["PEER_ID"],
                            "reason": "bad key" if MODE == "refused" else "",
                        },
                    )
                    say("peer_joined", {"peer_id": "echo", "fingerprint": "sha-256 CD", "protocol": 1})
                case "connect" if payload["target_peer_id"] == "echo":
                    await asyncio.sleep(0.05)
                    up = {"peer_id": "echo", "generation": 7, "protocol": 1, "fingerprint": "sha-256 CD"}
                    path = {"local": "host", "remote": "srflx"}
                    say("peer_connected", up | {"max_message_bytes": 262144, "path": path})
                    say("ok", {}, number)
                case "connect":
                    say(
                        "error",
                        {"code": "peer_unreachable", "message": "not online", "retryable": True, "executed": "no"},
                        number,
                    )
                case "disconnect":
                    say("peer_disconnected", {"peer_id": "echo", "generation": 7, "reason": "closed"})
                    say("ok", {}, number)
                case "status":
                    env = {
                        k: os.environ.get(k, "")
                        for k in ("PEER_ID", "SIGNALING_URL", "TOKEN_URL", "DIAL", "SECRET_OF_PARENT")
                    }
                    say(
                        "status",
                        {
                            "env": env,
                            "argv": sys.argv,
                            "peers": {"echo": {"path": {"local": "host", "remote": "host"}}},
                        },
                        number,
                    )
                case "send":
                    if "die" in payload["message"]:
                        print("I was told to die", file=sys.stderr, flush=True)
                        os._exit(3)
                    if MODE == "hold":
                        held.append(number)
                        if "release" in payload["message"] or len(held) == 3:
                            await asyncio.sleep(0.1)
                            for n in held:
                                say("ok", {}, n)
                            held.clear()
                        continue
                    say("ok", {}, number)
                    say("message", {"from_peer": "echo", "message": payload["message"]})
            await writer.drain()
        self.taken = False
        writer.close()


async def main() -> None:
    """Listen on IPC_SOCKET until stdin ends."""
    if MODE == "crash":
        print("first line\ncannot start: no luck", file=sys.stderr, flush=True)
        sys.exit(7)
    if MODE == "never":
        await asyncio.sleep(60)
    await asyncio.start_unix_server(Fake().serve, os.environ["IPC_SOCKET"], limit=1 << 20)
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    if os.environ.get("EXIT_ON_STDIN_EOF"):
        loop.add_reader(0, lambda: ended.set_result(None) if not os.read(0, 100) and not ended.done() else None)
    await ended


asyncio.run(main())
