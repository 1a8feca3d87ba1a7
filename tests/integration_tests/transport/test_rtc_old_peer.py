"""The aiortc transport and a chatixia-mesh 0.2 sidecar, whose frames have no `protocol`, `connection` or `details`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import connect

from chatixia_langchain.identity import Identity
from chatixia_langchain.transport.registry_api import RegistryApi
from chatixia_langchain.transport.rtc import RtcTransport
from chatixia_langchain.transport.rtc_connection import RtcConnection, RtcSettings

from .conftest import Member, RegistryProcess
from .test_contract import frame
from .test_rtc import config


class OldPeer:
    """Speaks as facts about the old sidecar say: offers to everybody in its peer list, answers offers, trickles."""

    def __init__(self, registry: RegistryProcess, name: str) -> None:
        self.name, self.api = name, RegistryApi(config(registry, name))
        self.url = registry.url.replace("http", "ws") + "/ws"
        self.got, self.frames = list[bytes](), list[dict[str, Any]]()
        self.links: dict[str, RtcConnection] = {}
        self.opened, self.offers = asyncio.Event(), True

    async def run(self) -> None:
        headers = {"Authorization": f"Bearer {await self.api.token()}"}
        async with connect(self.url, additional_headers=headers) as self.socket:
            await self.say("register", None, None)
            async for text in self.socket:
                self.heard(json.loads(text))

    async def say(self, kind: str, target: str | None, payload: Any) -> None:
        body = {"type": kind, "peer_id": self.name} | ({"target_id": target} if target else {}) | {"payload": payload}
        await self.socket.send(json.dumps(body))

    def heard(self, body: dict[str, Any]) -> None:
        self.frames.append(body)
        sender, payload = body["peer_id"], body["payload"]
        match body["type"]:
            case "peer_list" if self.offers:
                for peer in payload["peers"]:
                    self.link(peer, "offerer").offer(lambda sdp, p=peer: self.later("offer", p, sdp))  # type: ignore[misc]
            case "offer":
                self.link(sender, "answerer").answer(payload["sdp"], lambda sdp: self.later("answer", sender, sdp))
            case "answer":
                self.links[sender].take_answer(payload["sdp"])

    def link(self, peer: str, role: Any) -> RtcConnection:
        link = self.links[peer] = RtcConnection(peer, None, role, RtcSettings(Identity.fresh(), loopback=True))
        link.on_open = lambda _: self.opened.set()
        link.on_message = lambda _, body: self.got.append(body)
        return link

    def later(self, kind: str, target: str, sdp: str) -> None:
        """The description without candidates, then the candidates one by one, as the old one does."""
        lines = sdp.split("\r\n")
        bare = [x for x in lines if not x.startswith(("a=candidate:", "a=end-of-candidates"))]
        candidates = [x.removeprefix("a=") for x in lines if x.startswith("a=candidate:")]

        async def job() -> None:
            await self.say(kind, target, {"sdp": "\r\n".join(bare)})
            for c in candidates:
                await self.say("ice_candidate", target, {"candidate": c, "sdpMid": "", "sdpMLineIndex": 0})

        self._job = asyncio.create_task(job())

    async def aclose(self, running: asyncio.Task[None]) -> None:
        running.cancel()
        await asyncio.gather(running, *(link.close("over") for link in self.links.values()), return_exceptions=True)
        await self.api.aclose()


async def talk(a: Member, old: OldPeer) -> None:
    await asyncio.wait_for(old.opened.wait(), 15)
    await a.until(lambda: a.ups(old.name))
    assert a.ups(old.name)[0].protocol == 0, "an old peer acknowledges nothing, and must be known as one"
    a.transport.send(old.name, frame("to the old one"))
    old.links[a.name].send(frame("from the old one"))
    await a.until(lambda: a.bodies(old.name) == [frame("from the old one")])
    async with asyncio.timeout(10):
        while old.got != [frame("to the old one")]:
            await asyncio.sleep(0.01)
    unknown = {f["type"] for f in old.frames} - {"peer_list", "offer", "answer", "ice_candidate"}
    assert not unknown, "an old sidecar knows no other frames"
    assert all(f["payload"]["candidate"] for f in old.frames if f["type"] == "ice_candidate"), "nor the end of them"


async def test_an_old_sidecar_offers_to_us(registry: RegistryProcess) -> None:
    a = await Member("m270", RtcTransport(config(registry, "m270"))).start()
    old = OldPeer(registry, "m271")
    running = asyncio.create_task(old.run())
    await talk(a, old)
    await a.transport.aclose()
    await old.aclose(running)


async def test_we_offer_to_an_old_sidecar(registry: RegistryProcess) -> None:
    a = await Member("m272", RtcTransport(config(registry, "m272"))).start()
    old = OldPeer(registry, "m273")
    old.offers = False  # as when its offer was lost
    running = asyncio.create_task(old.run())
    await a.until(lambda: a.events and any(getattr(e, "peer", "") == "m273" for e in a.events))
    await a.transport.connect("m273")
    await talk(a, old)
    await a.transport.aclose()
    await old.aclose(running)
