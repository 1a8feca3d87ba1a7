"""Running the registry: `run` for the command line, `RegistryServer` for tests in the same process."""

from __future__ import annotations

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Final

import uvicorn

from .app import create_app
from .auth import Keyring
from .keys import Identity, Role
from .settings import RegistrySettings
from .state import Registry
from .ws_protocol import AbortableWebSocket

SHUTDOWN_S: Final = 1  # open requests get this long once everyone was told
WS_MAX_BYTES: Final = 256 * 1024  # frames up to here get an `error`, longer ones end the socket (1009)
PING_S: Final = 20  # a half-open socket is noticed within 40 s


class _Server(uvicorn.Server):
    """uvicorn's server that first tells long polls and sidecars that it goes down."""

    def __init__(self, registry: Registry, on_listening: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(registry),
                ws=AbortableWebSocket,
                ws_max_size=WS_MAX_BYTES,
                ws_per_message_deflate=False,
                ws_ping_interval=PING_S,
                ws_ping_timeout=PING_S,
                timeout_graceful_shutdown=SHUTDOWN_S,
                access_log=False,
                log_config=None,
                log_level="warning",  # its lines at INFO name the request with the query string, token and all
                server_header=False,
                lifespan="on",
                ssl_certfile=registry.settings.tls_cert,
                ssl_keyfile=registry.settings.tls_key,
            )
        )
        self._registry, self._on_listening = registry, on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started and sockets:
            self._on_listening(url_of(sockets[0], tls=self._registry.settings.tls_cert is not None))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End quickly whatever is open."""
        self._registry.bell.close()
        self._registry.sockets.close()
        await asyncio.sleep(0)  # the writers take the close frames
        await super().shutdown(sockets)
        # uvicorn raises the signal once more after a clean end, which would turn it into a death by that signal.
        self._captured_signals.clear()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket's address, taken. Raises OSError."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    bound = socket.socket(family, kind, proto)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(4096)
    except OSError:
        bound.close()
        raise
    return bound


def url_of(bound: socket.socket, *, tls: bool = False) -> str:
    """`http://host:port` of a bound socket."""
    host, port = bound.getsockname()[:2]
    name = f"[{host}]" if bound.family == socket.AF_INET6 else host
    return f"{'https' if tls else 'http'}://{name}:{port}"


def run(registry: Registry, on_listening: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. Raises OSError when the address is not to be had."""
    settings = registry.settings
    try:
        bound = bind(settings.host, settings.port)
    except OSError as exc:
        raise OSError(f"{settings.host}:{settings.port}: {exc.strerror}") from exc
    _Server(registry, on_listening).run(sockets=[bound])


class RegistryServer:
    """A real registry on a free port, in a thread of its own, for tests.

    `async with RegistryServer() as server: key = server.add_key("planner")`; `server.url`, `server.ws_url`.
    Also a plain context manager.
    """

    def __init__(self, **settings: Any) -> None:
        self._keyring = Keyring()
        self._settings = replace(RegistrySettings(port=0), **settings)
        self.url = ""
        self.registry: Registry

    @property
    def ws_url(self) -> str:
        """URL of the signaling WebSocket."""
        return self.url.replace("http", "ws", 1) + "/ws"

    def add_key(self, peer_id: str, role: Role = "agent") -> str:
        """A new API key for `peer_id`."""
        key = f"ck_{secrets.token_urlsafe(32)}"
        self._keyring.add(key, Identity(peer_id, role))
        return key

    def advance(self, seconds: float) -> None:
        """Let time pass for leases and deadlines, without waiting; they are noticed at the next sweep."""
        self.registry.skip(seconds)

    def start(self) -> None:
        """Listen. Raises OSError."""
        bound = bind(self._settings.host, self._settings.port)
        self.url = url_of(bound, tls=self._settings.tls_cert is not None)
        listening = threading.Event()
        self.registry = Registry(self._settings, self._keyring)
        self._server = _Server(self.registry, lambda _: listening.set())
        self._thread = threading.Thread(target=self._server.run, args=([bound],), name="registry", daemon=True)
        self._thread.start()
        if not listening.wait(10):
            raise RuntimeError("the registry did not start within 10 s")

    def stop(self) -> None:
        """Shut down as after SIGTERM. May be called twice."""
        self._server.should_exit = True
        self._thread.join(10)

    def __enter__(self) -> RegistryServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> RegistryServer:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
