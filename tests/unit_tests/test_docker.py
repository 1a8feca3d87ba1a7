"""Dockerfile and compose.yaml without an engine: linted, checked against the tree, and their steps replayed.

The replay runs the RUN lines of the real Dockerfile, in a folder per stage that stands for the stage's root; absolute
paths are moved into it. The crate is a tiny one: what is tested is the order of the steps, not the compiler.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OLD = 1_000_000_000  # COPY keeps the times of the files, and a checkout may be older than the stub's build
MOVED = re.compile(r"(?<![\w.$/])/(?=(?:src|dist|run|app|usr/local|etc/ssl)\b)")
FROM_BASE_IMAGE = {"/etc/ssl/certs/ca-certificates.crt"}
TINY_MAIN = 'fn main() { println!("chatixia-sidecar 0.1.0 (protocol {})", chatixia_sidecar::PROTOCOL); }\n'


@dataclass
class Stage:
    """One FROM and what follows it."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """The arguments of every `word` instruction."""
        return [rest for instruction, rest in self.steps if instruction == word]


def stages() -> dict[str, Stage]:
    """The real Dockerfile, by stage."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, Stage] = {}
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            found[name] = Stage(name, base)
        else:
            list(found.values())[-1].steps.append((word, rest.strip()))
    return found


def copies(stage: Stage) -> list[tuple[str, list[str], str]]:
    """(stage it comes from or "", sources, destination) of every COPY."""
    out = []
    for rest in stage.all("COPY"):
        words = rest.split()
        origin = words.pop(0).partition("=")[2] if words[0].startswith("--from=") else ""
        out.append((origin, words[:-1], words[-1]))
    return out


def sources_in_tree() -> set[str]:
    """Everything that some COPY takes from the tree."""
    return {s for stage in stages().values() for origin, sources, _ in copies(stage) if not origin for s in sources}


