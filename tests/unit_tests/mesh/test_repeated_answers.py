"""A request that comes again is answered again, and the copies of the answer do not pile up where no one takes them."""

from __future__ import annotations

from .members import Members, echo
from .test_holes import RawPeer
from .test_holes import raw as raw  # a fixture

REQUEST = {
    "type": "agent_prompt",
    "request_id": "r1",
    "payload": {"message": "x"},
    "mesh": {"v": 1, "id": "r1", "kind": "request", "conversation": "c", "ttl_ms": 60_000},
}


async def test_copies_of_an_answer_take_each_others_place(members: Members, raw: RawPeer) -> None:
    """One that asks and asks and acknowledges nothing, as behind a channel that breaks again and again.

    Copies that pile up go again with each new channel, before anything else: on a bad wire nothing else ever would.
    """
    b = await members.join("b")
    members.serve(b, echo)
    await raw.connect("b")
    ids = []
    for _ in range(10):
        raw.say("b", REQUEST)
        ids.append((await raw.hears("reply"))["mesh"]["id"])
    engine = b._lifetime.engine
    assert engine is not None
    assert len(engine.core.peers["raw"].session.outbox) == 1
    assert len(set(ids)) == 10, "each under an id of its own: a late acknowledgement of one must not end another"
