"""The FastAPI application: routes, errors as JSON, and the sweep that lets time pass."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .. import __version__
from ..errors import Busy
from . import routes_core, routes_directory, routes_pairing, routes_signaling, routes_tasks
from .auth import Unauthorized
from .guard import STATUS, Guard, Refusal, note_refusal, unauthorized
from .pairing import PairingError
from .state import Registry

logger = logging.getLogger(__name__)


def create_app(registry: Registry) -> FastAPI:
    """The ASGI application of `registry`. The documentation page is off: it would load scripts from a CDN."""
    app = FastAPI(
        title="chatixia-langchain registry", version=__version__, docs_url=None, redoc_url=None, lifespan=_lifespan
    )
    app.state.registry = registry
    for module in (routes_core, routes_directory, routes_tasks, routes_pairing, routes_signaling):
        app.include_router(module.router)
    app.add_exception_handler(Exception, _answer)
    for kind in (Refusal, Unauthorized, Busy, PairingError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)
    app.add_middleware(Guard, registry=registry)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    registry: Registry = app.state.registry
    sweep = asyncio.create_task(registry.sweep(), name="registry-sweep")
    try:
        yield
    finally:
        sweep.cancel()
        await asyncio.gather(sweep, return_exceptions=True)
        registry.store.close()
        registry.audit.close()


async def _answer(request: Request, exc: Exception) -> JSONResponse:
    if isinstance(exc, Unauthorized):  # /api/token looks at the key itself
        refusal = unauthorized(request.app.state.registry, request.scope, str(exc))
    else:
        refusal = _refusal(exc)
    note_refusal(request.app.state.registry, request.scope, refusal)
    status = (
        exc.status_code if refusal.code == "invalid_line" and isinstance(exc, HTTPException) else STATUS[refusal.code]
    )
    return JSONResponse(refusal.body(), status_code=status, headers=refusal.headers())


def _refusal(exc: Exception) -> Refusal:
    if isinstance(exc.__cause__, Refusal):
        return exc.__cause__  # raised while the body was read; FastAPI wraps it
    match exc:
        case Refusal():
            return exc
        case Busy():
            return Refusal("busy", exc.message)
        case PairingError():
            return Refusal(exc.code, str(exc))
        case RequestValidationError():
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return Refusal("invalid_line", f"{where}: {first['msg']}")
        case HTTPException(status_code=404):
            return Refusal("not_found", "not found")
        case HTTPException():
            return Refusal("invalid_line", str(exc.detail))
        case _:
            return Refusal("internal", "a fault of the registry; its log has the details")
