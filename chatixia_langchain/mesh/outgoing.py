"""From the outbox to a transport: hand over in order, wait for room, acknowledge, resend, give up.

- `submit` accepts an entry and hands it over at once when a channel is open; else `paths` looks for a way
- `room` waits until the peer's window takes more
- `acked`, `busy` and the end of an entry come from the receiver
- `tick` is the one timer: deadlines, overdue acknowledgements, batched acknowledgements
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING

from ..delivery.outbox import Entry
from ..errors import Busy, LinkDown, MeshError, MeshTimeout, MessageTooBig, PeerUnreachable, Undeliverable
from ..transport.base import Transport
from . import frames
from .core import Core, PeerState
from .types import Receipt

if TYPE_CHECKING:
    from .paths import Paths

logger = logging.getLogger(__name__)

STALE_S = 0.5  # a frame that waited longer than this goes with its remaining time to live written anew
MAX_CANCELS = 256  # per peer that are told again; past it once has to do: the peer's own deadline ends the work too
MAX_BUSY_IDS = 512  # in one frame: far below the size limit even with the longest ids
RETRY_S = 0.2  # after a transport refused for a reason that should have been announced


class Outgoing:
    """Everything on its way out of this mesh."""

    paths: Paths  # set once by Engine: the two need each other

    def __init__(self, core: Core) -> None:
        self.core = core

    def submit(self, peer: PeerState, entry: Entry) -> None:
        """Accept `entry` for `peer`. Raises ValueError when its id is on its way already."""
        peer.session.outbox.add(entry)
        self.flush(peer)

    async def room(self, peer: PeerState, size: int, deadline: float) -> None:
        """Return when the window to `peer` takes `size` bytes, first come first served. Raises Busy at the deadline."""
        outbox = peer.session.outbox
        if not peer.room_waiters and outbox.has_room(size):
            return
        waiter: asyncio.Future[None] = self.core.loop.create_future()
        peer.room_waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    await waiter
                    if outbox.has_room(size):
                        return
                    waiter = self.core.loop.create_future()
                    peer.room_waiters.appendleft(waiter)
        except TimeoutError:
            raise Busy(
                f"{outbox.room} free places in the window to {peer.id!r}, and none for this message in time"
            ) from None
        finally:
            if waiter in peer.room_waiters:
                peer.room_waiters.remove(waiter)
            self.give_room(peer)

    def give_room(self, peer: PeerState) -> None:
        """Wake as many waiting senders as the window has places."""
        free = peer.session.outbox.room
        while peer.room_waiters and free > 0:
            waiter = peer.room_waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    # handing over

    def flush(self, peer: PeerState) -> None:
        """Hand over what is queued, as far as the transport takes it."""
        core, outbox = self.core, peer.session.outbox
        now = core.now()
        transport: Transport
        if peer.up and not peer.doubt:
            transport, path = core.transport, peer.path
        elif (peer.mailbox or peer.doubt) and core.mailbox is not None:
            transport, path = core.mailbox, "mailbox"
        else:
            if len(outbox):
                self.paths.seek(peer)
                core.wake(outbox.next_at)
            return
        while peer.writable is None and (entry := outbox.head(now)) is not None:
            body = entry.body
            if now - entry.accepted > STALE_S:
                body = frames.with_ttl(body, entry.deadline - now)
            try:
                if len(body) > peer.max_bytes:
                    raise MessageTooBig(len(body), peer.max_bytes)
                transport.send(peer.id, body)
            except MeshError as exc:
                self._refused(transport, peer, entry, exc, now)
                break
            outbox.sent(entry, now, path)
            if peer.old:
                self._sent_to_old(peer, entry)
        core.wake(outbox.next_at)

    def _refused(self, transport: Transport, peer: PeerState, entry: Entry, why: MeshError, now: float) -> None:
        """The transport did not take the head of the queue."""
        if isinstance(why, Busy) and transport is self.core.transport:
            peer.writable = self.core.spawn(self._writable(peer), f"writable {peer.id}")
        elif isinstance(why, (Busy, PeerUnreachable, LinkDown)):
            peer.session.outbox.hold(now + RETRY_S)  # a PeerDown follows, and then the reconnect hands it over
        else:  # too big, or not one line: it will never be taken
            self.end(peer, entry, why)
            self.core.loop.call_soon(self.flush, peer)  # go on with the next one, not in the middle of this one

    async def _writable(self, peer: PeerState) -> None:
        try:
            await self.core.transport.writable(peer.id)
        finally:
            peer.writable = None
        if not self.core.closing:
            self.flush(peer)

    def control(self, peer: PeerState, body: bytes) -> None:
        """Send an acknowledgement, busy, cancel or hello: outside of the window, best effort, repeated by its cause."""
        core = self.core
        try:
            if peer.up and not peer.doubt:
                core.transport.send(peer.id, body)
            elif (peer.mailbox or peer.doubt) and core.mailbox is not None:
                core.mailbox.send(peer.id, body)
        except MeshError as exc:
            core.counters["control_lost"] += 1
            logger.debug("peer=%s: control frame not sent: %s", peer.id, exc)

    def send_acks(self, peer: PeerState) -> None:
        """Acknowledge what is waiting to be acknowledged; without a way to the peer it waits for one."""
        if not (peer.up or peer.mailbox or peer.doubt):
            peer.session.acks.due = inf  # the next channel begins with them
            return
        ids = peer.session.acks.take()
        if ids and not peer.old:
            self.control(peer, frames.control("ack", self.core.name, peer.id, ids=ids))

    def send_busy(self, peer: PeerState) -> None:
        """Tell the peer which messages found no room."""
        ids, peer.refused = tuple(peer.refused), []
        for start in range(0, len(ids), MAX_BUSY_IDS):
            self.control(peer, frames.control("busy", self.core.name, peer.id, ids=ids[start : start + MAX_BUSY_IDS]))

    # how entries end

    def acked(self, peer: PeerState, ids: tuple[str, ...] | list[str]) -> None:
        """The peer's agent has these messages."""
        outbox = peer.session.outbox
        for id_ in ids:
            entry = outbox.ack(id_)
            if entry is None:
                continue  # repeated, late or invented: a non-event
            if entry.kind == "request":
                self.core.pending.acked(peer.id, id_)
            elif entry.owner is not None:
                entry.owner.settle("delivered", path=self.label(entry.path))
        if peer.room_waiters:
            self.give_room(peer)

    def busy(self, peer: PeerState, ids: tuple[str, ...]) -> None:
        """The peer's inbox is full: go again later."""
        peer.session.outbox.busy(ids, self.core.now())
        self.core.wake(peer.session.outbox.next_at)

    def _sent_to_old(self, peer: PeerState, entry: Entry) -> None:
        peer.session.outbox.ack(entry.id)
        if entry.kind == "request":
            self.core.pending.acked(peer.id, entry.id)
        elif entry.owner is not None:
            entry.owner.settle("sent", path=self.label(entry.path))
        if peer.room_waiters:
            self.core.loop.call_soon(self.give_room, peer)

    def turned_old(self, peer: PeerState) -> None:
        """The peer's agent turns out to acknowledge nothing: what was sent is all that will ever be known."""
        peer.old = True
        for entry in list(peer.session.outbox.entries.values()):
            if entry.tries:
                self._sent_to_old(peer, entry)

    def end(self, peer: PeerState, entry: Entry, why: MeshError) -> None:
        """Give up an entry: its request fails, its receipt says undeliverable; a reply that nobody gets is logged."""
        if peer.session.outbox.drop(entry.id) is not None:
            self._ended(peer, entry, why)

    def _ended(self, peer: PeerState, entry: Entry, why: MeshError) -> None:
        if entry.refused:  # the peer keeps its place in the order: let later messages pass
            self.control(peer, frames.control("cancel", self.core.name, peer.id, corr=entry.id))
        if entry.kind == "request":
            self.fail(peer, entry.id, why)
        elif isinstance(entry.owner, Receipt):
            entry.owner.settle("undeliverable", path=self.label(entry.path), reason=str(why))
        else:
            self.core.counters["replies_undeliverable"] += 1
            logger.info("peer=%s id=%s: a reply could not be delivered: %s", peer.id, entry.id, why)
        self.give_room(peer)

    def fail(self, peer: PeerState, id_: str, why: BaseException) -> None:
        """End the wait for a reply with an error."""
        waiting = self.core.pending.pop(id_)
        if waiting is not None and not waiting.owner.done():
            waiting.owner.set_exception(why)

    def abandon(self, peer: PeerState, id_: str) -> bool:
        """Nobody waits for request `id_` any more: take it back, or tell the peer. True when it was never sent."""
        entry = peer.session.outbox.drop(id_)
        waiting = self.core.pending.pop(id_)
        never_sent = entry is not None and entry.tries == 0
        if not never_sent and not peer.old:
            self._cancel(peer, id_, waiting.deadline if waiting is not None else 0.0)
        self.give_room(peer)
        return never_sent

    def _cancel(self, peer: PeerState, id_: str, until: float) -> None:
        """Tell the peer that nobody waits, and again on the next channel unless its answer comes before."""
        if until > self.core.now() and len(peer.cancels) < MAX_CANCELS:
            peer.cancels[id_] = until
        self.control(peer, frames.control("cancel", self.core.name, peer.id, corr=id_))
        if not peer.up and id_ in peer.cancels:
            self.paths.seek(peer)

    def cancel_again(self, peer: PeerState) -> None:
        """A channel is open: what was cancelled may not have been heard."""
        for id_, until in list(peer.cancels.items()):
            if until > self.core.now():
                self.control(peer, frames.control("cancel", self.core.name, peer.id, corr=id_))
            else:
                del peer.cancels[id_]

    # the timer

    def tick(self, now: float) -> float:
        """Do what is due at `now`; return the next moment something is."""
        core = self.core
        for waiting in core.pending.expire(now):
            never_sent = self.abandon(core.peer(waiting.peer), waiting.id)
            if not waiting.owner.done():
                where = "it was never sent" if never_sent else "whether it ran is not known"
                text = f"no answer from {waiting.peer!r} within {waiting.deadline - waiting.started:.3g} s; {where}"
                waiting.owner.set_exception(MeshTimeout(text, executed="no" if never_sent else "unknown"))
        next_at = core.pending.next_at
        for peer in list(core.peers.values()):
            session = peer.session
            if session.acks.due <= now:
                self.send_acks(peer)
            if session.outbox.next_at <= now:
                self._tick_outbox(peer, now)
            next_at = min(
                next_at, session.next_at, self.paths.check(peer, now) if peer.stuck_since is not None else inf
            )
        return next_at

    def _tick_outbox(self, peer: PeerState, now: float) -> None:
        reachable = peer.up or peer.mailbox
        for entry in peer.session.outbox.tick(now, resend=reachable):
            self._ended(peer, entry, self._expired(peer, entry))
        if reachable:
            self.flush(peer)

    def _expired(self, peer: PeerState, entry: Entry) -> MeshError:
        if entry.tries:
            return Undeliverable(f"{peer.id!r} did not acknowledge it within its time to live")
        why = peer.dial_error or "no channel"
        return Undeliverable(f"no way to {peer.id!r} within its time to live: {why}", executed="no")

    def label(self, path: str) -> str:
        """The path as users see it: channel, mailbox or memory."""
        if path == "mailbox":
            return "mailbox"
        return "memory" if self.core.transport.name == "memory" else "channel"
