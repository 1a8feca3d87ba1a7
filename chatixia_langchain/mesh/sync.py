"""The blocking door: the same calls for code that is not async, from any thread but the mesh's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from ..errors import MeshError
from .options import AskOptions, BroadcastOptions, SendOptions
from .stream import SyncReplyStream
from .types import Incoming, Peer, Receipt, Reply

if TYPE_CHECKING:
    from .mesh import Mesh


class SyncMesh:
    """`mesh.sync`. Every call raises RuntimeError at once, instead of a deadlock, on the thread of the mesh's loop."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def ask(self, peer: str, content: str, **options: Unpack[AskOptions]) -> Reply:
        """See `Mesh.ask`."""
        return self._mesh.call_sync(partial(self._mesh.ask, peer, content, **options))

    def ask_stream(self, peer: str, content: str, **options: Unpack[AskOptions]) -> SyncReplyStream:
        """See `Mesh.ask_stream`: a blocking iterator with `reply` and `close()`."""
        return SyncReplyStream(self._mesh._portal, self._mesh._ask_into(peer, content, options))

    def ask_many(self, content: str, **options: Any) -> dict[str, Reply | MeshError]:
        """See `Mesh.ask_many`."""
        return self._mesh.call_sync(partial(self._mesh.ask_many, content, **options))

    def send(self, peer: str, content: str, **options: Unpack[SendOptions]) -> Receipt:
        """See `Mesh.send`."""
        return self._mesh.call_sync(partial(self._mesh.send, peer, content, **options))

    def broadcast(
        self, content: str, *, to: Iterable[str] | None = None, **options: Unpack[BroadcastOptions]
    ) -> dict[str, Receipt | MeshError]:
        """See `Mesh.broadcast`."""
        return self._mesh.call_sync(partial(self._mesh.broadcast, content, to=to, **options))

    def delivered(self, receipt: Receipt) -> Receipt:
        """See `Mesh.delivered`."""
        return self._mesh.call_sync(self._mesh.delivered, receipt)

    def status(self) -> dict[str, Any]:
        """See `Mesh.status`."""
        return self._mesh.call_sync(self._mesh.status)

    def wait_for_peer(self, peer: str, *, timeout: float = 15.0) -> Peer:
        """See `Mesh.wait_for_peer`."""
        return self._mesh.call_sync(partial(self._mesh.wait_for_peer, peer, timeout=timeout))

    def incoming(self) -> Iterator[Incoming]:
        """Iterate over incoming messages; ends with the mesh. Answer with `reply` and `fail` of this object."""
        taker = self._mesh.incoming()
        while True:
            try:
                item = self._mesh.call_sync(taker.__anext__)
            except StopAsyncIteration:
                return
            except MeshError:
                return  # the mesh was closed, and its loop with it
            yield item

    def reply(self, incoming: Incoming, content: str, *, meta: Mapping[str, Any] | None = None) -> None:
        """See `Incoming.reply`."""
        self._mesh.call_sync(partial(incoming.reply, content, meta=meta))

    def fail(self, incoming: Incoming, error: MeshError) -> None:
        """See `Incoming.fail`."""
        self._mesh.call_sync(incoming.fail, error)
