"""`chatixia-langchain demo`: a registry and three agents, each in its own process with its own sidecar.

The planner's model asks the researcher, who asks the librarian; the planner tells everyone what came out. The exit
code is 0 only if all answers came back over WebRTC data channels; otherwise one line says what was missing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import MeshError
from ..mesh.local import LocalMesh
from ..testing.openai_server import OpenAIServer
from .demo_script import QUESTION, rule
from .demo_view import View

HELP = "run three agents on this machine and show how they talk"
NAMES = ("planner", "researcher", "librarian")
STOP_S = 8.0
BROADCAST_S = 10.0  # no answer tells that a broadcast was heard, so there is something to wait for
CHANNELS = ("sidecar", "aiortc")  # transports whose messages go over WebRTC data channels


class DemoFailed(Exception):
    """The demo did not show what it is to show; the text says what was missing."""


@dataclass
class Member:
    """One agent's process, and what it told."""

    name: str
    process: asyncio.subprocess.Process
    told: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)  # a demo's worth: a few dozen
    seen: list[dict[str, Any]] = field(default_factory=list)

    def tell(self, **what: Any) -> None:
        """Send one order."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what).encode() + b"\n")

    async def until(self, *events: str) -> dict[str, Any]:
        """Wait until the member tells one of `events`. Raises DemoFailed when it failed or ended."""
        while True:
            event = await self.told.get()
            if event["event"] in events:
                return event
            if event["event"] in ("failed", "ended"):
                raise DemoFailed(f"{self.name}: {event.get('why', 'its process ended early')}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument(
        "--transport", choices=["auto", "sidecar", "aiortc"], default="auto", help="default: %(default)s"
    )
    parser.add_argument("--question", default=QUESTION, help="what the planner is asked (default: %(default)r)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="give up after S seconds (default: 60)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON on the last line")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    view = View()
    result: dict[str, Any] = {"ok": False}
    try:
        result = asyncio.run(_within(args, view))
    except TimeoutError:
        result["missing"] = f"no end within {args.timeout:g} s"
    except (DemoFailed, MeshError, RuntimeError) as exc:
        result["missing"] = str(exc)
    if result["ok"]:
        print(f"OK: all answers came back over WebRTC data channels ({result['transport']}, {result['dtls']}).")
    else:
        print(f"FAILED: {result['missing']}", file=sys.stderr)
    if args.json:
        print(json.dumps(result))
    return 0 if result["ok"] else 1


async def _within(args: argparse.Namespace, view: View) -> dict[str, Any]:
    async with asyncio.timeout(args.timeout):
        return await _demo(args, view)


async def _demo(args: argparse.Namespace, view: View) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        view.line("", "starting the registry")
        local = await stack.enter_async_context(LocalMesh())
        view.line("registry", f"listens on {local.registry_url}")
        env = _model_env(stack, view) | {
            "CHATIXIA_REGISTRY_URL": local.registry_url,
            "CHATIXIA_TRANSPORT": args.transport,
        }
        view.line("", f"starting {', '.join(NAMES)}")
        keys = {name: local.api_key(name) for name in NAMES}
        scopes = [stack.enter_async_context(_member(n, env | {"CHATIXIA_API_KEY": keys[n]}, view)) for n in NAMES]
        members = {m.name: m for m in [await s for s in scopes]}
        joined = {m.name: await m.until("joined") for m in members.values()}
        view.line("user", f"asks the planner: {args.question}")
        members["planner"].tell(do="ask", text=args.question)
        await members["planner"].until("answered")
        await _heard_by(members["researcher"], members["librarian"])
        links = await _links(members)
        view.links(links)
        return _judge(members, joined, links)


def _model_env(stack: AsyncExitStack, view: View) -> dict[str, str]:
    """The model's address and key: a real service if the environment names one, else a scripted one on this machine."""
    if os.environ.get("OPENAI_API_KEY"):
        view.line("", f"model: {os.environ.get('OPENAI_BASE_URL', 'the OpenAI service')}")
        return {k: v for k, v in os.environ.items() if k.startswith("OPENAI_")}
    server = stack.enter_context(OpenAIServer(rule))
    view.line("", "model: scripted, offline (OPENAI_API_KEY is not set)")
    return {"OPENAI_API_KEY": "offline", "OPENAI_BASE_URL": server.url, "NO_PROXY": "127.0.0.1"}


