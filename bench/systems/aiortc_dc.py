"""aiortc: a WebRTC DataChannel between the two Python processes, SDP by hand."""

import asyncio

from .base import HOST, PipeClient, ServerRole, System, signal_ask, signal_serve

HIGH, LOW = 1 << 15, 1 << 13  # shallow queue: 1 MiB looked slower, see RESULTS.md


def peer_connection():
    import aioice.ice
    from aiortc import RTCConfiguration, RTCPeerConnection

    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: [HOST]  # loopback only
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


async def gathered(pc):
    await pc.setLocalDescription(await (pc.createOffer() if pc.signalingState == "stable" else pc.createAnswer()))
    return {"sdp": pc.localDescription.sdp, "type": pc.localDescription.type}


class Aiortc(System):
    name = "aiortc"
    note = "in-process Python WebRTC DataChannel (ICE + DTLS + SCTP)"

    class Server(ServerRole):
        async def start(self):
            from aiortc import RTCSessionDescription

            async def answer(offer):
                self.pc = peer_connection()

                @self.pc.on("datachannel")
                def on_channel(channel):
                    @channel.on("message")
                    def on_message(data):
                        reply = self.handle(data)
                        if reply is not None:
                            channel.send(reply)

                await self.pc.setRemoteDescription(RTCSessionDescription(**offer))
                return await gathered(self.pc)

            self.signal = await signal_serve(self.ctx, answer)

    class Client(PipeClient):
        async def start(self):
            from aiortc import RTCSessionDescription

            self.pc = peer_connection()
            self.channel = self.pc.createDataChannel("bench", ordered=True)
            opened, self.low = asyncio.Event(), asyncio.Event()
            self.channel.bufferedAmountLowThreshold = LOW
            self.channel.on("open", opened.set)
            self.channel.on("bufferedamountlow", self.low.set)
            self.channel.on("message", self.replies.feed)
            reply = await signal_ask(self.ctx, await gathered(self.pc))
            await self.pc.setRemoteDescription(RTCSessionDescription(**reply))
            await opened.wait()

        async def send(self, data):
            self.channel.send(data)
            if self.channel.bufferedAmount > HIGH:
                self.low.clear()
                await self.low.wait()

        async def stop(self):
            await self.pc.close()
