"""`Mesh`: one agent in the mesh.

    async with Mesh("planner", registry="https://mesh.example", api_key=...) as mesh:
        reply = await mesh.ask("researcher", "what is known of X?")

- one owner task enters and leaves everything; callers reach it by state and futures: closing works from any task
- every method may be awaited on any loop; `mesh.sync` has the blocking twins
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar, Unpack

from ..config import MeshConfig
from ..errors import MeshClosed, MeshError, PeerUnreachable
from ..transport.base import Transport
from .context import current_turn
from .directory import card_of
from .engine import Engine
from .fanout import choose, gather, share_id
from .feed import Feed, Taker
from .lifetime import Lifetime
from .options import AskOptions, BroadcastOptions, SendOptions
from .own_loop import OwnLoop
from .portal import Portal
from .status import status
from .stream import Ask, ReplyStream
from .sync import SyncMesh
from .types import Incoming, Peer, PeerEvent, Receipt, Reply

logger = logging.getLogger(__name__)

T = TypeVar("T")
EVENTS_KEPT = 256  # per listener; when full the oldest is dropped: `mesh.peers` always has the present state


class Mesh:
    """One agent in the mesh: asks others, and hears what they ask.

    Setup:
        A registry that knows this agent's key. With the `sidecar` binary or the extra `aiortc` agents talk over WebRTC,
        with neither through the registry's mailbox.

    Instantiation:
        `Mesh("planner", registry="https://mesh.example", api_key=...)`. Further settings are those of `MeshConfig`,
        which also says what is read from the environment; `transport` is a name or a `Transport`.

    Invocation:
        `async with Mesh(...) as mesh:`, then `await mesh.ask("researcher", "hello")`. Without async: `with Mesh(...)`,
        and `mesh.sync`.

    Within an agent:
        `MeshTool(mesh, peer="researcher")`, `MeshToolkit(mesh)` and `RemoteAgent(mesh, "researcher")` let an agent ask;
        `MeshAgent(mesh, agent)` lets it answer.

    Raises ValueError for a setting that is wrong.
    """

    def __init__(
        self,
        name: str,
        *,
        registry: str | None = None,
        api_key: str | None = None,
        description: str = "",
        skills: Sequence[str | Mapping[str, Any]] = (),
        transport: str | Transport | None = None,
        config: MeshConfig | None = None,
        **settings: Any,
    ) -> None:
        given = transport if isinstance(transport, Transport) else None
        chosen = "memory" if given is not None and given.name == "memory" else None if given is not None else transport
        if config is not None and config.name != name:
            raise ValueError(f"name {name!r} is not that of config, {config.name!r}")
        self.config = config or MeshConfig.make(
            name,
            registry=registry,
            api_key=api_key,
            description=description,
            skills=skills,
            transport=chosen,  # type: ignore[arg-type]
            **settings,
        )
        self._lifetime = Lifetime(self.config, given)
        self._own_loop = OwnLoop(f"mesh-{name}", self.start, self.aclose)
        self.sync = SyncMesh(self)

    # life

    async def start(self) -> Mesh:
        """Join the mesh: returns self when this side is usable. A mesh is started once.

        Raises SidecarNotFound, SidecarFailed, RegistryRefused, LinkDown or MeshClosed (it was closed before).
        """
        await self._lifetime.start()
        return self

    async def aclose(self) -> None:
        """Leave the mesh: whoever waits gets MeshClosed at once. Idempotent; from any task, loop or thread."""
        await self._lifetime.aclose()

    async def __aenter__(self) -> Mesh:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __enter__(self) -> Mesh:
        """Run the mesh on a loop in a thread of its own, for code that is not async: use `mesh.sync`, or the tools."""
        self._own_loop.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._own_loop.close()

    @property
    def closed(self) -> bool:
        """True once `aclose` was called."""
        return self._lifetime.closed

    # what is known

    @property
    def name(self) -> str:
        """The name of this agent in the mesh."""
        engine = self._lifetime.engine
        return engine.core.name if engine is not None else self.config.name

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The other agents, connected, online or seen before: a snapshot. From any thread."""
        engine = self._lifetime.engine
        return MappingProxyType(engine.core.snapshot() if engine is not None else {})

    @property
    def transport_name(self) -> str:
        """sidecar, aiortc, mailbox or memory; "" before `start`."""
        engine = self._lifetime.engine
        return engine.core.transport.name if engine is not None else ""

    async def status(self) -> dict[str, Any]:
        """Transport and why it was chosen, links with path and round-trip time, counters, queue sizes: plain JSON."""
        engine = self._engine()
        if not self._portal.here:
            return await self._portal.call(self.status)
        return await status(engine, self._lifetime)

    # talking

    async def ask(self, peer: str, content: str, **options: Unpack[AskOptions]) -> Reply:
        """Ask a peer's agent and wait for its reply, at most `timeout` seconds (default: `request_timeout_s`).

        Options: `conversation`, `timeout`, `message_id`, `skill` and `arguments`, `hops`, `chain`, `meta`.
        A request with the `message_id` of an earlier one is answered with the earlier answer, and not run again.
        Inside a turn it carries the turn's place, time and budget. Cancelling is safe: the peer is told, a late reply
        is dropped. Raises MeshTimeout, PeerUnreachable (never sent), PeerGone, RemoteError (the peer's own error),
        MessageTooBig, MeshClosed, MeshError `budget_exceeded`; ValueError for what cannot be sent.
        """
        engine = self._engine()
        turn = current_turn.get()
        if not self._portal.here:
            return await self._portal.call(partial(engine.requests.ask, peer, content, turn, **options))
        return await engine.requests.ask(peer, content, turn, **options)

    def ask_stream(self, peer: str, content: str, **options: Unpack[AskOptions]) -> ReplyStream:
        """`ask` whose reply is read while it is written: asked when iterated over, or entered with `async with`.

        Errors are those of `ask`, raised from the iteration. A peer that does not stream, and the mailbox, give the
        whole reply as one chunk.
        """
        return ReplyStream(self._portal, self._ask_into(peer, content, options))

    def _ask_into(self, peer: str, content: str, options: AskOptions) -> Ask:
        return partial(self._engine().requests.ask, peer, content, current_turn.get(), **options)

    async def send(self, peer: str, content: str, **options: Unpack[SendOptions]) -> Receipt:
        """Send a message that expects no reply; returns once it is accepted, waiting while the peer's window is full.

        Options: `conversation`, `ttl`, `message_id`, `hops`, `chain`, `meta`.
        From then on it is delivered once, or its receipt says `undeliverable` after at most `ttl` seconds (300).
        Raises Busy (no room within `ttl`), MessageTooBig, MeshClosed; ValueError for what cannot be sent.
        """
        engine = self._engine()
        turn = current_turn.get()
        if not self._portal.here:
            return await self._portal.call(partial(engine.requests.send, peer, content, turn, **options))
        return await engine.requests.send(peer, content, turn, **options)

    def send_nowait(self, peer: str, content: str, **options: Unpack[SendOptions]) -> Receipt:
        """`send` that raises Busy at once when the peer's window is full. Only on the mesh's own loop."""
        engine = self._engine()
        if not self._portal.here:
            raise RuntimeError("send_nowait works on the mesh's own loop only: use send, or mesh.sync.send")
        return engine.requests.send_nowait(peer, content, current_turn.get(), **options)

    async def broadcast(
        self, content: str, *, to: Iterable[str] | None = None, **options: Unpack[BroadcastOptions]
    ) -> dict[str, Receipt | MeshError]:
        """Send one message to many (default: everyone online). A peer that cannot be reached is an error in it.

        Options: `conversation`, `hops`, `chain`, `meta`.
        """
        engine = self._engine()
        return await self._portal.call(partial(engine.requests.broadcast, content, to, current_turn.get(), **options))

    async def ask_many(
        self,
        content: str,
        *,
        to: Iterable[str] | None = None,
        k: int | None = None,
        quorum: int | None = None,
        **options: Unpack[AskOptions],
    ) -> dict[str, Reply | MeshError]:
        """Ask many at once: `to`, else everyone who is there; of them those whose card has `skill`; at most `k`.

        Returns when all have answered or failed (MeshTimeout after `timeout` seconds), or when `quorum` good replies
        are there: the rest is cancelled, and is Cancelled in the result. Options are those of `ask`: `skill` is called
        only with `arguments`, else `content` is asked; each peer's message id is made from `message_id` and its name.
        Raises ValueError for `k` or `quorum` under 1, TypeError for content that is no string.
        """
        engine = self._engine()
        if not isinstance(content, str):
            raise TypeError(f"content is a {type(content).__name__}, it must be a str")
        if quorum is not None and quorum < 1:
            raise ValueError(f"quorum is {quorum}, it must be 1 or more")
        names = choose(self.peers, to, options.get("skill"), k)
        shared: dict[str, Any] = {**options, "conversation": options.get("conversation") or engine.core.ids.next()}
        if not shared.get("arguments"):
            shared.pop("skill", None)
        base, turn = shared.pop("message_id", None), current_turn.get()

        async def ask(peer: str) -> Reply:
            return await engine.requests.ask(peer, content, turn, message_id=share_id(base, peer), **shared)

        return await self._portal.call(gather, ask, names, quorum)

    async def delivered(self, receipt: Receipt) -> Receipt:
        """Wait, on any loop, until the receipt has its final state."""
        if not self._portal.here:
            return await self._portal.call(receipt.delivered)
        return await receipt.delivered()

    # listening

    def incoming(self) -> Taker[Incoming]:
        """Messages from other agents. Several takers share one queue: each message goes to one of them."""
        return Taker(self._engine().core.inbox, self._bridge)

    def peer_events(self) -> Taker[PeerEvent]:
        """Events from now on. Past 256 that wait the oldest is dropped; `mesh.peers` always has the present state."""
        feeds = self._engine().core.event_feeds
        feed: Feed[PeerEvent] = Feed(EVENTS_KEPT, drop_oldest=True)
        feeds.append(feed)
        return Taker(feed, self._bridge, on_close=partial(feeds.remove, feed))

    async def wait_for_peer(self, peer: str, *, timeout: float = 15.0) -> Peer:
        """Wait until a peer is online or connected, and up to a second more for what it says of itself.

        Raises PeerUnreachable after `timeout` seconds.
        """
        engine = self._engine()
        if not self._portal.here:
            return await self._portal.call(partial(self.wait_for_peer, peer, timeout=timeout))
        try:
            async with asyncio.timeout(timeout):
                await engine.wait_for(peer)
        except TimeoutError:
            raise PeerUnreachable(peer, f"not seen within {timeout:g} s") from None
        await card_of(engine.core, peer)
        return self.peers[peer]

    # other loops and threads

    async def call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `work(*args)` on the mesh's loop, from any loop. Cancelling cancels it there."""
        self._engine()
        return await self._portal.call(work, *args)

    def call_sync(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run `work(*args)` on the mesh's loop and block for it. Raises RuntimeError on the mesh's own thread."""
        self._engine()
        return self._portal.call_sync(work, *args)

    @property
    def _portal(self) -> Portal:
        portal = self._lifetime.portal
        if portal is None:
            raise MeshClosed(f"the mesh of {self.config.name!r} was not started", executed="no")
        return portal

    def _engine(self) -> Engine:
        engine = self._lifetime.engine
        if engine is None:
            raise MeshClosed(f"the mesh of {self.config.name!r} was not started", executed="no")
        return engine

    def _bridge(self, work: Callable[..., Awaitable[Any]]) -> Awaitable[Any] | None:
        return None if self._portal.here else self._portal.call(work)
