"""A turn that a peer started, for tests of what runs inside it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

from chatixia_langchain import InboundPolicy, Incoming
from chatixia_langchain.agent.supervisor import Supervisor
from chatixia_langchain.mesh.context import Turn


def peer_turn(**policy: Any) -> AbstractContextManager[tuple[Turn, list[BaseCallbackHandler]]]:
    """Be inside a turn under `InboundPolicy(**policy)`; gives it, and the callbacks for the config of its run."""
    return Supervisor(InboundPolicy(**policy)).turn(Incoming("p", "hello", "c", "m1", True))
