"""The pytest plugin as another project has it: by its entry point, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ...support import sidecar_binary

pytest_plugins = ["pytester"]

USES_ALL = """
import asyncio
import pytest
from openai import AsyncOpenAI
from chatixia_langchain import LocalMesh, Mesh, MeshTool
from chatixia_langchain.testing import FakeMesh, OpenAIServer, ScriptedChat

seen = []

@pytest.mark.asyncio
async def test_with_a_loop(fake_mesh, openai_server, scripted_chat):
    mesh = fake_mesh("planner", peers={"oracle": scripted_chat("42")}, loss=0.2, seed=3)
    assert isinstance(mesh, FakeMesh)
    seen.append(mesh)
    assert (await mesh.ask("oracle", "what?")).content == "42"
    await mesh.join("late", lambda text: text[::-1])
    assert (await MeshTool(mesh, peer="late").ainvoke({"message": "abc"})) == "cba"
    mesh.partition("late")
    mesh.heal()
    await mesh.leave("late")
    async with AsyncOpenAI(base_url=openai_server.url, api_key="x") as client:
        said = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
    assert said.choices[0].message.content == "echo: hi"

def test_without_a_loop(fake_mesh, scripted_chat):
    assert seen[0].closed and not fake_mesh("other").closed
    mesh = fake_mesh(peers={"oracle": str.upper})
    assert mesh.sync.ask("oracle", "what?").content == "WHAT?"
    assert scripted_chat(lambda messages, tools: messages[-1].text + "!", model_name="m").invoke("hey").text == "hey!"

@pytest.mark.asyncio
@pytest.mark.parametrize("local_mesh", ["memory"], indirect=True)
async def test_local(local_mesh):
    assert isinstance(local_mesh, LocalMesh)
    a, b = await local_mesh.join("a"), await asyncio.to_thread(local_mesh.join_sync, "b")
    await a.send("b", "hello")
    async for message in b.incoming():
        assert message.content == "hello"
        break
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest on a text with this plugin and those that are named, and none that happens to be installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def start(text: str, *argv: str) -> pytest.RunResult:
        pytester.makepyfile(text)
        plugin = ("-p", "chatixia_langchain.testing.plugin", "-p", "no:cacheprovider")
        return pytester.runpytest_subprocess("-q", *plugin, *argv, timeout=120)

    return start


def test_each_fixture_works_with_a_loop_and_without(run: Callable[..., pytest.RunResult]) -> None:
    run(USES_ALL, "-p", "pytest_asyncio.plugin").assert_outcomes(passed=3)


def test_unused_it_imports_nothing_and_it_can_be_turned_off(pytester: pytest.Pytester) -> None:
    """Every project that has the package installed loads the plugin with each run of pytest, by its entry point."""
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.hasplugin("chatixia_langchain")
            ours = {m for m in sys.modules if m.startswith("chatixia_langchain.")}
            assert ours == {"chatixia_langchain.testing", "chatixia_langchain.testing.plugin"}
            assert not {"langchain_core", "openai", "langgraph", "httpx2"} & set(sys.modules)
        """
    )
    # LangSmith's own plugin imports langchain-core: it must not be taken for ours.
    argv = ("-q", "-p", "no:langsmith_plugin")
    pytester.runpytest_subprocess(*argv, timeout=120).assert_outcomes(passed=1)
    off = pytester.runpytest_subprocess(*argv, "-p", "no:chatixia_langchain", timeout=120)
    off.assert_outcomes(failed=1)
    off.stdout.fnmatch_lines(["*hasplugin('chatixia_langchain')*"])


def test_its_fixtures_are_documented(run: Callable[..., pytest.RunResult]) -> None:
    listed = run("", "--fixtures")
    listed.stdout.fnmatch_lines(
        ["*fake_mesh*", "*starts a `FakeMesh`*", "*local_mesh*", "*openai_server*", "*scripted_chat*"]
    )


@pytest.mark.sidecar
@pytest.mark.parametrize("transport", ["sidecar", "aiortc"])
def test_a_real_mesh_for_a_test_without_a_loop(run: Callable[..., pytest.RunResult], transport: str) -> None:
    binary = sidecar_binary() if transport == "sidecar" else ""
    ran = run(
        f"""
        import pytest

        @pytest.mark.parametrize("local_mesh", ["{transport}"], indirect=True)
        def test_it(local_mesh, monkeypatch):
            if "{binary}":
                monkeypatch.setenv("SIDECAR_BINARY", "{binary}")
            a, b = local_mesh.join_sync("a"), local_mesh.join_sync("b")
            a.sync.wait_for_peer("b")
            a.sync.send("b", "hello")
            message = next(b.sync.incoming())
            assert (message.content, message.path, a.transport_name) == ("hello", "channel", "{transport}")
        """
    )
    ran.assert_outcomes(passed=1)
