"""The task runner of the README's two commands, and what its strict mode makes of skips."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DEV = ROOT / "dev"


@pytest.fixture
def dev() -> ModuleType:
    """The script as a module."""
    loader = SourceFileLoader("dev_script", str(DEV))
    spec = spec_from_loader("dev_script", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def run(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ./dev, with nothing but `env` changed."""
    whole = {k: v for k, v in os.environ.items() if k != "CHATIXIA_STRICT"} | env
    argv = (sys.executable, str(DEV), *argv)
    return subprocess.run(argv, env=whole, capture_output=True, text=True, timeout=50, check=False)


def test_an_old_python_can_read_it_and_is_refused(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A syntax error would be all that a user of an old Python sees."""
    ast.parse(DEV.read_text(), feature_version=(3, 8))
    monkeypatch.setattr(sys, "version_info", (3, 8, 10))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed"):
        dev.right_python()


def test_it_needs_the_standard_library_only() -> None:
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]  # type: ignore[union-attr]
        for node in ast.walk(ast.parse(DEV.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names


def test_tasks_that_are_written_about_exist(dev: ModuleType) -> None:
    texts = [(ROOT / name).read_text() for name in ("README.md", "bench/README.md", ".ci/run")] + [dev.__doc__ or ""]
    named = {task for text in texts for task in re.findall(r"\./dev ([a-z]+)", text)}
    assert named == set(dev.TASKS)


@pytest.mark.parametrize(("argv", "code"), [([], 0), (["--help"], 0), (["tset"], 2)])
def test_help_and_unknown_tasks(argv: list[str], code: int) -> None:
    done = run(*argv)
    assert (done.returncode, "./dev demo" in done.stdout) == (code, True)


@pytest.mark.parametrize("task", ["test", "lint"])
def test_strict_without_cargo_fails_and_says_why(task: str) -> None:
    """Python tests alone must not pass for a run of everything."""
    if not (ROOT / ".venv/bin/python").exists():
        pytest.skip("these tests do not run in the environment that ./dev makes")
    done = run(task, "--strict", PATH="/nowhere")
    assert done.returncode == 1
    assert "cargo is not on PATH" in done.stderr


def test_failed_steps_are_timed_too(dev: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    steps = dev.Steps()
    with pytest.raises(dev.Failed, match="false exited with 1"), steps.step("breaking"):
        dev.must("false")
    steps.table("test FAILED")
    assert re.search(r"breaking +\d+\.\d s\n +total", capsys.readouterr().err)


SUITE = """
import pytest
def test_passes(): pass
def test_skips(): pytest.skip({reason!r})
@pytest.mark.browser
def test_needs_chromium(): pytest.skip("no Chromium, so the registry page is not tried")
@pytest.mark.sidecar
def test_marked(): {marked}
"""


@pytest.mark.parametrize(
    ("reason", "marked", "strict", "code"),
    [
        ("no sidecar binary: run cargo build", "pass", "", 0),
        ("no sidecar binary: run cargo build", "pass", "1", 1),
        ("go is not on PATH", "pass", "1", 1),
        ("not on this kind of machine", "pass", "1", 0),
        ("not on this kind of machine", "pytest.skip('later')", "1", 1),
    ],
)
def test_strict_fails_on_skips_that_hide_a_part(
    tmp_path: Path, reason: str, marked: str, strict: str, code: int
) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  browser: x\n  sidecar: x\n")
    (tmp_path / "test_suite.py").write_text(SUITE.format(reason=reason, marked=marked))
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    env = os.environ | {"CHATIXIA_STRICT": strict}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == code, done.stdout
    assert ("skips that --strict counts as failures" in done.stdout) == bool(code)
