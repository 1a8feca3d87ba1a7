"""A skill's JSON Schema as types: whoever calls it writes typed arguments, whoever has it checks them. Pure.

The schema of a peer is text that the peer wrote. So only the plain words of JSON Schema are taken over, each
description is quoted and capped, references are followed a bounded number of steps, and a schema that is too big or
oddly named has no types: then arguments are free.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic takes typing's own from Python 3.12 on
    Union,
)

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, WithJsonSchema, create_model
from pydantic_core import SchemaError
from typing_extensions import TypedDict

from ..errors import MeshError
from ..mesh.types import Incoming
from . import text

MAX_SCHEMA_CHARS = 8192  # a larger one costs every model call more than the skill can be worth
MAX_DEPTH = 8
MAX_NODES = 512  # references can make few characters mean millions of them
MAX_ARGUMENTS = 32
MAX_FAULTS = 8  # told of one call
RESERVED = frozenset({"runtime", "config", "run_manager", "callbacks", "skill", "self"})
PLAIN: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}
LIMITS = {  # JSON Schema's words for those of pydantic, by type
    "string": {"minLength": "min_length", "maxLength": "max_length"},
    "array": {"minItems": "min_length", "maxItems": "max_length"},
    "integer": {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"},
    "number": {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"},
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | None)


def _is_list_of(each: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(each(item) for item in value)


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


# The words that are taken over, each only with a value that makes sense: what stands in them goes to schema tools
# that trust it, a "$ref" inside a default value for one.
WORDS: dict[str, Callable[[Any], bool]] = {
    "type": lambda value: _is_str(value) or (_is_list_of(_is_str)(value) and bool(value)),
    "enum": _is_list_of(_is_scalar),
    "const": _is_scalar,
    "default": lambda value: _is_scalar(value) or _is_list_of(_is_scalar)(value),
    "format": _is_str,
    "required": _is_list_of(_is_str),
    "additionalProperties": _is_bool,
    "uniqueItems": _is_bool,
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), lambda v: _is_number(v) and v >= 0),
}


class SkillArguments(BaseModel):
    """Base of the made models. Strict: `"4"` for an integer is the caller's mistake, and is told to it."""

    model_config = ConfigDict(strict=True, protected_namespaces=())


def arguments_model(schema: Any, **more: Any) -> type[SkillArguments] | None:
    """Make the model of an `input_schema`, with `more` fields; None for a schema that cannot be taken over."""
    try:
        shown = _Reader(schema).read()
        required = shown.get("required", [])
        fields: dict[str, Any] = {n: _field(prop, required=n in required) for n, prop in shown["properties"].items()}
        closed: dict[str, Any] = {"extra": "forbid"} if shown.get("additionalProperties") is False else {}
        return create_model("SkillArguments", __base__=SkillArguments, __cls_kwargs__=closed, **fields, **more)
    except (KeyError, TypeError, ValueError, RecursionError):  # a reference to nowhere, a limit that is no number
        return None
    except (PydanticUserError, SchemaError):  # words that contradict each other
        return None


class SkillChecks:
    """Checks calls of the skills on this agent's own card."""

    def __init__(self, card: Iterable[Mapping[str, Any]]) -> None:
        self._models = {str(skill.get("name")): arguments_model(skill.get("input_schema")) for skill in card}

    @property
    def names(self) -> list[str]:
        """The skills."""
        return list(self._models)

    def refuse(self, message: Incoming) -> MeshError | None:
        """Say which arguments of a call do not fit the skill's schema; None for those that do, and other messages."""
        model = self._models.get(message.skill)
        if model is None:
            return None
        try:
            model.model_validate(dict(message.arguments))
        except ValidationError as exc:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors()[:MAX_FAULTS])
            why = f"the arguments do not fit the skill {message.skill!r}: {faults}"
            return MeshError(why, code="invalid_line", executed="no")
        return None


