"""From a skill on a peer's card to the typed arguments of a tool. Pure.

The card is text that the peer wrote. So only the plain words of JSON Schema are taken over, each description is quoted
and capped, and a schema that is too big, too deep or oddly named becomes one free `arguments` object instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from langchain_core.utils.json_schema import dereference_refs
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from ..agent import text
from ..mesh.types import Peer
from .base import Injected

MAX_SCHEMA_CHARS = 8192  # a larger one costs every model call more than the skill can be worth
MAX_DEPTH = 8
MAX_ARGUMENTS = 32
RESERVED = frozenset({"runtime", "config", "run_manager", "callbacks", "skill", "self"})
WORDS = frozenset(
    (
        *("type", "enum", "const", "default", "format", "required", "additionalProperties", "uniqueItems"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "minItems", "maxItems"),
    )
)
TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list[Any],
    "object": dict[str, Any],
}


class FreeArguments(BaseModel):
    """Arguments of a skill whose schema cannot be taken over."""

    arguments: dict[str, Any] = Field(default_factory=dict, description="The skill's arguments, by name.")
    runtime: Injected = None


class _Arguments(BaseModel):
    """Base of the made models. Strict: `"4"` for an integer is the model's mistake, and is told to it."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


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
    fields = _fields(schema)
    if fields is None:
        return FreeArguments
    fields["runtime"] = (Injected, None)
    made: type[BaseModel] = create_model("SkillArguments", __base__=_Arguments, **fields)
    return made


def given(tool_input: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The arguments to send: optional ones that were left out stay out."""
    if model is FreeArguments:
        return dict(tool_input.get("arguments") or {})
    fields = model.model_fields
    return {k: v for k, v in tool_input.items() if k in fields and (v is not None or fields[k].is_required())}


def _fields(schema: Any) -> dict[str, Any] | None:
    try:
        if not isinstance(schema, dict) or len(json.dumps(schema)) > MAX_SCHEMA_CHARS:
            return None
        schema = dereference_refs(schema)
    except (KeyError, TypeError, ValueError, RecursionError):  # a reference to nowhere, or in a circle
        return None
    properties = schema.get("properties")
    required = schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list) or len(properties) > MAX_ARGUMENTS:
        return None
    if not all(_usable(name) for name in properties):
        return None
    return {name: _field(prop, required=name in required) for name, prop in properties.items()}


def _usable(name: Any) -> bool:
    odd = not isinstance(name, str) or not name.isascii() or not name.isidentifier() or name.startswith("_")
    return not odd and name not in RESERVED and not hasattr(BaseModel, name)


def _field(prop: Any, *, required: bool) -> tuple[Any, Any]:
    shown = _shown(prop, 0)
    kind = shown.get("type")
    python: Any = TYPES.get(kind, Any) if isinstance(kind, str) else Any
    default = ... if required else shown.get("default")
    return Annotated[python if required else python | None, WithJsonSchema(shown)], default


def _shown(schema: Any, depth: int) -> dict[str, Any]:
    """The part of a property's schema that a model may see."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return {}
    shown = {k: v for k, v in schema.items() if k in WORDS}
    if isinstance(schema.get("description"), str):
        shown["description"] = text.quoted(schema["description"])
    if isinstance(schema.get("items"), dict):
        shown["items"] = _shown(schema["items"], depth + 1)
    if isinstance(schema.get("properties"), dict):
        shown["properties"] = {str(k): _shown(v, depth + 1) for k, v in schema["properties"].items()}
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list):
            shown[word] = [_shown(each, depth + 1) for each in schema[word]]
    return shown