def compose() -> dict[str, Any]:
    """compose.yaml, anchors resolved."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


OURS = {name: service for name, service in compose()["services"].items() if "build" in service}


def tool(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


@pytest.mark.parametrize(
    "argv",
    [["hadolint", "Dockerfile"], ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml"]],
)
def test_linters_find_nothing(argv: list[str]) -> None:
    done = subprocess.run([tool(argv[0]), *argv[1:]], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_source_is_in_git_and_let_in_by_dockerignore() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    files = listed.splitlines()
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in sources_in_tree():
        assert any(f == source or f.startswith(f"{source}/") for f in files), f"{source} is not in git"
    assert sources_in_tree() == let_in


def test_image_versions_fit_the_project() -> None:
    crate = tomllib.loads((ROOT / "sidecar-rs/Cargo.toml").read_text())["package"]["rust-version"]
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    releases = set()
    for stage in stages().values():
        image, tag = stage.base.split(":")
        version = tuple(map(int, re.findall(r"\d+", tag.split("-")[0])))
        needed = {"rust": crate, "python": python.removeprefix(">=")}.get(image)
        assert needed is None or version >= tuple(map(int, needed.split("."))), f"{stage.base} is older than {needed}"
        releases |= set(re.findall(r"bookworm|trixie", tag))
    assert len(releases) == 1, f"the sidecar is linked against one release's glibc and run on another: {releases}"


@pytest.mark.parametrize("target", ["sidecar", "registry", "agent"])
def test_images_run_as_an_ordinary_user(target: str) -> None:
    stage = stages()[target]
    assert stage.all("USER") == ["10001:10001"]
    assert "useradd" in stage.all("RUN")[0]
    assert "--uid 10001" in stage.all("RUN")[0]


def test_compose_builds_targets_that_exist() -> None:
    assert {s["build"]["target"] for s in OURS.values()} == {"sidecar", "registry", "agent"} <= set(stages())


def test_compose_gives_every_agent_a_socket_of_its_own() -> None:
    """Whoever can open the socket is the agent."""
    users: dict[str, set[str]] = {}
    for name, service in OURS.items():
        for volume in service.get("volumes", []):
            users.setdefault(volume.split(":")[0], set()).add(name)
    assert users == {
        "ipc-planner": {"planner", "sidecar-planner"},
        "ipc-researcher": {"researcher", "sidecar-researcher"},
    }
    assert all("mode=0700" in v["driver_opts"]["o"] for v in compose()["volumes"].values())


@pytest.mark.parametrize("name", sorted(OURS))
def test_compose_has_no_root_and_no_default_secret(name: str) -> None:
    service = OURS[name]
    assert (service["user"], service["read_only"], service["cap_drop"]) == ("10001:10001", True, ["ALL"])
    for variable, value in service.get("environment", {}).items():
        if re.search(r"KEY|SECRET|TOKEN|PASSWORD", variable) and not variable.endswith(("_FILE", "_URL")):
            assert value == f"${{{variable}:-}}", f"{variable} has a value in the file"
    words = " ".join(service.get("command", []))
    assert not re.search(r"key|secret", words.replace("--api-keys /run/secrets/api-keys", "")), "a secret in argv"


def test_compose_commands_have_options_that_exist() -> None:
    from chatixia_langchain.cli.main import load, parser

    argv = OURS["registry"]["command"]
    args = parser("registry", load("registry")).parse_args(argv)
    assert (args.host, args.port, args.api_keys) == ("0.0.0.0", 8080, "/run/secrets/api-keys")
    for name in ("planner", "researcher"):
        program, *options = OURS[name]["command"]
        helped = subprocess.run(
            [sys.executable, str(ROOT / program), "--help"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
        assert [o for o in options if o.startswith("--") and o not in helped] == []


class Replay:
    """Carries out stages in folders of their own."""

    def __init__(self, context: Path, work: Path, *, skip_touch: bool = False) -> None:
        self.context, self.work, self.skip_touch = context, work, skip_touch
        self.shims = work / "shims"
        self.shims.mkdir(parents=True)
        for name in ("useradd", "chown"):  # they need root; what they were asked is kept
            (self.shims / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {work}/asked\n')
            (self.shims / name).chmod(0o755)

    def root(self, stage: str) -> Path:
        """The folder that stands for a stage's root."""
        return self.work / stage

    def moved(self, stage: str, text: str) -> str:
        """Absolute paths of the image, moved into the stage's folder."""
        return MOVED.sub(f"{self.root(stage)}/", text)

    def run(self, name: str, *, path: str = "") -> None:
        """Carry out one stage."""
        stage, root = stages()[name], self.root(name)
        env = {k: v for k, v in os.environ.items() if k not in ("CARGO_TARGET_DIR", "SIDECAR_BINARY", "VIRTUAL_ENV")}
        env["PATH"] = os.pathsep.join(filter(None, [str(self.shims), path, env["PATH"]]))
        for folder in ("usr/local/bin", "run", "dist"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        cwd = root
        for word, rest in stage.steps:
            if word == "WORKDIR":
                cwd = root / rest.lstrip("/")
                cwd.mkdir(parents=True, exist_ok=True)
            elif word == "ENV":
                key, _, value = rest.partition("=")
                env[key] = self.moved(name, value)
            elif word == "COPY":
                self._copy(rest, name, cwd)
            elif word == "RUN":
                line = self.moved(name, rest)
                if self.skip_touch:
                    line = re.sub(r"touch src/main.rs src/lib.rs *&&", "", line)
                done = subprocess.run(
                    ["sh", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False
                )
                assert done.returncode == 0, f"RUN {line}\n{done.stdout}\n{done.stderr}"

    def _copy(self, rest: str, name: str, cwd: Path) -> None:
        words = rest.split()
        origin = words.pop(0).partition("=")[2] if words[0].startswith("--from=") else ""
        *sources, target = words
        into = Path(self.moved(name, target)) if target.startswith("/") else cwd / target
        for source in sources:
            if source in FROM_BASE_IMAGE:
                continue
            taken = self.root(origin) / source.lstrip("/") if origin else self.context / source
            to = into / taken.name if target.endswith("/") or len(sources) > 1 else into
            if taken.is_dir():
                shutil.copytree(taken, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(taken, to)


@pytest.fixture
def tiny_context(tmp_path: Path) -> Path:
    """This tree as a build context, with a crate that compiles in a second."""
    if not shutil.which("cargo"):
        pytest.skip("cargo is not on PATH, so the Dockerfile's steps cannot be replayed")
    context = tmp_path / "context"
    for source in sources_in_tree():
        if not source.startswith("sidecar-rs"):
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy2
            (context / source).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / source, context / source)
    crate = context / "sidecar-rs"
    (crate / "src").mkdir(parents=True)
    (crate / "Cargo.toml").write_text('[package]\nname = "chatixia-sidecar"\nversion = "0.1.0"\nedition = "2021"\n')
    (crate / "Cargo.lock").write_text('version = 3\n\n[[package]]\nname = "chatixia-sidecar"\nversion = "0.1.0"\n')
    (crate / "src/main.rs").write_text(TINY_MAIN)
    (crate / "src/lib.rs").write_text("pub const PROTOCOL: u32 = 1;\n")
    for file in crate.rglob("*.*"):
        os.utime(file, (OLD, OLD))
    return context


def test_the_real_manifest_is_content_with_the_stub(tmp_path: Path) -> None:
    """A target or build script that is named in Cargo.toml and not copied would end the first RUN of every build."""
    if not shutil.which("cargo"):
        pytest.skip("cargo is not on PATH")
    (tmp_path / "src").mkdir()
    for name in ("Cargo.toml", "Cargo.lock"):
        shutil.copy(ROOT / "sidecar-rs" / name, tmp_path)
    (tmp_path / "src/main.rs").write_text("fn main() {}\n")
    (tmp_path / "src/lib.rs").touch()
    argv = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    kinds = [kind for target in json.loads(done.stdout)["packages"][0]["targets"] for kind in target["kind"]]
    assert sorted(kinds) == ["bin", "lib"]


def built_says(replay: Replay) -> str:
    """What the program of the build stage prints."""
    binary = replay.root("build-sidecar") / "src/sidecar-rs/target/release/chatixia-sidecar"
    return subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout


def test_the_build_stage_ends_with_the_real_program(tiny_context: Path, tmp_path: Path) -> None:
    replay = Replay(tiny_context, tmp_path / "work")
    replay.run("build-sidecar")
    assert built_says(replay) == "chatixia-sidecar 0.1.0 (protocol 1)\n"


def test_without_the_touch_the_image_would_hold_the_stub(tiny_context: Path, tmp_path: Path) -> None:
    """Shows that the replay would notice: cargo sees old files and keeps the program that does nothing."""
    replay = Replay(tiny_context, tmp_path / "work", skip_touch=True)
    replay.run("build-sidecar")
    assert built_says(replay) == ""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_stages_up_to_the_registry_give_a_command_that_runs(tiny_context: Path, tmp_path: Path) -> None:
    replay = Replay(tiny_context, tmp_path / "work")
    for name in ("build-sidecar", "sidecar"):
        replay.run(name)
    assert "useradd --no-create-home --uid 10001 mesh" in (tmp_path / "work/asked").read_text()
    assert (replay.root("sidecar") / "run/chatixia").stat().st_mode & 0o777 == 0o700
    assert (replay.root("sidecar") / "usr/local/bin/chatixia-sidecar").exists()

    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", env], check=True, timeout=60)
    replay.run("wheel", path=str(env / "bin"))
    (wheel,) = (replay.root("wheel") / "dist").glob("*.whl")
    assert "py3-none-any" not in wheel.name, "the wheel was built without the sidecar"
    replay.run("registry", path=str(env / "bin"))

    stage = stages()["registry"]
    command = [*json.loads(stage.all("ENTRYPOINT")[0]), *json.loads(stage.all("CMD")[0])]
    shown = subprocess.run(
        [env / "bin" / command[0], *command[1:], "--help"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert "--api-keys" in shown.stdout
    health = json.loads(stage.all("HEALTHCHECK")[0].partition("CMD ")[2])
    asked = subprocess.run([env / "bin" / health[0], *health[1:]], capture_output=True, text=True, timeout=60)
    assert asked.returncode == 1, "no registry runs, and the health check says all is well"
    assert "does not answer" in asked.stdout
