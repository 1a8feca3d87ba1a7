"""`chatixia-langchain registry`: run the registry, or write its key file with `registry init`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..registry.key_file import KeyFile, init_keys
from ..registry.keys import KeyFileError, load_keys, too_open

HELP = "run the registry that introduces agents to each other"
DEFAULT_KEYS = "api-keys.json"
EXAMPLES = """\
examples:
  chatixia-langchain registry init --peer planner --peer researcher   write api-keys.json, planner.key, researcher.key
  chatixia-langchain registry --api-keys api-keys.json                serve on http://127.0.0.1:8080
  chatixia-langchain registry --host 0.0.0.0 --allow-host mesh.example --tls-cert cert.pem --tls-key key.pem
                              --db registry.db                        for other machines, keeping tasks over restarts

environment: PORT, API_KEYS_FILE, ICE_SERVERS, TURN_URL and TURN_SECRET (or TURN_SECRET_FILE),
REGISTRY_SECRET or REGISTRY_SECRET_FILE (signs tokens; default: a random one per start),
EXIT_ON_STDIN_EOF=1 (end with the process that started it). A key that is added to the file works at once; one that is
taken out, or whose "expires" is over, ends within a second, and the sockets it opened with it.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port, 0 for a free one (default: PORT, or 8080)")
    parser.add_argument("--api-keys", metavar="FILE", help=f"key file (default: API_KEYS_FILE, or {DEFAULT_KEYS})")
    parser.add_argument(
        "--db", metavar="FILE", help="keep agents, tasks and devices in this SQLite file (default: memory)"
    )
    parser.add_argument(
        "--ice-servers", metavar="LIST", help="stun:host:port,... or a JSON list (default: ICE_SERVERS, or none)"
    )
    parser.add_argument(
        "--allow-query-token", action="store_true", help="accept /ws?token=..., for chatixia-mesh 0.2 sidecars"
    )
    parser.add_argument(
        "--audit-log", metavar="FILE", help="append who did what, as JSON lines without bodies, keys or tokens"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="certificate chain (PEM): serve https and wss")
    parser.add_argument("--tls-key", metavar="FILE", help="its private key (PEM)")
    parser.add_argument(
        "--plain-http", action="store_true", help="listen for other machines without TLS: a proxy in front does it"
    )
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a host name this registry is called by; addresses and localhost always work; may be repeated",
    )
    parser.add_argument(
        "--allow-origin",
        metavar="URL",
        action="append",
        default=[],
        help="a web page that may call it, as https://host; none may by default; may be repeated",
    )
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warning", "error"),
        help="to stderr (default: %(default)s)",
    )
    actions = parser.add_subparsers(dest="registry_action", metavar="init")
    init = actions.add_parser(
        "init", help="write a key file with random keys", description="Write a key file, mode 0600."
    )
    init.add_argument("--api-keys", metavar="FILE", default=argparse.SUPPRESS, help=f"where (default: {DEFAULT_KEYS})")
    init.add_argument(
        "--peer", metavar="NAME", action="append", default=[], help="a peer to make a key for; may be repeated"
    )


def add_parser(subparsers: Any) -> None:
    """Add this command to a dispatcher's subparsers."""
    parser = subparsers.add_parser("registry", help=HELP, description=HELP)
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code: 0 after a clean end, 1 when it cannot listen, 2 for a wrong setting."""
    env = os.environ
    keys_file = Path(args.api_keys or env.get("API_KEYS_FILE") or DEFAULT_KEYS)
    try:
        if args.registry_action == "init":
            return _init(keys_file, args.peer)
        return _serve(args, keys_file, env)
    except KeyFileError as exc:
        print(f"chatixia-langchain registry: {exc}", file=sys.stderr)
        return 2


def _init(keys_file: Path, peers: list[str]) -> int:
    added = init_keys(keys_file, peers)
    names = ", ".join(f"{who.peer_id} ({who.role})" for who in added.values())
    print(f"wrote {keys_file} (hashes) and a file NAME.key beside it (mode 0600) with new keys for: {names}")
    return 0


def _serve(args: argparse.Namespace, keys_file: Path, env: Mapping[str, str]) -> int:
    watched = KeyFile(keys_file)  # before it is read: a change in between is seen later, not missed
    keys = load_keys(keys_file)
    try:
        from ..registry.audit import AuditError
        from ..registry.auth import Keyring
        from ..registry.server import run as serve
        from ..registry.settings import RegistrySettings, SettingsError
        from ..registry.state import Registry
        from ..registry.store import StoreError
    except ImportError as exc:
        print(f"the registry needs its extra: pip install 'chatixia-langchain[registry]' ({exc})", file=sys.stderr)
        return 2
    logging.basicConfig(
        stream=sys.stderr, level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if too_open(keys_file):
        logging.getLogger(__name__).warning("key file %s can be read by other users: chmod 600 it", keys_file)
    try:
        settings = RegistrySettings.make(
            env,
            host=args.host,
            port=args.port,
            allow_query_token=args.allow_query_token,
            allow_hosts=args.allow_host,
            allow_origins=args.allow_origin,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            plain_http=args.plain_http,
            db=args.db,
            audit_log=args.audit_log,
            ice_servers=args.ice_servers,
        )
        if env.get("EXIT_ON_STDIN_EOF") == "1":
            threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
        serve(Registry(settings, Keyring(keys, changed=watched.changed)), _announce)
    except (AuditError, SettingsError, StoreError) as exc:
        print(f"chatixia-langchain registry: {exc}", file=sys.stderr)
        return 2
    except OSError as exc:
        print(f"chatixia-langchain registry: cannot listen: {exc}", file=sys.stderr)
        return 1
    return 0


def _end_with_stdin() -> None:
    """End when whoever holds the other end of stdin ends, however it ends."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _announce(url: str) -> None:
    print(f"chatixia-langchain registry listening on {url}", flush=True)


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m chatixia_langchain.cli.registry", description=HELP)
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
