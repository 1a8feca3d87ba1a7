"""Every error this package raises on purpose.

    MeshError                  code, retryable, executed
    +-- InvalidLine            a line or frame is not what the protocol expects
    +-- ProtocolMismatch       the other side speaks another protocol number
    +-- PeerUnreachable        no way to the peer: nothing was sent, a retry is safe
    +-- IdentityMismatch       what answers at this name is not the peer that is known by it: nothing was sent
    +-- PeerGone               the peer went away before it answered
    +-- MessageTooBig          .size and .limit in bytes
    +-- Busy                   no room now (window, inbox, queue): nothing was accepted, a retry is safe
    +-- MeshTimeout            no answer before the deadline
    +-- Cancelled              the request was cancelled
    +-- Undeliverable          the message did not reach the peer's agent before its deadline
    +-- MeshClosed             this mesh object was closed
    +-- LinkDown               the way to the sidecar or the registry broke
    +-- RegistryRefused        the registry does not accept our credential or request
    +-- RemoteError            the peer answered with an error; .code is the peer's
    SidecarNotFound            a RuntimeError: no sidecar binary, with install instructions
    SidecarFailed              a RuntimeError: the sidecar ended or did not get ready, with the end of its stderr

Codes, and what they say of retrying, equal `protocol/errors.json`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Executed = Literal["yes", "no", "unknown"]


class MeshError(Exception):
    """Base of all mesh errors.

    `code` is a word of `protocol/errors.json`; `retryable` says whether trying again can help; `executed` whether the
    peer's agent has run the request: only "no" is ever retried without asking.
    """

    code = "internal"
    retryable = False
    executed: Executed = "unknown"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool | None = None,
        executed: Executed | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable
        if executed is not None:
            self.executed = executed

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}"


class InvalidLine(MeshError):
    """A line or frame is not what the protocol expects; the message names the fault. A retry cannot help."""

    code = "invalid_line"
    executed: Executed = "no"


class ProtocolMismatch(MeshError):
    """The other side speaks another protocol number. Upgrade the older one."""

    code = "protocol_mismatch"
    executed: Executed = "no"


class PeerUnreachable(MeshError):
    """There is no way to `peer` now. Nothing was sent: a retry is safe."""

    code = "peer_unreachable"
    retryable = True
    executed: Executed = "no"

    def __init__(self, peer: str, why: str = "no open channel") -> None:
        super().__init__(f"cannot reach {peer!r}: {why}")
        self.peer = peer


class IdentityMismatch(MeshError):
    """What answers at the name `peer` is not the peer that is known by it: nothing was sent, a retry cannot help.

    Either its key was made anew, and has to be pinned or signed again, or somebody is in between.
    """

    code = "identity_mismatch"
    executed: Executed = "no"

    def __init__(self, peer: str, why: str) -> None:
        super().__init__(why)
        self.peer = peer


class PeerGone(MeshError):
    """The peer went away before it answered. Whether it ran the request is unknown."""

    code = "peer_gone"
    retryable = True


class MessageTooBig(MeshError):
    """The message is larger than the peer or the protocol takes. Nothing was sent."""

    code = "message_too_big"
    executed: Executed = "no"

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"the message has {size} bytes, the limit is {limit}")
        self.size, self.limit = size, limit


class Busy(MeshError):
    """There is no room now. Nothing was accepted: a retry is safe."""

    code = "busy"
    retryable = True
    executed: Executed = "no"


class MeshTimeout(MeshError):
    """No answer came before the deadline."""

    code = "timeout"
    retryable = True


class Cancelled(MeshError):
    """The request was cancelled."""

    code = "cancelled"


class Undeliverable(MeshError):
    """The message did not reach the peer's agent before its deadline."""

    code = "undeliverable"
    retryable = True


class MeshClosed(MeshError):
    """This mesh object was closed, or never started."""

    code = "mesh_closed"


class LinkDown(MeshError):
    """The way to the sidecar or the registry broke. The mesh goes on trying to restore it."""

    code = "link_down"
    retryable = True


class RegistryRefused(MeshError):
    """The registry refuses our credential or request; `status` is the HTTP status, 0 when there was none."""

    code = "unauthorized"
    executed: Executed = "no"

    def __init__(self, message: str, *, status: int = 0, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.status = status


class RemoteError(MeshError):
    """The peer answered with an error. `code`, `retryable`, `executed` and `meta` (JSON) are what the peer says."""

    code = "handler_failed"
    meta: Mapping[str, Any] = {}


class SidecarNotFound(RuntimeError, FileNotFoundError):
    """There is no sidecar binary; the text says where it was sought and how to get one."""


class SidecarFailed(RuntimeError):
    """The sidecar ended early or did not get ready; the text ends with the last lines of its stderr."""


BY_CODE: dict[str, type[MeshError]] = {
    c.code: c
    for c in (
        InvalidLine,
        ProtocolMismatch,
        Busy,
        MeshTimeout,
        Cancelled,
        Undeliverable,
        MeshClosed,
        LinkDown,
        PeerGone,
    )
}
"""Classes that can be made from a wire error by their code alone; other codes become `RemoteError`."""


def from_wire(code: str, message: str, *, retryable: bool = False, executed: str = "unknown") -> MeshError:
    """Make the error for an `error` answer of the sidecar or the registry."""
    known = executed if executed in ("yes", "no", "unknown") else "unknown"
    return BY_CODE.get(code, RemoteError)(message, code=code, retryable=retryable, executed=known)  # type: ignore[arg-type]
