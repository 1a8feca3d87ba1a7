"""A human's word across machines: what the peer's graph waits for, this graph waits for.

- the peer answers a request with interrupts; inside a graph each becomes an `interrupt()` here, labelled as the peer's
- when the graph is resumed, its node runs again with the same ids: the peer repeats the interrupts, `interrupt()` now
  returns the human's values, and they go back under an id of their own. The peer may ask again: again the same
- without a graph, or in one without a thread, nothing here can wait: `RemoteInterrupted` says who waits for what
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from ..agent import text
from ..errors import MeshError
from ..mesh.types import RemoteInterrupt, Reply


class RemoteInterrupted(MeshError):
    """The agent of a peer waits for a human, and nothing on this side can: the request is paused there, not failed.

    `interrupts` are its questions, `message_id` is the request it paused on. To answer them:
    `await mesh.ask(error.peer, "", **error.resume({interrupt.id: value}))`.
    """

    code = "interrupted"

    def __init__(self, reply: Reply, message_id: str) -> None:
        super().__init__(text.waits_for_human(reply.peer, [i.value for i in reply.interrupts]), executed="yes")
        self.peer, self.conversation, self.message_id = reply.peer, reply.conversation, message_id
        self.interrupts, self._reply = reply.interrupts, reply

    def resume(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of `Mesh.ask` that take a human's `values` back, by the ids of the interrupts."""
        return resume(self._reply, self.message_id, values)


def resume(paused: Reply, of: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `Mesh.ask` that answer the interrupts of `paused`, the latest reply to request `of`.

    Their message id comes from that of `paused` and the values: sent twice they are one answer; the same answer to a
    later question is another. Raises TypeError or ValueError for values that are not JSON.
    """
    plain = json.dumps(dict(values), sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(f"{paused.message_id}\0resume\0{plain}".encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "conversation": paused.conversation,
        "message_id": digest[:32],
        "meta": {"resume": {"of": of, "values": json.loads(plain)}},
    }


def ask_human(reply: Reply, of: str, *, resumable: bool) -> dict[str, Any]:
    """What the human says to each interrupt of the peer, by its id; `of` is the request that is paused.

    Raises GraphInterrupt while there is no answer yet, RemoteInterrupted where nobody can be asked.
    """
    if not resumable or "langgraph" not in sys.modules:
        raise RemoteInterrupted(reply, of)
    from langgraph.types import interrupt  # whoever runs a graph has it

    values: dict[str, Any] = {}
    for wanted in reply.interrupts:
        try:
            values[wanted.id] = interrupt(_shown(reply.peer, of, wanted))
        except (RuntimeError, KeyError):  # what langgraph raises outside of a graph's node
            raise RemoteInterrupted(reply, of) from None
    return values


def _shown(peer: str, of: str, wanted: RemoteInterrupt) -> dict[str, Any]:
    """What the human sees. `value` is the peer's, and stands under its name: it cannot pass for a question of ours."""
    return {"peer": peer, "message_id": of, "id": wanted.id, "value": wanted.value}
