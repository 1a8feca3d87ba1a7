"""The `chatixia-langchain` command: finds the subcommand, runs it, turns its end into an exit code.

Exit codes: 0 done, 1 it failed (one line on stderr says why), 2 wrong usage, 130 interrupted. No traceback without
`--debug`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from .. import __version__
from ..errors import MeshError

PROG = "chatixia-langchain"


class Command(Protocol):
    """What a subcommand module offers."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit code."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One subcommand as the table below lists it: the summary is here so that `--help` imports no subcommand."""

    module: str
    summary: str
    extra: str = ""
    """The extra whose packages the module imports; named when one is missing."""


COMMANDS = {
    "registry": Entry(".registry", "run the registry that introduces agents to each other", "registry"),
    "demo": Entry(".demo", "run three agents on this machine and show how they talk", "demo"),
    "doctor": Entry(".doctor", "say what works here, what does not and how to mend it"),
    "trust": Entry(".trust", "keys of peers: pin them, or sign them with the key of the mesh's root"),
    "version": Entry(".version", "print the versions of package, protocol and sidecar"),
}

EXAMPLES = f"""\
examples:
  {PROG} registry init --peer planner --peer researcher   write a key file, api-keys.json
  {PROG} registry --api-keys api-keys.json                run a registry with it
  {PROG} doctor --registry http://127.0.0.1:8080          what works from here
  {PROG} demo                                             three agents, offline

`{PROG} COMMAND --help` tells more of a command.
"""


def load(name: str) -> Command:
    """Import a subcommand. Raises ModuleNotFoundError when a package of its extra is missing."""
    return cast(Command, import_module(COMMANDS[name].module, __package__))


def missing(name: str, exc: ModuleNotFoundError) -> str:
    """What to install for a subcommand; "" when the missing module is no affair of an extra, but a fault of ours."""
    extra = COMMANDS[name].extra if name in COMMANDS else ""
    package = (exc.name or "").split(".")[0]
    if not extra or package in ("", "chatixia_langchain"):
        return ""
    return f"`{name}` needs {package}, which is not installed: pip install 'chatixia-langchain[{extra}]'"


def wanted(argv: Sequence[str]) -> str:
    """The first word that is not an option, "" if there is none: the subcommand, before anything is imported."""
    return next((word for word in argv if not word.startswith("-")), "")


def parser(name: str = "", command: Command | None = None) -> argparse.ArgumentParser:
    """The whole parser, with the options of the one subcommand that is going to run."""
    top = argparse.ArgumentParser(
        prog=PROG,
        description="LangChain agents on different machines call each other directly over WebRTC.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    top.add_argument("--debug", action="store_true", help="show tracebacks and log at DEBUG level")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for each, entry in COMMANDS.items():
        here = command if each == name else None
        sub = commands.add_parser(
            each,
            help=entry.summary,
            description=here.HELP if here else entry.summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if here:
            here.add_arguments(sub)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code; never raises except for argparse's own SystemExit (0 or 2)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    name = wanted(argv)
    try:
        command = load(name) if name in COMMANDS else None
        args = parser(name, command).parse_args(argv)
        if command is None:
            parser().print_help()
            return 2
        if debug:
            logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        return command.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`); python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as exc:
        if debug or not missing(name, exc):
            raise
        print(f"{PROG}: {missing(name, exc)}", file=sys.stderr)
        return 1
    except (MeshError, OSError, RuntimeError, ValueError) as exc:
        if debug:
            raise
        print(f"{PROG}: {exc or type(exc).__name__}", file=sys.stderr)
        return 1
