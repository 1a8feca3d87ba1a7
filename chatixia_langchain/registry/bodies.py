"""Request bodies of the HTTP interface. Unknown fields are ignored; a wrong one is answered 422 with its name."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from ..protocol.limits import MAX_JSON_DEPTH, is_message_id, is_peer_id
from .tasks import DEFAULT_TTL_S

MAX_SKILLS = 256


def _peer_id(text: str) -> str:
    if not is_peer_id(text):
        raise ValueError("not an agent id: 1 to 64 of A-Z a-z 0-9 . _ -, starting with a letter or digit")
    return text


def _optional_peer_id(text: str) -> str:
    return text and _peer_id(text)


def _message_id(text: str) -> str:
    if text and not is_message_id(text):
        raise ValueError("not an id: 1 to 64 of A-Z a-z 0-9 _ -")
    return text


def _plain_json(value: Any) -> Any:
    """Refuse what JSON parsers take but cannot all write again: depth bombs, NaN, lone surrogates, huge integers."""
    level, depth = [value], 0
    while level:
        if any(isinstance(v, float) and not math.isfinite(v) for v in level):
            raise ValueError("NaN and Infinity are not JSON")
        nests = [v for v in level if isinstance(v, dict | list)]
        depth += 1
        if nests and depth > MAX_JSON_DEPTH:
            raise ValueError(f"nests deeper than {MAX_JSON_DEPTH}")
        level = [inner for v in nests for inner in (v.values() if isinstance(v, dict) else v)]
    try:
        msgspec.json.decode(msgspec.json.encode(value))  # as a restarted registry will read it
    except (ValueError, OverflowError, msgspec.MsgspecError) as exc:
        raise ValueError(f"cannot be written as JSON: {exc}") from exc
    return value


AgentId = Annotated[str, AfterValidator(_peer_id)]
OptionalAgentId = Annotated[str, AfterValidator(_optional_peer_id)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_plain_json)]
Short = Annotated[str, StringConstraints(max_length=256)]


class Skill(BaseModel):
    """One skill of a card."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    input_schema: JsonObject | None = None


class Card(BaseModel):
    """What other agents are told about this one."""

    description: Annotated[str, StringConstraints(max_length=4096)] = ""
    skills: Annotated[list[Skill], Field(max_length=MAX_SKILLS)] = []


class Capabilities(BaseModel):
    """chatixia-mesh's way to say the same."""

    skills: Annotated[list[Short], Field(max_length=MAX_SKILLS)] = []
    mcp_servers: Annotated[list[Any], Field(max_length=MAX_SKILLS), AfterValidator(_plain_json)] = []
    goals_count: int = 0
    mode: Short = ""


class AgentBody(BaseModel):
    """A directory record."""

    agent_id: AgentId
    hostname: Short = ""
    ip: Short = ""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    sidecar_peer_id: OptionalAgentId = ""
    capabilities: Capabilities = Capabilities()
    status: Short = "active"
    mode: Short = ""
    card: Card | None = None


class HeartbeatBody(BaseModel):
    """A sign of life. `running`: the claimed tasks still worked on; None renews the leases of all of them."""

    agent_id: AgentId
    hostname: Short | None = None
    ip: Short | None = None
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    status: Short | None = None
    mode: Short | None = None
    sidecar_peer_id: OptionalAgentId | None = None
    skill_names: Annotated[list[Short], Field(max_length=MAX_SKILLS)] | None = None
    skills_count: int | None = None
    goals_count: int | None = None
    uptime_seconds: float | None = None
    running: Annotated[list[Short], Field(max_length=4096)] | None = None


class TaskBody(BaseModel):
    """A new task. `ttl` in seconds; `id` names it for retries: the same id from the same caller is the same task."""

    skill: Short | None = ""
    target_agent_id: OptionalAgentId | None = ""
    source_agent_id: OptionalAgentId | None = ""
    payload: JsonObject | None = None
    ttl: Annotated[float, Field(gt=0, allow_inf_nan=False)] = DEFAULT_TTL_S
    id: Annotated[str, AfterValidator(_message_id)] | None = ""


class ClaimBody(BaseModel):
    """Ask for tasks; waits up to `wait_s` seconds for the first one."""

    agent_id: AgentId
    wait_s: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False)] = 0
    max: Annotated[int, Field(ge=1, le=64)] = 16


class ResultBody(BaseModel):
    """The outcome of a claimed task."""

    state: Literal["completed", "failed"]
    result: str | None = ""
    error: str | None = ""


class PairBody(BaseModel):
    """A device asks to join."""

    code: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]
    agent_name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
