"""What to do with an offer. Pure: the rules of `protocol/README.md` (Signaling), for a side that cannot restart ICE.

- both offered at once: the offer of the lower peer id (by bytes) stands, the higher one drops its own and answers;
- a restart is answered by an offer for a new connection, unless one is being made already;
- an offer for a peer that is connected makes a second connection, which takes over once its channel opens.
"""

from __future__ import annotations

from typing import Literal

from ..protocol.signaling import SdpPayload

Decision = Literal["answer", "ignore", "redial"]
Role = Literal["offerer", "answerer"]


def on_offer(me: str, peer: str, offer: SdpPayload, pending: tuple[Role, str | None] | None) -> Decision:
    """Decide about `offer` from `peer`; `pending` is our role and the name of the connection that is being made."""
    if offer.restart:
        return "redial" if pending is None else "ignore"
    if pending is None:
        return "answer"
    role, name = pending
    if role == "offerer":
        return "ignore" if me.encode() < peer.encode() else "answer"
    same = offer.connection is not None and offer.connection == name
    return "ignore" if same else "answer"  # the same once more, or the peer began anew
