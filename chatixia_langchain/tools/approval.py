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

    To answer it, ask the peer again with `resume(error, values)`: the keyword arguments of `Mesh.ask`.
    """

    code = "interrupted"

    def __init__(self, reply: Reply) -> None:
        super().__init__(text.waits_for_human(reply.peer, [i.value for i in reply.interrupts]), executed="yes")
        self.peer, self.conversation, self.message_id = reply.peer, reply.conversation, reply.message_id
        self.interrupts = reply.interrupts


def resume(paused: Reply | RemoteInterrupted, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `Mesh.ask` that answer a paused request: `values` by the ids of its interrupts.

    The message id comes from the request's and the values: sent twice they are one answer, other values are another.
    Raises TypeError or ValueError for values that are not JSON.
    """
    plain = json.dumps(dict(values), sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(f"{paused.message_id}\0resume\0{plain}".encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "conversation": paused.conversation,
        "message_id": digest[:32],
        "meta": {"resume": {"of": paused.message_id, "values": json.loads(plain)}},
    }


def ask_human(reply: Reply, *, resumable: bool) -> dict[str, Any]:
    """What the human says to each interrupt of the peer, by its id.

    Raises GraphInterrupt while there is no answer yet, RemoteInterrupted where nobody can be asked.
    """
    if not resumable or "langgraph" not in sys.modules:
        raise RemoteInterrupted(reply)
    from langgraph.types import interrupt  # whoever runs a graph has it

    values: dict[str, Any] = {}
    for wanted in reply.interrupts:
        try:
            values[wanted.id] = interrupt(_shown(reply, wanted))
        except (RuntimeError, KeyError):  # what langgraph raises outside of a graph's node
            raise RemoteInterrupted(reply) from None
    return values


def _shown(reply: Reply, wanted: RemoteInterrupt) -> dict[str, Any]:
    """What the human sees. `value` is the peer's, and stands under its name: it cannot pass for a question of ours."""
    return {"peer": reply.peer, "message_id": reply.message_id, "id": wanted.id, "value": wanted.value}
