"""What the routes take as arguments: the registry, and who is calling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Annotated, TypeVar

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from .guard import Refusal
from .keys import Identity
from .state import Registry

T = TypeVar("T")


def _registry(request: Request) -> Registry:
    found: Registry = request.app.state.registry
    return found


def _caller(
    request: Request,
    # For the OpenAPI document alone: the guard in front of all routes does the checking.
    _bearer: Annotated[object, Security(HTTPBearer(auto_error=False))] = None,
    _key: Annotated[object, Security(APIKeyHeader(name="x-api-key", auto_error=False))] = None,
    _device: Annotated[
        object, Security(APIKeyHeader(name="x-device-token", scheme_name="DeviceToken", auto_error=False))
    ] = None,
) -> Identity:
    found: Identity = request.state.caller
    return found


def _admin(caller: Annotated[Identity, Depends(_caller)]) -> Identity:
    if not caller.is_admin:
        raise Refusal("forbidden", "this needs a key with the role admin")
    return caller


TheRegistry = Annotated[Registry, Depends(_registry)]
Caller = Annotated[Identity, Depends(_caller)]
Admin = Annotated[Identity, Depends(_admin)]


async def until(
    request: Request, registry: Registry, topics: Iterable[str], look: Callable[[], T | None], wait_s: float
) -> T | None:
    """What `look` finds, as soon as it finds something; None after `wait_s`, or when the caller hung up.

    Looks once at the start and once per ring. `look` is never called for a caller that is gone: it may give things out.
    """
    bell = registry.bell
    gone: asyncio.Task[None] | None = None
    deadline = asyncio.get_running_loop().time() + wait_s
    try:
        while True:
            with bell.listen(topics) as ear:
                found = look()
                left = deadline - asyncio.get_running_loop().time()
                if found is not None or left <= 0 or bell.is_closed:
                    return found
                gone = gone or asyncio.create_task(_hung_up(request), name="long-poll-hung-up")
                await asyncio.wait((ear.heard, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    return None
    finally:
        if gone is not None:
            gone.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