@asynccontextmanager
async def _member(name: str, env: dict[str, str], view: View) -> AsyncIterator[Member]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatixia_langchain.cli.demo_member", name,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=os.environ | env, limit=1 << 20,
    )  # fmt: skip
    member = Member(name, process)
    reading = asyncio.create_task(_read(member, view), name=f"demo-{name}")
    try:
        yield member
    finally:
        await _stop(process)
        await reading


async def _read(member: Member, view: View) -> None:
    assert member.process.stdout is not None
    async for line in member.process.stdout:
        event = json.loads(line)
        view.event(member.name, event)
        member.seen.append(event)
        member.told.put_nowait(event)
    member.told.put_nowait({"event": "ended"})


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End it as a terminal would: close its input, then ask, then force."""
    assert process.stdin is not None
    process.stdin.close()
    for end in (process.terminate, process.kill):
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
                return
        except TimeoutError:
            end()
    await process.wait()


async def _links(members: dict[str, Member]) -> list[dict[str, str]]:
    rows = []
    for member in members.values():
        member.tell(do="links")
        status = (await member.until("links"))["status"]
        for peer, link in sorted(status["links"].items()):
            path = link.get("path")
            kinds = f"{path.get('local')}/{path.get('remote')}" if isinstance(path, dict) else str(path or "-")
            rtt = link.get("rtt_ms")
            rows.append(
                {
                    "link": f"{member.name} > {peer}",
                    "state": str(link.get("state", "-")),
                    "path": kinds,
                    "dtls": str(link.get("dtls") or "-"),
                    "rtt_ms": f"{rtt:.2f}" if isinstance(rtt, int | float) else "-",
                    "transport": status["transport"],
                }
            )
    return rows


async def _heard_by(*members: Member) -> None:
    """Wait until they heard the broadcast, or long enough: `_judge` says who did not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BROADCAST_S):
            for member in members:
                while not (await member.until("turn"))["broadcast"]:
                    pass


def _judge(
    members: dict[str, Member], joined: dict[str, dict[str, Any]], links: list[dict[str, str]]
) -> dict[str, Any]:
    """Say whether everything came back, and by which way.

    Raises DemoFailed naming the first thing that is missing.
    """
    told = members["planner"].seen
    tools = {e["name"]: e for e in told if e["event"] == "tool"}
    answers = [e["text"] for e in told if e["event"] == "said" and not e["calls"]]
    nested = [
        e for e in members["librarian"].seen if e["event"] == "turn" and e["kind"] == "ended" and not e["broadcast"]
    ]
    heard = {n for n in ("researcher", "librarian") if any(e.get("broadcast") for e in members[n].seen)}
    ways = {n: j["transport"] for n, j in joined.items()}
    if failed := next((t for t in tools.values() if t["failed"]), None):
        raise DemoFailed(f"{failed['name']} failed: {failed['text']}")
    if "ask_researcher" not in tools or not answers:
        raise DemoFailed("the planner got no answer of the researcher")
    if not nested:
        raise DemoFailed("the librarian answered nothing: the nested request is missing")
    if "mesh_broadcast" not in tools or heard != {"researcher", "librarian"}:
        raise DemoFailed(f"the broadcast reached {', '.join(sorted(heard)) or 'nobody'}, not everyone")
    paths = {(tools["ask_researcher"]["artifact"] or {}).get("path"), *(e["path"] for e in nested)}
    if paths != {"channel"}:
        raise DemoFailed(f"answers came by {', '.join(sorted(map(str, paths)))}, not only by data channels")
    if wrong := {n: w for n, w in ways.items() if w not in CHANNELS}:
        raise DemoFailed(f"not WebRTC: {wrong}")
    dtls = sorted({row["dtls"] for row in links if row["dtls"] != "-"})
    return {
        "ok": True,
        "answer": answers[-1],
        "transport": "/".join(sorted(set(ways.values()))),
        "dtls": "/".join(dtls) or "DTLS",
        "links": links,
    }