class _Reader:
    """Takes over one schema: its plain words, with references resolved."""

    def __init__(self, schema: Any) -> None:
        self._root, self._nodes = schema, 0

    def read(self) -> dict[str, Any]:
        """The part of the schema that a model may see. Raises ValueError for one that has no usable properties."""
        if not isinstance(self._root, dict) or len(json.dumps(self._root)) > MAX_SCHEMA_CHARS:
            raise ValueError("no schema, or too long")
        shown = self._shown(self._root, 0)
        properties = shown.get("properties")
        if properties is None or len(properties) > MAX_ARGUMENTS:
            raise ValueError("no properties, or too many")
        if not all(_usable(name) for name in properties):
            raise ValueError("a property whose name cannot be an argument's")
        return shown

    def _shown(self, schema: Any, depth: int) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise ValueError("too many nodes")
        schema = self._resolved(schema)
        if not isinstance(schema, dict) or depth > MAX_DEPTH:
            return {}
        shown = {k: v for k, v in schema.items() if k in WORDS and WORDS[k](v)}
        if isinstance(schema.get("description"), str):
            shown["description"] = text.quoted(schema["description"])
        if isinstance(schema.get("items"), dict):
            shown["items"] = self._shown(schema["items"], depth + 1)
        if isinstance(schema.get("properties"), dict):
            shown["properties"] = {str(k): self._shown(v, depth + 1) for k, v in schema["properties"].items()}
        for word in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(word), list):
                shown[word] = [self._shown(each, depth + 1) for each in schema[word]]
        return shown

    def _resolved(self, schema: Any) -> Any:
        """What a local reference stands for; words beside it win."""
        beside: dict[str, Any] = {}
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return {**schema, **beside} if isinstance(schema, dict) else schema
            beside = {**{k: v for k, v in schema.items() if k != "$ref"}, **beside}
            first, *keys = str(schema["$ref"]).split("/")
            if first != "#":
                raise ValueError("a reference to somewhere else")
            schema = self._root
            for key in keys:
                schema = schema[key.replace("~1", "/").replace("~0", "~")]
        raise ValueError("references in a circle")


def _usable(name: Any) -> bool:
    odd = not isinstance(name, str) or not name.isascii() or not name.isidentifier() or name.startswith("_")
    return not odd and name not in RESERVED and not hasattr(BaseModel, name)


def _field(shown: dict[str, Any], *, required: bool) -> tuple[Any, Any]:
    python = _type(shown)
    default = ... if required else shown.get("default")
    return Annotated[python if required else python | None, WithJsonSchema(shown)], default


def _type(shown: dict[str, Any]) -> Any:
    """The type of values that fit. Words that have no type of ours let anything pass: the skill itself looks again."""
    options = [shown["const"]] if "const" in shown else shown.get("enum")
    if options and not any(isinstance(option, float) for option in options):
        return Literal[tuple(options)]
    kind = shown.get("type")
    if isinstance(kind, list):
        return _union([{**shown, "type": each} for each in kind])
    for word in ("anyOf", "oneOf"):
        if kind is None and shown.get(word):
            return _union(shown[word])
    python = _array(shown) if kind == "array" else _object(shown) if kind == "object" else PLAIN.get(str(kind), Any)
    known = {ours: shown[theirs] for theirs, ours in LIMITS.get(str(kind), {}).items() if theirs in shown}
    return Annotated[python, Field(**known)] if known else python


def _union(each: list[dict[str, Any]]) -> Any:
    return Union[tuple(_type(one) for one in each)] if each else Any  # noqa: UP007  # as many as there are


def _array(shown: dict[str, Any]) -> Any:
    return list[_type(shown["items"])] if "items" in shown else list[Any]  # type: ignore[misc]  # made at run time


def _object(shown: dict[str, Any]) -> Any:
    if not shown.get("properties"):
        return dict[str, Any]
    required = shown.get("required", [])
    fields = {
        name: _type(prop) if name in required else NotRequired[_type(prop)]
        for name, prop in shown["properties"].items()
    }
    make: Any = TypedDict  # at run time: a type checker wants to see the fields
    made = make("Nested", fields)
    made.__pydantic_config__ = ConfigDict(
        strict=True, extra="forbid" if shown.get("additionalProperties") is False else "allow"
    )
    return made
