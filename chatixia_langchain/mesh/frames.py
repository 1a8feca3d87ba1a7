"""The bytes of what this side says: frames of the envelope, encoded once. See `protocol/README.md`, Envelope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..errors import MeshError
from ..protocol.envelope import Frame, Kind, MeshPart, encode
from .context import NOWHERE, Place


class _Out(msgspec.Struct):
    """The five fields, always present since old agents read all of them, and `mesh`."""

    type: str
    request_id: str
    source_agent: str
    target_agent: str
    payload: Mapping[str, Any]
    mesh: MeshPart


def _plain(value: object) -> str:
    """Write a subclass of str as a str: LangChain's `message.text` is one."""
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_encode: Final = msgspec.json.Encoder(enc_hook=_plain).encode
_DECODER: Final = msgspec.json.Decoder(Frame)


def message(
    kind: Kind,
    id_: str,
    me: str,
    peer: str,
    content: str,
    *,
    conversation: str,
    epoch: str,
    ttl_s: float,
    place: Place = NOWHERE,
    trace: str = "",
    skill: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    broadcast: bool = False,
    meta: Mapping[str, Any] | None = None,
    stream: bool = False,
) -> bytes:
    """A `message` or a `request`.

    Raises TypeError or ValueError for what cannot be sent: no string, lone surrogates, `skill` among the arguments.
    """
    if not isinstance(content, str):
        raise TypeError(f"content is a {type(content).__name__}, it must be a str")
    payload: dict[str, Any]
    if skill is None:
        type_, payload = "agent_prompt", {"message": content}
    else:
        type_, payload = "task_request", {"skill": skill}
        if arguments:
            if "skill" in arguments:
                raise ValueError("an argument cannot be called 'skill': the wire uses that name")
            payload.update(arguments)
        elif content:
            payload["message"] = content
    part = MeshPart(
        1,
        kind,
        id_,
        conversation,
        epoch,
        ttl_ms=max(1, int(ttl_s * 1000)),
        hops=place.hops,
        broadcast=broadcast,
        trace=trace,
        chain=place.chain,
        budget=place.budget,
        meta=dict(meta) if meta else None,
        stream=stream,
    )
    return _encode(_Out(type_, id_, me, peer, payload, part))


def reply(
    id_: str,
    me: str,
    peer: str,
    content: str,
    *,
    corr: str,
    conversation: str,
    task: bool,
    meta: Mapping[str, Any] | None,
) -> bytes:
    """The answer to request `corr`; `task` when that was a `task_request`."""
    part = MeshPart(1, "reply", id_, conversation, corr=corr, executed="yes", meta=dict(meta) if meta else None)
    if task:
        return _encode(_Out("task_response", corr, me, peer, {"result": content}, part))
    return _encode(_Out("agent_response", corr, me, peer, {"response": content}, part))


def chunk(me: str, peer: str, text: str, *, corr: str, seq: int, step: int, at: int, task: bool) -> bytes:
    """A piece of the answer to request `corr`: `at` characters of model call `step` came before it."""
    type_ = "task_stream_chunk" if task else "agent_stream_chunk"
    payload = {"chunk": text, "step": step, "at": at}
    return _encode(_Out(type_, corr, me, peer, payload, MeshPart(1, "chunk", seq=seq, corr=corr)))


def error(
    id_: str,
    me: str,
    peer: str,
    fault: MeshError,
    *,
    corr: str,
    conversation: str,
    task: bool,
    meta: Mapping[str, Any] | None = None,
) -> bytes:
    """The answer to a request that failed."""
    part = MeshPart(
        1,
        "error",
        id_,
        conversation,
        corr=corr,
        code=fault.code,
        retryable=fault.retryable,
        executed=fault.executed,
        meta=dict(meta) if meta else None,
    )
    return _encode(_Out("task_response" if task else "agent_response", corr, me, peer, {"error": fault.message}, part))


def old_reply(me: str, peer: str, *, corr: str, task: bool, result: str = "", fault: str = "") -> bytes:
    """The answer to an agent of the existing mesh: five fields, matched by `request_id`."""
    if task:
        return encode(Frame("task_response", corr, me, peer, {"result": result, "error": fault}))
    return encode(Frame("agent_response", corr, me, peer, {"response": result, "error": fault}))


def hello(me: str, peer: str, epoch: str, card: str = "") -> bytes:
    """The first frame on a new channel; `card` is what the mesh's root signed for us, if it did."""
    meta = {"card": card} if card else None
    return _encode(_Out("ping", "", me, peer, {}, MeshPart(1, "hello", epoch=epoch, meta=meta)))


def control(kind: Kind, me: str, peer: str, *, ids: tuple[str, ...] = (), corr: str = "") -> bytes:
    """An `ack`, `busy` or `cancel`."""
    return _encode(_Out("pong", "", me, peer, {}, MeshPart(1, kind, ids=ids, corr=corr)))


def with_ttl(body: bytes, ttl_s: float) -> bytes:
    """The same frame with what is left of its time to live: for one that waited, or goes again."""
    frame = _DECODER.decode(body)
    if frame.mesh is None or not frame.mesh.ttl_ms:
        return body
    return encode(
        msgspec.structs.replace(frame, mesh=msgspec.structs.replace(frame.mesh, ttl_ms=max(1, int(ttl_s * 1000))))
    )


def with_id(body: bytes, id_: str) -> bytes:
    """The same frame under another message id."""
    frame = _DECODER.decode(body)
    if frame.mesh is None:
        return body
    return encode(msgspec.structs.replace(frame, mesh=msgspec.structs.replace(frame.mesh, id=id_)))


def old_pong(me: str, peer: str, corr: str) -> bytes:
    """The answer to a `ping` of an agent of the existing mesh."""
    return encode(Frame("pong", corr, me, peer, {}))
