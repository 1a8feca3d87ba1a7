"""Ways to a peer: one dial per peer on demand, the mailbox after a while, and when to give up.

- `seek`: there is work and no channel. Dial, with back-off, as long as there is work
- `check`: on the timer while a peer is stuck. After `mailbox_after_s` its messages go through the mailbox under the
  same ids; when the peer is not there at all, those who wait hear it within a few seconds
- back: a channel that opens takes over, everything unacknowledged goes again
"""

from __future__ import annotations

import asyncio
import logging
import random
from math import inf

from ..errors import LinkDown, MeshError, PeerGone, PeerUnreachable
from .core import Core, PeerState
from .outgoing import Outgoing

logger = logging.getLogger(__name__)

NEVER_SEEN_S = 3.0  # a name nobody has heard of: long enough for an agent that starts at the same time
GONE_S = 5.0  # a peer that was here: its sidecar is restarted and back on the registry in about one second
DIAL_FIRST_S = 0.1
DIAL_MAX_S = 2.0


class Paths:
    """Finds ways to peers."""

    def __init__(self, core: Core, out: Outgoing) -> None:
        self.core, self.out = core, out

    def seek(self, peer: PeerState) -> None:
        """Something waits for `peer`, and there is no channel: start to look for a way, once."""
        core = self.core
        if peer.stuck_since is None:
            peer.stuck_since = core.now()
            peer.dial_failures = 0
            if not peer.seen and core.lookup is not None:
                core.lookup(peer.id)
            core.wake(peer.stuck_since + min(core.config.mailbox_after_s, NEVER_SEEN_S))
        if peer.dial is None and core.link_up and not core.closing:
            peer.dial = core.spawn(self._dial(peer), f"dial {peer.id}")

    def found(self, peer: PeerState) -> None:
        """A channel is open."""
        peer.stuck_since = None
        peer.mailbox = peer.doubt = False
        peer.dial_failures, peer.dial_error = 0, ""
        peer.nudge.set()

    def doubt(self, peer: PeerState) -> None:
        """The peer wrote by mailbox while we think a channel is open: it has lost it. Answer the same way."""
        peer.doubt = True
        peer.session.outbox.requeue()

    def trust(self, peer: PeerState) -> None:
        """Something came through the channel: it works, and takes over again."""
        peer.doubt = False
        peer.session.outbox.requeue()
        self.out.flush(peer)

    def link_changed(self, up: bool) -> None:
        """The way to the sidecar broke or came back: dial anew, and count the time to give up from now."""
        core = self.core
        core.link_up, core.link_since = up, core.now()
        if up:
            for peer in core.peers.values():
                if not peer.up and core.has_work(peer):
                    self.seek(peer)
                    peer.nudge.set()

    async def _dial(self, peer: PeerState) -> None:
        core, pause = self.core, DIAL_FIRST_S
        try:
            while not peer.up and core.link_up and core.has_work(peer):
                peer.nudge.clear()  # set by PeerUp and PeerJoined
                try:
                    await core.transport.connect(peer.id, timeout_s=core.config.connect_timeout_s)
                except MeshError as exc:
                    peer.dial_error = exc.message.removeprefix(f"cannot reach {peer.id!r}: ")
                    if not isinstance(exc, LinkDown):
                        peer.dial_failures += 1
                    logger.debug("peer=%s: dial failed: %s", peer.id, exc)
                try:
                    async with asyncio.timeout(pause * (0.5 + random.random())):
                        await peer.nudge.wait()  # joined, or the link is back: no need to wait
                except TimeoutError:
                    pause = min(pause * 2, DIAL_MAX_S)
        finally:
            peer.dial = None

    def check(self, peer: PeerState, now: float) -> float:
        """Look after a stuck peer; return when to look again."""
        core = self.core
        if peer.up or peer.stuck_since is None or not core.has_work(peer):
            peer.stuck_since = None
            return inf
        stuck = now - peer.stuck_since
        known = peer.seen or peer.online
        if core.mailbox is not None and known and not peer.mailbox and stuck >= core.config.mailbox_after_s:
            self.use_mailbox(peer)
        if core.link_up:
            alone = now - max(peer.stuck_since, core.link_since)
            if not known and alone >= NEVER_SEEN_S and peer.dial_failures:
                self._give_up(peer, everything=True)
            elif alone >= GONE_S and (not peer.online or (peer.dial_failures > 1 and not peer.mailbox)):
                self._give_up(peer, everything=False)
            if peer.dial is None and not peer.mailbox:
                self.seek(peer)
        return now + 0.25  # only while a peer is stuck

    def use_mailbox(self, peer: PeerState) -> None:
        """From now on, until a channel opens, messages to `peer` go through the mailbox."""
        logger.info(
            "peer=%s: no channel (%s), its messages go through the mailbox", peer.id, peer.dial_error or "not open"
        )
        peer.mailbox = True
        peer.session.outbox.requeue()
        self.core.counters["mailbox_switches"] += 1
        self.core.changed()
        self.out.flush(peer)

    def refused(self, peer: PeerState, why: MeshError) -> None:
        """What answers at this name is not the peer: everything that waits for it ends."""
        outbox = peer.session.outbox
        for waiting in list(self.core.pending.of(peer.id)):
            entry = outbox.entries.get(waiting.id)
            if entry is not None:
                self.out.end(peer, entry, why)
            else:
                self.out.fail(peer, waiting.id, why)
        for entry in list(outbox.entries.values()):
            self.out.end(peer, entry, why)
        self.out.give_room(peer)

    def _give_up(self, peer: PeerState, *, everything: bool) -> None:
        """Tell those who wait. Messages stay until their time to live is over, unless the peer was never there."""
        why = peer.dial_error or "no open channel"
        peer.cancels.clear()
        outbox = peer.session.outbox
        for waiting in self.core.pending.of(peer.id):
            entry = outbox.entries.get(waiting.id)
            if entry is not None and entry.tries == 0:
                self.out.end(peer, entry, PeerUnreachable(peer.id, why))
            else:
                outbox.drop(waiting.id)
                self.out.fail(peer, waiting.id, PeerGone(f"{peer.id!r} went away before it answered: {why}"))
        if everything:
            for entry in list(outbox.entries.values()):
                self.out.end(peer, entry, PeerUnreachable(peer.id, why))
        self.out.give_room(peer)
