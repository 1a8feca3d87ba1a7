"""`chatixia-langchain trust`: keys of peers by hand: pins, and cards that the mesh's root key signs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from ..identity import Identity
from ..mesh.keys import CARD, KNOWN_PEERS
from ..trust.cards import DEFAULT_DAYS, MeshRoot, RootKey
from ..trust.known import KnownPeers

HELP = "keys of peers: pin them, or sign them with the key of the mesh's root"
LEDGER = "mesh-root.json"  # beside the root key: the serials that were given out, and what was revoked
EXAMPLES = """\
A small mesh, by pins: each side prints its fingerprint, and pins the other's.
  chatixia-langchain trust id --state-dir ~/.planner
  chatixia-langchain trust pin researcher "sha-256 AB:CD:..." --state-dir ~/.planner
  Mesh("planner", trust="pinned", state_dir="~/.planner")

A larger one, by a root key that is kept away from registry and agents:
  chatixia-langchain trust init root                                 root/mesh-root.pem (secret), root/mesh-root.pub
  chatixia-langchain trust sign planner "sha-256 AB:CD:..." --root root --out planner-card.jws
  chatixia-langchain trust revoke researcher --root root             root/revoked.jws, for every agent
  Mesh("planner", trust="mesh-root", mesh_root="mesh-root.pub", card_file="planner-card.jws", state_dir=...)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary)

    state: dict[str, Any] = {"metavar": "FOLDER", "required": True, "type": Path, "help": "the agent's state_dir"}
    root: dict[str, Any] = {"metavar": "FOLDER", "required": True, "type": Path, "help": "the folder that `init` made"}
    made = action("id", "print this agent's fingerprint; its key is made when there is none")
    made.add_argument("--state-dir", **state)
    pin = action("pin", "know a peer by a fingerprint")
    pin.add_argument("name")
    pin.add_argument("fingerprint")
    pin.add_argument("--state-dir", **state)
    forget = action("forget", "forget what a peer was known by")
    forget.add_argument("name")
    forget.add_argument("--state-dir", **state)
    listed = action("list", "print the peers that are pinned")
    listed.add_argument("--state-dir", **state)
    init = action("init", "make the key of a mesh's root")
    init.add_argument("folder", type=Path, help="a folder for it, made when there is none")
    sign = action("sign", "sign a card: this name has this key")
    sign.add_argument("name")
    sign.add_argument("fingerprint")
    sign.add_argument("--root", **root)
    sign.add_argument("--days", type=float, default=DEFAULT_DAYS, help="how long it is good (default: %(default)s)")
    sign.add_argument("--out", metavar="FILE", type=Path, help=f"where to (default: NAME-{CARD})")
    revoke = action("revoke", "end all cards of a name that were signed so far")
    revoke.add_argument("name")
    revoke.add_argument("--root", **root)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code. Raises OSError and ValueError, which say what is wrong."""
    return {
        "id": _id, "pin": _pin, "forget": _forget, "list": _list, "init": _init, "sign": _sign, "revoke": _revoke,
    }[args.action](args)  # fmt: skip


def _known(args: argparse.Namespace) -> KnownPeers:
    args.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return KnownPeers(path=args.state_dir / KNOWN_PEERS)


def _id(args: argparse.Namespace) -> int:
    args.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    print(Identity.load(args.state_dir / "identity.pem").fingerprint)
    return 0


def _pin(args: argparse.Namespace) -> int:
    _known(args).pin(args.name, args.fingerprint)
    print(f"{args.name} is pinned; an agent that runs knows it after its next start")
    return 0


def _forget(args: argparse.Namespace) -> int:
    if _known(args).forget(args.name):
        print(f"{args.name} is forgotten")
        return 0
    print(f"{args.name} was not known", file=sys.stderr)
    return 1


def _list(args: argparse.Namespace) -> int:
    for name, fingerprint in _known(args).all().items():
        print(f"{name}  {fingerprint}")
    return 0


def _init(args: argparse.Namespace) -> int:
    folder: Path = args.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    root = RootKey.fresh()
    root.save(folder / "mesh-root.pem")  # first: it refuses to write over one that is there
    (folder / "mesh-root.pub").write_bytes(root.public_pem())
    _save(folder, {"next_serial": 1, "revoked": {}, "revocations": 0})
    print(f"{folder / 'mesh-root.pem'} signs cards: keep it secret, and away from registry and agents")
    print(f"{folder / 'mesh-root.pub'} is for every agent: mesh_root=")
    return 0


def _sign(args: argparse.Namespace) -> int:
    root, ledger = RootKey.load(args.root / "mesh-root.pem"), _ledger(args.root)
    serial = ledger["next_serial"]
    card = root.sign(args.name, args.fingerprint, serial=serial, now=time.time(), days=args.days)
    _save(args.root, ledger | {"next_serial": serial + 1})  # before it is given out: no serial twice
    out: Path = args.out or Path(f"{args.name}-{CARD}")
    out.write_text(card + "\n")
    print(f"{out}: the card of {args.name}, serial {serial}, good for {args.days:g} days. It is no secret.")
    return 0


def _revoke(args: argparse.Namespace) -> int:
    root, ledger = RootKey.load(args.root / "mesh-root.pem"), _ledger(args.root)
    revoked = {**ledger["revoked"], args.name: ledger["next_serial"] - 1}
    number = ledger["revocations"] + 1
    listed = root.revoke(revoked, serial=number, now=time.time())
    MeshRoot(root.public_pem()).revocations(listed)  # what agents will read
    _save(args.root, ledger | {"revoked": revoked, "revocations": number})
    (args.root / "revoked.jws").write_text(listed + "\n")
    print(
        f"{args.root / 'revoked.jws'}: cards of {args.name} that were signed so far end. For every agent: revocations="
    )
    return 0


def _ledger(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / LEDGER).read_bytes())
    except FileNotFoundError as exc:
        raise ValueError(f"{folder} holds no {LEDGER}: make a root with `trust init {folder}`") from exc
    if not isinstance(found, dict) or not {"next_serial", "revoked", "revocations"} <= found.keys():
        raise ValueError(f"{folder / LEDGER} is not what `trust init` wrote")
    return found


def _save(folder: Path, ledger: dict[str, Any]) -> None:
    draft = folder / f"{LEDGER}.new"
    draft.write_text(json.dumps(ledger, indent=2) + "\n")
    draft.replace(folder / LEDGER)
