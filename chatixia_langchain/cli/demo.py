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
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from typing import Any

from ..errors import MeshError
from ..mesh.local import LocalMesh
from ..testing.openai_server import OpenAIServer
from .demo_judge import judge, rows_of
from .demo_members import DemoFailed, Member, started
from .demo_script import QUESTION, rule
from .demo_view import View

HELP = "run three agents on this machine and show how they talk"
NAMES = ("planner", "researcher", "librarian")
BROADCAST_S = 10.0  # no answer tells that a broadcast was heard, so there is something to wait for
MODEL = "gpt-4o-mini"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare options."""
    parser.add_argument(
        "--transport",
        choices=["auto", "sidecar", "aiortc", "mailbox"],
        default="auto",
        help="auto: the sidecar, or aiortc where there is none; with the mailbox, which is no WebRTC, the demo fails",
    )
    parser.add_argument("--question", default=QUESTION, help="what the planner is asked (default: %(default)r)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="give up after S seconds (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON on the last line")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    view = View()
    result: dict[str, Any] = {"ok": False}
    try:
        result = asyncio.run(_within(args, view))
    except TimeoutError:
        result["missing"] = f"no end within {args.timeout:g} s: it was {view.doing}"
    except (DemoFailed, MeshError, OSError, RuntimeError) as exc:
        result["missing"] = str(exc)
    if result["ok"]:
        print(f"OK: all answers came back over WebRTC data channels, by {result['transport']}{result['note']}.")
    else:
        print(f"FAILED: {result['missing']}", file=sys.stderr)
    if args.json:
        print(json.dumps(result))
    return 0 if result["ok"] else 1


async def _within(args: argparse.Namespace, view: View) -> dict[str, Any]:
    try:
        async with asyncio.timeout(args.timeout):
            return await _demo(args, view)
    except DemoFailed:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # Ctrl-C reached the members first: it is not they who failed
            raise asyncio.CancelledError from None
        raise


async def _demo(args: argparse.Namespace, view: View) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        view.step(f"starting a registry and {', '.join(NAMES)}")
        # All at once: most of the time goes into imports.
        starting = asyncio.create_task(LocalMesh().start())
        stack.push_async_callback(_close, starting)
        members = {name: await stack.enter_async_context(started(name, view)) for name in NAMES}
        models = _models(stack, view)
        local = await starting
        view.line("registry", f"listens on {local.registry_url}")
        for name, member in members.items():
            key = local.api_key(name)
            member.tell(
                do="join", registry=local.registry_url, api_key=key, transport=args.transport, model=models[name]
            )
        view.doing = "waiting for the agents to join"
        joined = {name: await member.until("joined") for name, member in members.items()}
        view.step("the user asks the planner: " + args.question)
        members["planner"].tell(do="ask", text=args.question)
        await members["planner"].until("answered")
        if any(e["event"] == "tool" and e["name"] == "mesh_broadcast" for e in members["planner"].seen):
            view.doing = "waiting for the broadcast to be heard"
            await _heard_by(members["researcher"], members["librarian"])
        view.doing = "asking for the links"
        rows = [row for member in members.values() for row in rows_of(member.name, await _status(member))]
        view.links(rows)
        return judge({name: member.seen for name, member in members.items()}, joined, rows)


async def _close(starting: asyncio.Task[LocalMesh]) -> None:
    starting.cancel()  # does nothing when it has started
    await asyncio.gather(starting, return_exceptions=True)
    if not starting.cancelled() and starting.exception() is None:
        await starting.result().aclose()


def _models(stack: AsyncExitStack, view: View) -> dict[str, dict[str, Any] | None]:
    """The model of each agent: a real service if the environment names one; None is the script.

    Offline the planner runs the script behind a real client and server, where openai is installed.
    """
    name = os.environ.get("OPENAI_MODEL", MODEL)
    if os.environ.get("OPENAI_API_KEY"):
        view.step(f"model: {name} of {os.environ.get('OPENAI_BASE_URL', 'the OpenAI service')}")
        return {agent: {"client": {}, "name": name} for agent in NAMES}
    view.step("model: scripted, offline (OPENAI_API_KEY is not set)")
    models: dict[str, dict[str, Any] | None] = dict.fromkeys(NAMES)
    if find_spec("openai") is not None:
        server = stack.enter_context(OpenAIServer(rule))
        models["planner"] = {"client": {"base_url": server.url, "api_key": "offline"}, "name": "scripted"}
    return models


async def _heard_by(*members: Member) -> None:
    """Wait until they heard the broadcast, or long enough: `judge` says who did not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BROADCAST_S):
            for member in members:
                while not any(e["event"] == "turn" and e["broadcast"] for e in member.seen):
                    await member.until("turn")


async def _status(member: Member) -> dict[str, Any]:
    member.tell(do="links")
    status: dict[str, Any] = (await member.until("links"))["status"]
    return status
