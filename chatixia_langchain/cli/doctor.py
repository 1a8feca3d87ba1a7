"""`chatixia-langchain doctor`: what works here, what does not, and how to mend it.

Each check is a function that yields findings; a finding that fails carries the way to mend it. Nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any

import httpx2

from .. import __version__
from ..config import MeshConfig, environment
from ..errors import SidecarNotFound
from ..protocol.limits import PROTOCOL
from ..transport.process import find_sidecar
from . import stun

HELP = """\
Check Python, sidecar, transports, and, when one is named, the registry and what it tells of the network.

Exit code 0 when an agent can run here, 1 when something failed. The registry and the key are those that a Mesh would
use: CHATIXIA_REGISTRY_URL, CHATIXIA_API_KEY or CHATIXIA_API_KEY_FILE; --registry stands above the variable."""

MAX_SKEW_S = 60  # a token lives five minutes; a minute of clock difference is still harmless
HTTP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the answer. `ok` None: neither good nor bad, only said."""

    check: str
    ok: bool | None
    text: str
    mend: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--registry`, `--json`, `--quiet`."""
    parser.add_argument("--registry", metavar="URL", help="registry to try (CHATIXIA_REGISTRY_URL)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="print only what failed")


def run(args: argparse.Namespace) -> int:
    """Run all checks, print, return 1 if one failed."""
    config = MeshConfig.make("doctor", registry=args.registry)
    findings = [*about_python(), *about_transports(), *about_registry(config)]
    failed = any(f.ok is False for f in findings)
    if args.json:
        print(json.dumps({"ok": not failed, "findings": [asdict(f) for f in findings]}))
        return int(failed)
    for f in findings:
        if not args.quiet or f.ok is False:
            mark = {True: "ok  ", False: "FAIL", None: "-   "}[f.ok]
            print(f"{mark} {f.check:10} {f.text}" + (f"\n{'':15} mend: {f.mend}" if f.mend else ""))
    return int(failed)


def about_python() -> Iterator[Finding]:
    """Versions of what runs."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, chatixia-langchain {__version__}"
    yield Finding(
        "python", sys.version_info >= (3, 11), text, "" if sys.version_info >= (3, 11) else "use Python 3.11 or newer"
    )


def about_transports() -> Iterator[Finding]:
    """The sidecar and its stand-ins: one of them has to be there."""
    sidecar = _sidecar()
    yield sidecar
    aiortc = find_spec("aiortc") is not None
    mend = "" if aiortc or sidecar.ok else "pip install 'chatixia-langchain[aiortc]'"
    yield Finding(
        "aiortc", aiortc or None, "installed" if aiortc else "not installed (only needed without a sidecar)", mend
    )
    if sidecar.ok or aiortc:
        yield Finding("transport", True, f"`auto` takes {'the sidecar' if sidecar.ok else 'aiortc'}")
    else:
        yield Finding(
            "transport", False, "only the mailbox is left: every message goes through the registry", "see above"
        )


def _sidecar() -> Finding:
    env = environment()
    named = bool(env.get("SIDECAR_BINARY"))
    try:
        binary = find_sidecar(env=env)
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5, check=True)
    except SidecarNotFound as exc:
        # Without one an agent can still run on aiortc, unless it was told which one to use.
        text = str(exc).split("\n")[0].removesuffix(" Looked in:")
        if named:
            return Finding("sidecar", False, text, "point SIDECAR_BINARY at the binary, or unset it")
        return Finding("sidecar", None, text, "pip install -U chatixia-langchain; or, in a clone, ./dev setup")
    except (OSError, subprocess.SubprocessError) as exc:
        return Finding("sidecar", False, f"{binary} does not run: {exc}", "build it again: cargo build --release")
    said = " ".join(done.stdout.split())
    if f"protocol {PROTOCOL}" not in said:
        mend = "install package and sidecar of one release: pip install -U chatixia-langchain"
        return Finding("sidecar", False, f"{binary} says {said!r}, this package speaks protocol {PROTOCOL}", mend)
    return Finding("sidecar", True, f"{said}, {binary}")


def about_registry(config: MeshConfig) -> Iterator[Finding]:
    """Reachability, clocks, credential, ICE servers: in the order in which an agent needs them."""
    if not config.registry:
        yield Finding("registry", None, "none named; give --registry URL or set CHATIXIA_REGISTRY_URL")
        return
    base = config.registry.rstrip("/")
    # trust_env off would ignore a proxy that the agent's own calls go through: test what the agent does.
    with httpx2.Client(base_url=base, timeout=HTTP_TIMEOUT_S) as http:
        began = time.time()
        try:
            answer = http.get("/healthz")
            took_ms = (time.time() - began) * 1000
            answer.raise_for_status()
        except httpx2.HTTPError as exc:
            yield Finding(
                "registry",
                False,
                f"{base} does not answer: {exc or type(exc).__name__}",
                "is it running, is the URL right?",
            )
            return
        yield Finding("registry", True, f"{base} answers in {took_ms:.0f} ms")
        yield from _clock(answer.headers.get("date"), began)
        if not config.api_key:
            yield Finding("api key", None, "none set, so nothing behind it was tried: set CHATIXIA_API_KEY_FILE")
            return
        token = http.post("/api/token", headers={"x-api-key": config.api_key.reveal()})
        if token.status_code != 200:
            yield Finding("api key", False, f"refused ({token.status_code})", "use a key of the registry's key file")
            return
        grant = token.json()
        yield Finding("api key", True, f"accepted; this agent is {grant.get('peer_id', '?')}")
        yield from _ice(http, str(grant.get("token", "")))


def _clock(date: str | None, now: float) -> Iterator[Finding]:
    if not date:
        return
    skew_s = parsedate_to_datetime(date).timestamp() - now
    ok = abs(skew_s) <= MAX_SKEW_S
    yield Finding(
        "clock", ok, f"{skew_s:+.0f} s from the registry's", "" if ok else "set the clock (NTP): tokens are dated"
    )


def _ice(http: httpx2.Client, token: str) -> Iterator[Finding]:
    answer = http.get("/api/config", headers={"authorization": f"Bearer {token}"})
    if answer.status_code != 200:
        yield Finding("ice", False, f"/api/config answers {answer.status_code}", "is this an old registry?")
        return
    body: dict[str, Any] = answer.json()
    urls = [u for s in body.get("iceServers", []) for u in ([s["urls"]] if isinstance(s["urls"], str) else s["urls"])]
    if not urls:
        yield Finding("ice", None, "the registry names no STUN or TURN server: peers meet on one network only")
    for url in urls:
        if not url.startswith("stun:"):
            yield Finding("ice", None, f"{url} (not tried: only stun: is)")
            continue
        try:
            ip, port = stun.ask(*stun.address_of(url))
        except OSError as exc:
            yield Finding(
                "ice", False, f"{url}: {exc}", "is outgoing UDP allowed here? otherwise a TURN server is needed"
            )
        else:
            yield Finding("ice", True, f"{url} sees this machine as {ip}:{port}")
