"""Plain HTTP/1.1 keep-alive: httpx -> uvicorn + starlette. No one-way send."""

import asyncio

from .base import HOST, ClientRole, ServerRole, System


def uvicorn_server(app, port):
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app, host=HOST, port=port, log_level="warning", access_log=False, lifespan="off", timeout_keep_alive=75
        )
    )  # httpx drops idle ones first


def httpx_client(pool, **how):
    import httpx

    return httpx.AsyncClient(
        timeout=30, trust_env=False, limits=httpx.Limits(max_connections=pool, max_keepalive_connections=pool), **how
    )


class UvicornRole(ServerRole):
    """Runs self.app() on this process's event loop; shared with the a2a system."""

    async def start(self):
        self.server = uvicorn_server(self.app(), self.ctx.ports[0])
        self.task = asyncio.create_task(self.server.serve())
        while not self.server.started:
            await asyncio.sleep(0.002)

    async def stop(self):
        self.server.should_exit = True
        await self.task


class Http(System):
    name = "http"
    note = "httpx -> uvicorn/starlette, keep-alive; one request per message"
    one_way = False

    class Server(UvicornRole):
        def app(self):
            from starlette.applications import Starlette
            from starlette.responses import Response
            from starlette.routing import Route

            async def message(request):
                reply = self.handle(await request.body())
                return Response(reply, media_type="application/json")

            return Starlette(routes=[Route("/message", message, methods=["POST"])])

    class Client(ClientRole):
        pool = 64

        async def start(self):
            self.http = httpx_client(self.pool, base_url=f"http://{HOST}:{self.ctx.ports[0]}")

        async def request(self, data):
            r = await self.http.post("/message", content=data, headers={"content-type": "application/json"})
            return r.content

        async def stop(self):
            await self.http.aclose()


class HttpPool8(Http):
    name = "http-pool8"
    note = "same with 8 connections: httpx slows down sharply on large, busy pools"
    window = 8

    class Client(Http.Client):
        pool = 8
