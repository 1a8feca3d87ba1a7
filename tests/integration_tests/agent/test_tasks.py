"""Tasks over real sidecars, with a caller that is killed by SIGKILL: the work goes on, and is done once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatixia_langchain import Incoming, LocalMesh, MeshAgent

from ...support import sidecar_binary, until

pytest.importorskip("langgraph.checkpoint.sqlite.aio")
pytestmark = [pytest.mark.sidecar, pytest.mark.slow]
CALLER = Path(__file__).with_name("task_caller.py")


class Bench:
    """`b` works in this process until it is let go; `a` is a process that is started anew for each step."""

    def __init__(self, local: LocalMesh, folder: Path) -> None:
        self._local, self._database = local, str(folder / "graph.sqlite")
        self.began: list[Incoming] = []
        self.stopped: list[str] = []
        self.go = asyncio.Event()

    async def work(self, message: Incoming) -> str:
        self.began.append(message)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.stopped.append(message.content)
            raise
        return f"did {message.content}"

    @asynccontextmanager
    async def caller(self, tool: str, **args: Any) -> AsyncIterator[str]:
        """What the tool said in a process that is killed at the end of the block."""
        env = {
            "CHATIXIA_REGISTRY_URL": self._local.registry_url,
            "CHATIXIA_API_KEY": self._local.api_key("a"),
            "CHATIXIA_SIDECAR": sidecar_binary(),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CALLER), self._database, tool, json.dumps(args),
            env={**os.environ, **env}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                line = await process.stdout.readline()
            yield str(json.loads(line))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with LocalMesh(transport="sidecar", sidecar_binary=sidecar_binary()) as local:
        made, b = Bench(local, tmp_path), await local.join("b")
        serving = asyncio.create_task(MeshAgent(b, made.work).serve())
        yield made
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_task_outlives_the_process_that_started_it(bench: Bench) -> None:
    async with bench.caller("mesh_start_task", peer="b", description="dig") as said:
        assert "is started" in said
        await until(lambda: bench.began)
    async with bench.caller("mesh_check_task") as said:
        assert "running" in said
    bench.go.set()
    async with bench.caller("mesh_check_task") as said:
        assert "did dig" in said
    async with bench.caller("mesh_list_tasks", status="success") as said:
        assert "success" in said
    assert len(bench.began) == 1


async def test_a_task_of_a_process_that_is_gone_can_be_stopped(bench: Bench) -> None:
    async with bench.caller("mesh_start_task", peer="b", description="dig"):
        await until(lambda: bench.began)
    async with bench.caller("mesh_cancel_task") as said:
        assert "is cancelled" in said
        await until(lambda: bench.stopped)
    assert (len(bench.began), bench.stopped) == (1, ["dig"])


async def test_a_task_of_a_process_that_is_gone_goes_on_with_new_instructions(bench: Bench) -> None:
    async with bench.caller("mesh_start_task", peer="b", description="dig"):
        await until(lambda: bench.began)
    async with bench.caller("mesh_update_task", instructions="dig deeper") as said:
        assert "goes on" in said
        await until(lambda: len(bench.began) == 2)
    assert bench.stopped == ["dig"]
    assert len({m.conversation for m in bench.began}) == 1
    bench.go.set()
    async with bench.caller("mesh_check_task") as said:
        assert "did dig deeper" in said
