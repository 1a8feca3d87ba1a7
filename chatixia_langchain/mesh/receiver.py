"""From a transport to the inbox: decode, decide, hand over, and go back to reading. Nothing here waits.

- a bad frame is counted and logged, and the channel lives on
- a reply ends its request; late, repeated and forged ones are non-events
- a message or request enters the bounded inbox, or is answered busy and comes again
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import msgspec

from ..delivery.inbox import Verdict
from ..errors import InvalidLine, PeerGone, RemoteError
from ..protocol.envelope import Frame, MeshPart, decode
from . import frames
from .answers import Answers
from .chunk_sender import ChunkSender
from .core import Core, PeerState
from .outgoing import Outgoing
from .types import DETACHED, Incoming

logger = logging.getLogger(__name__)

EMPTY: dict[str, Any] = {}
DEFAULT_TTL_S = 60.0  # for frames that do not say, which is what old agents send


class Receiver:
    """What peers send to this mesh."""

    def __init__(self, core: Core, out: Outgoing, answers: Answers) -> None:
        self.core, self.out, self.answers = core, out, answers

    def received(self, peer_id: str, body: bytes, path: str) -> None:
        """One frame of `peer_id`, who is the peer of the channel whatever the frame says."""
        core = self.core
        try:
            frame = decode(body)
        except InvalidLine as exc:
            core.counters["bad_frames"] += 1
            logger.warning("peer=%s: a frame is not understood and was dropped: %s", peer_id, exc.message)
            return
        peer = core.peers.get(peer_id) or core.peer(peer_id)
        if peer.doubt and path != "mailbox":
            self.out.paths.trust(peer)
        part = frame.mesh
        if part is None:
            self._from_old(peer, frame, path)
            return
        kind = part.kind
        if kind == "message" or kind == "request":
            self._message(peer, frame, part, len(body), path)
        elif kind == "reply" or kind == "error":
            self._reply(peer, frame, part, path)
            if peer.session.acks.add(part.id, kind, len(body), core.now()):
                self.out.send_acks(peer)
            else:
                core.wake(peer.session.acks.due)
        elif kind == "chunk":
            self._chunk(peer, frame, part)
        elif kind == "ack":
            self.out.acked(peer, part.ids)
        elif kind == "hello":
            self._hello(peer, part.epoch)
        elif kind == "busy":
            self.out.busy(peer, part.ids)
        else:
            self._cancel(peer, part.corr)

    def _message(self, peer: PeerState, frame: Frame, part: MeshPart, size: int, path: str) -> None:
        core, session = self.core, peer.session
        now = core.now()
        verdict = session.inbox.accept(part.id, now, room=not core.inbox.full)
        if verdict is Verdict.REFUSED:
            core.counters["refused"] += 1
            if not peer.refused:
                core.loop.call_soon(self.out.send_busy, peer)  # all of this turn in one frame
            peer.refused.append(part.id)
            return
        request = part.kind == "request"
        if verdict is Verdict.NEW:
            incoming = self._incoming(peer, frame, part, path)
            if request:
                incoming._answer = partial(self.answers.answer, peer, incoming, frame.type == "task_request", False)
                incoming.attempt = session.inbox.start(part.id, incoming)
                if part.stream:
                    incoming._chunk = ChunkSender(core, peer, incoming, frame.type == "task_request")
            core.inbox.put(incoming)
            core.counters["received"] += 1
        else:
            core.counters["duplicates"] += 1
            if request and part.id not in session.inbox.running:
                self.answers.answer_again(peer, part.id, part.conversation, frame.type == "task_request")
        if session.acks.add(part.id, part.kind, size, now):
            self.out.send_acks(peer)
        else:
            core.wake(session.acks.due)

    def _incoming(self, peer: PeerState, frame: Frame, part: MeshPart, path: str) -> Incoming:
        payload = frame.payload or EMPTY
        skill = ""
        content = payload.get("message")
        arguments: dict[str, Any] = EMPTY
        if frame.type == "task_request":
            skill, arguments = _skill(payload)
        if not isinstance(content, str):
            content = msgspec.json.encode(arguments).decode() if arguments else ""
        return Incoming(
            peer.id,
            content,
            part.conversation,
            part.id,
            part.kind == "request",
            part.hops,
            part.ttl_ms / 1000 if part.ttl_ms else DEFAULT_TTL_S,
            part.broadcast,
            skill,
            arguments,
            part.chain,
            part.meta or EMPTY,
            path,
            1,
            part.stream,
            part.budget,
            part.trace,
        )

    def _chunk(self, peer: PeerState, frame: Frame, part: MeshPart) -> None:
        sink = self.core.pending.sink(peer.id, part.corr)
        if sink is None:
            self.core.counters["chunks_late"] += 1  # or nobody asked for them, or another peer sent them
            return
        payload = frame.payload or EMPTY  # its types were checked by `decode`
        sink.chunk(payload["step"], payload["at"], payload["chunk"])

    def _reply(self, peer: PeerState, frame: Frame, part: MeshPart, path: str) -> None:
        waiting = self.core.pending.match(peer.id, part.corr)
        if waiting is None:
            peer.cancels.pop(part.corr, None)  # it stopped, or was done before it heard
            return  # late, repeated or forged
        self.out.acked(peer, (part.corr,))  # a reply acknowledges its request
        if waiting.owner.done():
            return
        if part.kind == "reply":
            waiting.owner.set_result((frame, path))
            return
        executed = part.executed if part.executed in ("yes", "no", "unknown") else "unknown"
        text = frame.error_text() or "the peer gave no reason"
        fault = RemoteError(text, code=part.code or None, retryable=part.retryable, executed=executed)  # type: ignore[arg-type]
        fault.meta = part.meta or EMPTY
        waiting.owner.set_exception(fault)

    def _hello(self, peer: PeerState, epoch: str) -> None:
        if peer.old:
            peer.old = peer.protocol == 0
        restarted = peer.session.new_epoch(epoch)
        if peer.up and (restarted or not peer.hello_sent):
            self.say_hello(peer)
        if not restarted:
            return
        logger.info("peer=%s: its agent was restarted", peer.id)
        peer.cancels.clear()  # it remembers no request
        for waiting in self.core.pending.of(peer.id):
            if waiting.acked:
                self.out.fail(peer, waiting.id, PeerGone(f"the agent of {peer.id!r} was restarted before it answered"))
        for incoming in list(peer.session.inbox.running.values()):
            if incoming.meta.get(DETACHED) is not True:
                incoming.cancelled.set()  # whoever asked is no longer there
        peer.session.outbox.requeue()
        self.out.flush(peer)

    def say_hello(self, peer: PeerState) -> None:
        """Tell the peer our epoch."""
        peer.hello_sent = True
        self.out.control(peer, frames.hello(self.core.name, peer.id, self.core.ids.epoch, self.core.card))

    def _cancel(self, peer: PeerState, id_: str) -> None:
        incoming = peer.session.inbox.cancel(id_)
        if incoming is not None:
            incoming.cancelled.set()

    # agents of the existing mesh

    def _from_old(self, peer: PeerState, frame: Frame, path: str) -> None:
        if not peer.old and not peer.session.epoch:
            self.out.turned_old(peer)
        if frame.type in ("task_request", "agent_prompt"):
            self._old_request(peer, frame, path)
        elif frame.type in ("task_response", "agent_response"):
            waiting = self.core.pending.match(peer.id, frame.request_id)
            if waiting is None:
                return
            self.out.acked(peer, (frame.request_id,))
            if waiting.owner.done():
                return
            fault = frame.error_text()
            if fault:
                waiting.owner.set_exception(RemoteError(fault))
            else:
                waiting.owner.set_result((frame, path))
        elif frame.type == "ping":
            self.out.control(peer, frames.old_pong(self.core.name, peer.id, frame.request_id))
        else:
            self.core.counters["ignored"] += 1

    def _old_request(self, peer: PeerState, frame: Frame, path: str) -> None:
        core = self.core
        task = frame.type == "task_request"
        id_ = frame.request_id or core.ids.next()
        part = MeshPart(1, "request", id_)
        incoming = self._incoming(peer, frame, part, path)
        if core.inbox.full:
            fault = "busy: the inbox of this agent is full, try again later"
            self.out.control(peer, frames.old_reply(core.name, peer.id, corr=id_, task=task, fault=fault))
            return
        incoming._answer = partial(self.answers.answer, peer, incoming, task, True)
        core.inbox.put(incoming)
        core.counters["received"] += 1


def _skill(payload: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    skill = payload.get("skill")
    return (skill if isinstance(skill, str) else ""), {k: v for k, v in payload.items() if k != "skill"}
