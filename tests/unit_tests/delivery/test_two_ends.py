"""Two ends over a wire that loses, doubles and reorders whole batches, and breaks: nothing is lost, doubled or forged.

The wire is hypothesis's to arrange. Time is moved by hand; both ends are the state machines that `mesh` drives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chatixia_langchain.delivery.inbox import Answer, Verdict
from chatixia_langchain.delivery.outbox import Entry
from chatixia_langchain.delivery.pending import Pending, Waiting
from chatixia_langchain.delivery.session import Session

TTL_S = 10_000.0


@dataclass
class End:
    """One agent's delivery, driven as the mesh does it. Frames are (kind, id, corr, ids)."""

    name: str
    session: Session = field(default_factory=Session)
    pending: Pending = field(default_factory=Pending)
    wire: list[tuple[str, str, str, tuple[str, ...]]] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    room: bool = True

    def send(self, id_: str, kind: str, now: float) -> None:
        if kind == "request":
            self.pending.add(Waiting(id_, "peer", now, now + TTL_S, id_))
        self.session.outbox.add(Entry(id_, b"x", kind, now, now + TTL_S, id_))

    def flush(self, now: float) -> None:
        for entry in self.session.outbox.tick(now, resend=True):
            self.settled[entry.id] = "expired"
        while (head := self.session.outbox.head(now)) is not None:
            corr = head.owner if head.kind == "reply" else ""
            self.wire.append((head.kind, head.id, corr, ()))
            self.session.outbox.sent(head, now, "wire")
        if self.session.acks.due <= now and (ids := self.session.acks.take()):
            self.wire.append(("ack", "", "", ids))

    def receive(self, frame: tuple[str, str, str, tuple[str, ...]], now: float) -> None:
        kind, id_, corr, ids = frame
        inbox, outbox = self.session.inbox, self.session.outbox
        if kind in ("message", "request"):
            verdict = inbox.accept(id_, now, room=self.room)
            if verdict is Verdict.REFUSED:
                self.wire.append(("busy", "", "", (id_,)))
                return
            if verdict is Verdict.NEW:
                self.arrived.append(id_)
                if kind == "request":
                    inbox.start(id_, id_)
            elif kind == "request" and (kept := inbox.again(id_)) and kept.id not in outbox.entries:
                outbox.add(Entry(kept.id, b"x", "reply", now, now + TTL_S, id_))
            self.session.acks.add(id_, kind, 1, now)
        elif kind == "reply":
            if self.pending.match("peer", corr) is not None:
                self.answered[corr] = self.answered.get(corr, "") + id_
                self._acked(corr)
            self.session.acks.add(id_, kind, 1, now)
        elif kind == "ack":
            for acked in ids:
                self._acked(acked)
        elif kind == "busy":
            outbox.busy(ids, now)

    def _acked(self, id_: str) -> None:
        entry = self.session.outbox.ack(id_)
        if entry is not None:
            assert id_ not in self.settled, "settled twice"
            self.settled[id_] = "delivered"

    def work(self, now: float) -> None:
        """The handler runs every request it finds, once."""
        for id_ in list(self.session.inbox.running):
            self.handled.append(id_)
            answer = Answer(f"re-{id_}", b"x", "reply")
            assert self.session.inbox.answer(id_, answer)
            self.session.outbox.add(Entry(answer.id, b"x", "reply", now, now + TTL_S, id_))


def carry(one: End, other: End, now: float, faults: Any) -> None:
    """Take what `one` put on the wire to `other`, with what hypothesis does to it."""
    frames, one.wire = one.wire, []
    if not frames:
        return
    fates = faults.draw(st.lists(st.sampled_from(["ok", "lost", "twice"]), min_size=len(frames), max_size=len(frames)))
    batch = [f for f, fate in zip(frames, fates, strict=True) for _ in range({"ok": 1, "lost": 0, "twice": 2}[fate])]
    if len(batch) > 1 and faults.draw(st.booleans()):
        batch = faults.draw(st.permutations(batch))
    for frame in batch:
        other.receive(frame, now)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_lost_0_doubled_0_forged_0(data: st.DataObject) -> None:
    a, b = End("a"), End("b")
    kinds = data.draw(st.lists(st.sampled_from(["message", "request"]), min_size=1, max_size=12))
    now = 0.0
    for n, kind in enumerate(kinds):
        a.send(f"{kind}{n}", kind, now)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):  # the channel breaks and comes back
            a.session.outbox.requeue()
            b.session.outbox.requeue()
        b.room = data.draw(st.booleans())
        step(a, b, now, data)
        now += data.draw(st.sampled_from([0.01, 0.5, 3.0]))
    b.room = True
    for _ in range(60):  # from here on the wire is good: everything must come to its end
        now += 1.0
        step(a, b, now, None)
    sent = {f"{kind}{n}" for n, kind in enumerate(kinds)}
    requests = {i for i in sent if i.startswith("request")}
    assert sorted(b.arrived) == sorted(sent), "lost or doubled"
    assert sorted(b.handled) == sorted(requests), "a request ran not at all or twice"
    assert a.answered == {i: f"re-{i}" for i in requests}, "an answer was lost, doubled or mixed up"
    assert a.settled == dict.fromkeys(sent, "delivered")
    assert len(a.session.outbox) == len(b.session.outbox) == len(a.pending) == 0


def step(a: End, b: End, now: float, data: Any) -> None:
    for one, other in ((a, b), (b, a)):
        one.flush(now)
        if data is None:
            frames, one.wire = one.wire, []
            for frame in frames:
                other.receive(frame, now)
        else:
            carry(one, other, now, data)
        other.work(now)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_order_holds_on_a_wire_that_breaks_and_refuses(data: st.DataObject) -> None:
    """First in, first out, over channels that break and inboxes that fill: order is kept throughout."""
    a, b = End("a"), End("b")
    now, n = 0.0, 0
    for _ in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(0, 3))):
            a.send(f"m{n:03}", "message", now)
            n += 1
        a.flush(now)
        frames, a.wire = a.wire, []
        kept = data.draw(st.integers(0, len(frames)))
        rooms = data.draw(st.lists(st.booleans(), min_size=len(frames), max_size=len(frames)))
        for frame, room in zip(frames[:kept], rooms[:kept], strict=True):
            b.room = room
            b.receive(frame, now)
        b.flush(now)
        replies, b.wire = b.wire, []
        if kept < len(frames):
            a.session.outbox.requeue()  # it broke: the tail and the answers are gone
        else:
            for frame in replies:
                a.receive(frame, now)
        now += data.draw(st.sampled_from([0.003, 0.3, 2.0]))
    b.room = True
    for _ in range(30):
        now += 1.0
        step(a, b, now, None)
    assert b.arrived == sorted(b.arrived)
    assert len(b.arrived) == n


def test_an_expired_message_is_reported_once_and_never_arrives() -> None:
    a = End("a")
    a.session.outbox.add(Entry("m", b"x", "message", 0.0, 5.0, "m"))
    a.flush(0.0)
    a.wire.clear()
    for now in (1.0, 3.0, 5.0, 6.0):
        a.flush(now)
    assert a.settled == {"m": "expired"}
    assert a.session.next_at == inf
