"""`chatixia-langchain version`: package, protocol and sidecar, as text or JSON."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess

from .. import __version__
from ..errors import SidecarNotFound
from ..protocol.limits import PROTOCOL
from ..transport.process import find_sidecar

HELP = "Print the versions of package, protocol, Python and sidecar."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print; always 0, a missing sidecar is an answer too."""
    facts = {
        "chatixia-langchain": __version__,
        "protocol": str(PROTOCOL),
        "python": platform.python_version(),
        "sidecar": sidecar_version(),
    }
    if args.json:
        print(json.dumps(facts))
    else:
        for name, value in facts.items():
            print(f"{name:20} {value}")
    return 0


def sidecar_version() -> str:
    """The first line the sidecar prints for `--version` and where it lies, or why there is none."""
    try:
        binary = str(find_sidecar())
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5, check=True)
    except SidecarNotFound as exc:
        return str(exc).splitlines()[0]
    except (OSError, subprocess.SubprocessError) as exc:
        return f"does not run: {exc}"
    lines = done.stdout.split("\n")
    return f"{lines[0]} ({binary})"
