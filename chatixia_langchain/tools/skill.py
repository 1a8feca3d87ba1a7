"""From a skill on a peer's card to the typed arguments of a tool. Pure; the types are made in `agent/skills.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from ..agent import skills
from ..mesh.types import Peer
from .base import Injected


class FreeArguments(BaseModel):
    """Arguments of a skill whose schema cannot be taken over."""

    arguments: dict[str, Any] = Field(default_factory=dict, description="The skill's arguments, by name.")
    runtime: Injected = None


def find_skill(peer: Peer | None, peer_id: str, skill: str) -> Mapping[str, Any]:
    """The entry of `skill` on the peer's card.

    Raises ValueError when the peer is not known (yet), or tells of no such skill.
    """
    if peer is None:
        raise ValueError(
            f"peer {peer_id!r} is not known yet: wait for it with mesh.wait_for_peer before naming a skill"
        )
    for entry in peer.skills:
        if entry.get("name") == skill:
            return entry
    known = ", ".join(sorted(str(entry.get("name")) for entry in peer.skills)) or "none"
    raise ValueError(f"peer {peer_id!r} tells of no skill {skill!r}; it tells of: {known}")


def arguments_model(schema: Any) -> type[BaseModel]:
    """Make the `args_schema` for a skill's `input_schema`: typed arguments, or `FreeArguments`."""
    return skills.arguments_model(schema, runtime=(Injected, None)) or FreeArguments


def given(tool_input: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The arguments to send: optional ones that were left out stay out."""
    if model is FreeArguments:
        return dict(tool_input.get("arguments") or {})
    fields = model.model_fields
    return {k: v for k, v in tool_input.items() if k in fields and (v is not None or fields[k].is_required())}
