"""Put the Rust sidecar into the wheel when cargo can build it; stay pure Python when it cannot.

CHATIXIA_BUILD_SIDECAR     auto (default) | require (release wheels) | skip (pure wheel)
CHATIXIA_SIDECAR_PREBUILT  path of a binary to ship instead of running cargo (images, cross builds)
CHATIXIA_WHEEL_PLAT        platform tag, e.g. manylinux_2_28_x86_64 (release wheels only)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXE = "chatixia-sidecar" + (".exe" if sys.platform == "win32" else "")
MODES = ("auto", "require", "skip")


class SidecarHook(BuildHookInterface):
    """Runs while a wheel (or an editable install) is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the binary and the platform tag to the wheel, or leave it pure.

        Raises ValueError for an unknown mode, FileNotFoundError for a prebuilt binary that is not there, and
        RuntimeError when the sidecar is required and cannot be built.
        """
        mode = os.environ.get("CHATIXIA_BUILD_SIDECAR", "auto")
        if mode not in MODES:
            raise ValueError(f"CHATIXIA_BUILD_SIDECAR={mode!r} is unknown; choose one of {', '.join(MODES)}")
        binary = None if mode == "skip" else self._binary(required=mode == "require")
        if binary is None:
            return
        # *.data/scripts of the wheel: lands in the environment's bin folder, for editable installs too.
        build_data["shared_scripts"][str(binary)] = EXE
        platform = os.environ.get("CHATIXIA_WHEEL_PLAT") or sysconfig.get_platform()
        build_data["tag"] = "py3-none-" + platform.replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False

    def _binary(self, *, required: bool) -> Path | None:
        if prebuilt := os.environ.get("CHATIXIA_SIDECAR_PREBUILT"):
            return Path(prebuilt).resolve(strict=True)
        crate, cargo = Path(self.root, "sidecar-rs"), shutil.which("cargo")
        if not cargo:
            why = "cargo is not on PATH"
        else:
            done = subprocess.run([cargo, "build", "--release", "--locked"], cwd=crate, check=False)
            if done.returncode == 0:
                return Path(os.environ.get("CARGO_TARGET_DIR", crate / "target"), "release", EXE)
            why = f"cargo build exited with {done.returncode}"
        if required:
            raise RuntimeError(f"the sidecar was not built: {why}")
        self.app.display_warning(f"the sidecar is left out ({why}); the aiortc transport still works")
        return None
