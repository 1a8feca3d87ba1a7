"""What a thread holds: which message of a peer was worked on, how its turn ended, and whether the thread is paused.

Pure. A message of a peer is known again by the notification data of its `HumanMessage`: it is stored with the thread,
so it is still there after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    add_notification_metadata,
    get_notification_metadata,
)

from ..mesh.types import Incoming, RemoteInterrupt
from . import text

SOURCE = "chatixia_mesh"


def human(message: Incoming) -> HumanMessage:
    """The message for a model: our own object, our own id, plain text. Nothing a peer sent is deserialised."""
    made = HumanMessage(text.from_peer(message), name=text.safe_name(message.peer))
    data = {
        "peer": message.peer,
        "conversation": message.conversation,
        "message_id": message.message_id,
        "asked": message.expects_reply,
    }
    return add_notification_metadata(made, source=SOURCE, data=data)


def note(message: BaseMessage) -> Mapping[str, Any]:
    """What `human` noted with a message; empty for any other message."""
    found = get_notification_metadata(message) if isinstance(message, HumanMessage) else None
    data = found.get("data") if found is not None and found["source"] == SOURCE else None
    return data if isinstance(data, dict) else {}


def message_id(message: BaseMessage) -> str:
    """The mesh's id of a message that `human` made; "" for any other."""
    return str(note(message).get("message_id", ""))


@dataclass(frozen=True, slots=True)
class History:
    """One thread as its store has it. `unfinished`: the last turn has steps left that were not run."""

    messages: Sequence[BaseMessage] = ()
    interrupts: tuple[RemoteInterrupt, ...] = ()
    unfinished: bool = False

    def ids(self) -> frozenset[str]:
        """The messages that were given to the agent before."""
        return frozenset(map(message_id, self.messages)) - {""}

    @property
    def last(self) -> Mapping[str, Any]:
        """The note of the message whose turn is the last one; empty for a thread without any."""
        return next((found for found in map(note, reversed(self.messages)) if found), {})

    @property
    def last_id(self) -> str:
        """The message whose turn is the last one; "" for a thread without any."""
        return str(self.last.get("message_id", ""))

    def answer(self, id_: str) -> str | None:
        """The text that the turn of a message ended with; None when it did not end."""
        said: BaseMessage | None = None
        inside = False
        for message in self.messages:
            other = message_id(message)
            if other == id_:
                inside = True
            elif inside and other:
                break
            elif inside:
                said = message
        cut_off = self.unfinished and self.last_id == id_
        if said is None or cut_off or isinstance(said, ToolMessage | HumanMessage):
            return None
        return None if isinstance(said, AIMessage) and said.tool_calls else str(said.text)
