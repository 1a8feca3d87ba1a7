"""What is shipped: built here, installed in an environment of its own outside the tree, and started there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import chatixia_langchain

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(300)  # packages are fetched

TREE = ("PYTHONPATH", "SIDECAR_BINARY", "VIRTUAL_ENV", "CHATIXIA_REGISTRY_URL", "CHATIXIA_API_KEY")
BARE = {name: value for name, value in os.environ.items() if name not in TREE}


def run(*argv: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run to its end; the output is in the failure when the exit code is not 0."""
    options: dict[str, object] = {"env": BARE, "timeout": 240} | settings
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{argv[0]} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done  # type: ignore[no-any-return]


def build(kind: str, out: Path, **env: str) -> Path:
    """Build one distribution from the tree, as `python -m build` does; returns the file."""
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out, ROOT, env=BARE | env)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="session")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel without a sidecar."""
    return build("wheel", tmp_path_factory.mktemp("wheel"), CHATIXIA_BUILD_SIDECAR="skip")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    return build("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def bare_bin(pure_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of a new environment that holds the wheel and its base dependencies only."""
    home = tmp_path_factory.mktemp("bare") / "env"
    run(sys.executable, "-m", "venv", home)
    python = home / "bin/python"
    uv = Path(sys.executable).parent / "uv"
    with_uv = uv.exists() and not os.environ.get("PIP_NO_INDEX")
    installer = [uv, "pip", "install", "-q", "--python", python] if with_uv else [python, "-m", "pip", "install", "-q"]
    run(*installer, pure_wheel, cwd=home)
    return home / "bin"


def test_versions_agree() -> None:
    """One version for both halves: they are released together and refuse each other's protocol otherwise."""
    crate = tomllib.loads((ROOT / "sidecar-rs/Cargo.toml").read_text())["package"]["version"]
    assert crate == chatixia_langchain.__version__
    lock = tomllib.loads((ROOT / "sidecar-rs/Cargo.lock").read_text())["package"]
    assert [p["version"] for p in lock if p["name"] == "chatixia-sidecar"] == [crate]
    assert f"## {crate}" in (ROOT / "CHANGELOG.md").read_text()


def test_pure_wheel_is_pure_and_whole(pure_wheel: Path) -> None:
    assert pure_wheel.name == f"chatixia_langchain-{chatixia_langchain.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(pure_wheel).namelist()
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "chatixia_langchain").rglob("*.py")}
    assert sources <= set(names)
    assert "chatixia_langchain/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"chatixia_langchain"}, "something else went in"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_wheel_with_a_sidecar_has_it_among_its_programs(tmp_path: Path) -> None:
    program = tmp_path / "chatixia-sidecar"
    program.write_text("#!/bin/sh\necho 'chatixia-sidecar 0 (protocol 1)'\n")
    program.chmod(0o755)
    wheel = build("wheel", tmp_path / "out", CHATIXIA_SIDECAR_PREBUILT=str(program))
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    assert [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".data/scripts/chatixia-sidecar")]


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"CHATIXIA_BUILD_SIDECAR": "maybe"}, "CHATIXIA_BUILD_SIDECAR='maybe' is unknown"),
        ({"CHATIXIA_BUILD_SIDECAR": "require", "PATH": "/usr/bin-nowhere"}, "the sidecar was not built: cargo"),
    ],
)
def test_wrong_build_settings_are_named(tmp_path: Path, env: dict[str, str], says: str) -> None:
    argv = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(argv, env=BARE | env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert says in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_sdist_holds_the_sources_and_nothing_built(sdist: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    must = {"sidecar-rs/Cargo.toml", "sidecar-rs/Cargo.lock", "sidecar-rs/src/main.rs", "hatch_build.py", "LICENSE"}
    assert must <= names
    assert "chatixia_langchain/__init__.py" in names
    assert "protocol/limits.json" in names
    assert not [n for n in names if "/target/" in n or n.endswith((".pyc", ".so")) or n.startswith((".venv", "bench"))]


def test_sdist_builds_the_same_wheel(sdist: Path, pure_wheel: Path, tmp_path: Path) -> None:
    """Who installs from the source distribution gets what the tree gives."""
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    argv = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "out", source]
    run(*argv, env=BARE | {"CHATIXIA_BUILD_SIDECAR": "skip"})
    (again,) = (tmp_path / "out").iterdir()
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(pure_wheel).namelist())


def test_base_install_imports_without_extras(bare_bin: Path, tmp_path: Path) -> None:
    code = (
        "import chatixia_langchain as c; [getattr(c, n) for n in c.__all__ if n not in c._EXTRAS]; "
        "print(c.__version__, c.__file__)"
    )
    done = run(bare_bin / "python", "-c", code, cwd=tmp_path)
    version, _, where = done.stdout.strip().partition(" ")
    assert version == chatixia_langchain.__version__
    assert where.startswith(str(bare_bin.parent)), "the tree's package was imported, not the installed one"


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["version"], ["doctor", "--help"], ["registry", "--help"]])
def test_command_works_without_extras(bare_bin: Path, tmp_path: Path, argv: list[str]) -> None:
    assert "chatixia" in run(bare_bin / "chatixia-langchain", *argv, cwd=tmp_path).stdout


def test_module_is_the_command(bare_bin: Path, tmp_path: Path) -> None:
    by_module = run(bare_bin / "python", "-m", "chatixia_langchain", "--help", cwd=tmp_path)
    assert by_module.stdout == run(bare_bin / "chatixia-langchain", "--help", cwd=tmp_path).stdout


def test_doctor_says_that_no_transport_is_there(bare_bin: Path, tmp_path: Path) -> None:
    """Neither sidecar nor aiortc: exit code 1 and the way out, not a traceback."""
    path = str(Path(shutil.which("env") or "/usr/bin/env").parent)
    env = BARE | {"PATH": path, "HOME": str(tmp_path)}
    argv = [bare_bin / "chatixia-langchain", "doctor"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "FAIL transport" in done.stdout
    assert "pip install 'chatixia-langchain[aiortc]'" in done.stdout
    assert "Traceback" not in done.stderr


def test_name_that_needs_an_extra_says_which(bare_bin: Path, tmp_path: Path) -> None:
    argv = [bare_bin / "python", "-c", "from chatixia_langchain import MeshMiddleware"]
    done = subprocess.run(argv, cwd=tmp_path, env=BARE, capture_output=True, text=True, timeout=60, check=False)
    said = "ImportError: MeshMiddleware needs langchain: pip install 'chatixia-langchain[agents]'"
    assert done.stderr.rstrip().endswith(said)


def test_missing_extra_names_the_pip_command(bare_bin: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    run(bare_bin / "chatixia-langchain", "registry", "init", "--api-keys", keys, "--peer", "a", cwd=tmp_path)
    argv = [bare_bin / "chatixia-langchain", "registry", "--port", "0", "--api-keys", str(keys)]
    done = subprocess.run(argv, cwd=tmp_path, env=BARE, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "pip install 'chatixia-langchain[registry]'" in done.stderr
    assert "Traceback" not in done.stderr
