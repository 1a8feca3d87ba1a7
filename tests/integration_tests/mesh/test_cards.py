"""A peer that was waited for has told of itself: a tool made for it can name its skills."""

from __future__ import annotations

import asyncio

import pytest

from chatixia_langchain import LocalMesh

pytestmark = pytest.mark.sidecar


async def test_who_waited_for_a_peer_knows_its_card(webrtc: LocalMesh) -> None:
    """Signaling tells of a peer at once, the directory by HTTP a moment later: `MeshTool(skill=)` needs both."""
    names = [f"m{n}" for n in range(4)]
    asker = await webrtc.join("asker")
    await asyncio.gather(*(webrtc.join(n, description=f"I am {n}", skills=["count"]) for n in names))
    for name in names:
        peer = await asker.wait_for_peer(name)
        assert (peer.description, [skill["name"] for skill in peer.skills]) == (f"I am {name}", ["count"])
