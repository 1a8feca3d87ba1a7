"""uvicorn's WebSocket protocol with one thing added: the application can abort a connection whose peer does not read.

Without it a close frame waits behind unread bytes, and the socket stays until TCP gives up.
"""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class AbortableWebSocket(WebSocketsSansIOProtocol):
    """Offers `scope["extensions"]["chatixia.abort"]`, a function without arguments."""

    async def run_asgi(self) -> None:
        """Serve this connection."""
        extensions = self.scope["extensions"]
        assert extensions is not None, "uvicorn offers websocket.http.response"
        extensions["chatixia.abort"] = self.transport.abort  # type: ignore[assignment]
        await super().run_asgi()
