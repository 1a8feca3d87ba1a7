"""What only the aiortc transport has to get right: replaced connections, restarts, old peers, odd offers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from chatixia_langchain.config import MeshConfig
from chatixia_langchain.identity import Identity
from chatixia_langchain.protocol import signaling as wire
from chatixia_langchain.transport.registry_api import RegistryApi
from chatixia_langchain.transport.rtc import RtcTransport
from chatixia_langchain.transport.signaling import SignalingClient

from .conftest import Member, RegistryProcess
from .test_contract import frame


def config(registry: RegistryProcess, name: str, **more: Any) -> MeshConfig:
    return MeshConfig.make(name, registry=registry.url, api_key=registry.key(name), env={}, **more)


class Hand:
    """A peer whose signaling is typed by the test."""

    def __init__(self, registry: RegistryProcess, name: str) -> None:
        self.name, self.frames = name, list[Any]()
        self.api = RegistryApi(config(registry, name))
        self.signaling = SignalingClient(config(registry, name), self.api, "sha-256 AB", self.frames.append)

    async def until(self, what: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(10):
            while True:
                for one in self.frames:
                    if what(one):
                        return one
                await asyncio.sleep(0.01)

    async def aclose(self) -> None:
        await self.signaling.aclose()
        await self.api.aclose()


async def test_a_second_life_of_a_peer_replaces_its_first_connection(registry: RegistryProcess) -> None:
    """A peer that died without a word comes back under the same name: its new offer must not be taken for noise."""
    a = await Member("m260", RtcTransport(config(registry, "m260"))).start()
    first = await Member("m261", RtcTransport(config(registry, "m261"))).start()
    await first.transport.connect("m260")
    await a.until(lambda: a.ups("m261"))
    second = await Member("m261", RtcTransport(config(registry, "m261"))).start()
    await second.transport.connect("m260")
    await a.until(lambda: len(a.ups("m261")) == 2)
    old, new = a.ups("m261")
    assert new.generation > old.generation
    assert new.fingerprint != old.fingerprint
    assert [d.generation for d in a.downs("m261")] == [old.generation]
    assert a.events.index(a.downs("m261")[0]) < a.events.index(new)
    second.transport.send("m260", frame("second life"))
    await a.until(lambda: a.bodies("m261") == [frame("second life")])
    for one in (first, second, a):
        await one.transport.aclose()


async def test_its_own_identity_is_what_the_peer_sees(registry: RegistryProcess) -> None:
    identity = Identity.fresh()
    a = await Member("m262", RtcTransport(config(registry, "m262"), identity=identity)).start()
    b = await Member("m263", RtcTransport(config(registry, "m263"))).start()
    await a.transport.connect("m263")
    await b.until(lambda: b.ups("m262"))
    assert a.info.fingerprint == identity.fingerprint == b.ups("m262")[0].fingerprint
    assert a.ups("m263")[0].fingerprint == b.info.fingerprint
    await a.transport.aclose()
    await b.transport.aclose()


async def test_dial_mode_peer_list_offers_to_everybody_who_is_there(registry: RegistryProcess) -> None:
    a = await Member("m264", RtcTransport(config(registry, "m264"))).start()
    b = await Member("m265", RtcTransport(config(registry, "m265", dial="peer_list"))).start()
    await a.until(lambda: a.ups("m265"))
    await b.until(lambda: b.ups("m264"))
    await a.transport.aclose()
    await b.transport.aclose()


async def test_a_restart_is_answered_by_an_offer_for_a_new_connection(registry: RegistryProcess) -> None:
    a = await Member("m266", RtcTransport(config(registry, "m266"))).start()
    hand = Hand(registry, "m267")
    await hand.signaling.start(10)
    restart = wire.SdpPayload("v=0", 1, "0123456789abcdef", True)
    hand.signaling.send(wire.Offer("m267", "m266", payload=restart))
    offer = await hand.until(lambda f: isinstance(f, wire.Offer))
    assert offer.peer_id == "m266"
    assert offer.payload.connection not in (None, "0123456789abcdef")
    assert "typ host" in offer.payload.sdp, "candidates are in the description: old sidecars need them there"
    await hand.until(lambda f: isinstance(f, wire.IceCandidate) and f.payload.candidate == "")
    await a.transport.aclose()
    await hand.aclose()


async def test_nonsense_and_media_are_refused_and_the_next_dial_works(registry: RegistryProcess) -> None:
    a = await Member("m268", RtcTransport(config(registry, "m268"))).start()
    hand = Hand(registry, "m269")
    await hand.signaling.start(10)
    media = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"
    for sdp in ("", "nonsense", media, "v=0\r\nm=application 9 X\r\n"):
        hand.signaling.send(wire.Offer("m269", "m268", payload=wire.SdpPayload(sdp, 1, "00112233445566aa")))
        hand.signaling.send(
            wire.IceCandidate("m269", "m268", payload=wire.CandidatePayload("candidate:x", "0", 0, "00112233445566aa"))
        )
    hand.signaling.send(wire.Answer("m269", "m268", payload=wire.SdpPayload("v=0")))
    await asyncio.sleep(0.3)
    assert not [f for f in hand.frames if isinstance(f, wire.Answer)]
    assert not a.ups("m269")
    await hand.aclose()
    b = await Member("m269", RtcTransport(config(registry, "m269"))).start()
    await b.transport.connect("m268")
    b.transport.send("m268", frame("fine"))
    await a.until(lambda: a.bodies("m269") == [frame("fine")])
    await a.transport.aclose()
    await b.transport.aclose()
