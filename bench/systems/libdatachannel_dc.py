"""pylibdatachannel: libdatachannel (C++) WebRTC DataChannel inside both Python processes.

The binding exposes no buffered amount, so bulk sends are paced by an application ack.
"""

import asyncio
import re

from .base import HOST, PipeClient, ServerRole, System, signal_ask, signal_serve

UNACKED = 2 << 20  # bytes sent before waiting for the peer's credit
CREDIT = 1 << 18


def peer_connection():
    import pylibdatachannel as rtc

    pc = rtc.PeerConnection(rtc.Configuration(ice_servers=[]))
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def gathering(state):
        if state == rtc.GatheringState.COMPLETE:
            loop.call_soon_threadsafe(done.set)

    pc.on_gathering_state_change(gathering)
    return rtc, pc, done


def loopback(sdp: str) -> str:
    """Keep one IPv4 host candidate, rewritten to 127.0.0.1 (the socket binds every address)."""
    ports = re.findall(r"a=candidate:\S+ 1 UDP \d+ (?:\d+\.){3}\d+ (\d+) typ host", sdp)
    lines = [ln for ln in sdp.splitlines() if not ln.startswith("a=candidate")]
    at = next((i for i, ln in enumerate(lines) if ln.startswith("a=end-of-candidates")), len(lines))
    lines.insert(at, f"a=candidate:1 1 UDP 2122317823 {HOST} {ports[0]} typ host")
    return "\r\n".join(lines) + "\r\n"


class LibDataChannel(System):
    name = "pylibdatachannel"
    note = "C++ WebRTC in process, callbacks on native threads"

    class Server(ServerRole):
        async def start(self):
            loop = asyncio.get_running_loop()

            async def answer(offer):
                self.rtc, self.pc, done = peer_connection()
                self.owed = 0

                def on_message(data):
                    reply = self.handle(data)
                    if reply is not None:
                        self.channel.send(reply)
                    self.owed += len(data)
                    if self.owed >= CREDIT:
                        self.channel.send(b"+%d" % self.owed)
                        self.owed = 0

                def on_channel(channel):
                    self.channel = channel
                    channel.on_message(lambda data: loop.call_soon_threadsafe(on_message, data))

                self.pc.on_data_channel(on_channel)
                self.pc.set_remote_description(self.rtc.Description(offer["sdp"], self.rtc.DescriptionType.OFFER))
                await done.wait()
                return {"sdp": loopback(self.pc.local_description.description)}

            self.signal = await signal_serve(self.ctx, answer)

    class Client(PipeClient):
        async def start(self):
            loop = asyncio.get_running_loop()
            self.rtc, self.pc, done = peer_connection()
            self.unacked, self.credit = 0, asyncio.Event()
            opened = asyncio.Event()
            self.channel = self.pc.create_data_channel("bench")
            self.channel.on_open(lambda: loop.call_soon_threadsafe(opened.set))
            self.channel.on_message(lambda data: loop.call_soon_threadsafe(self.on_message, data))
            await done.wait()
            reply = await signal_ask(self.ctx, {"sdp": loopback(self.pc.local_description.description)})
            self.pc.set_remote_description(self.rtc.Description(reply["sdp"], self.rtc.DescriptionType.ANSWER))
            await opened.wait()

        def on_message(self, data):
            if data[:1] == b"+":
                self.unacked -= int(data[1:])
                self.credit.set()
            else:
                self.replies.feed(data)

        async def send(self, data):
            self.channel.send(data)
            self.unacked += len(data)
            while self.unacked > UNACKED:
                self.credit.clear()
                await self.credit.wait()

        async def stop(self):
            self.pc.close()
