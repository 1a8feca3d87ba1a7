//! One bound UDP socket. `quinn-udp` gives segmentation offload: a run of equal-sized packets is one system call.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Wanted kernel buffer each way: more than one SCTP window, or a burst on loopback looks like loss. Less is accepted.
const KERNEL_BUFFER_BYTES: usize = 2 << 20;
/// Nothing legitimate is larger (SCTP is cut to 1191 bytes): dropped before any parser sees it.
const MAX_DATAGRAM_BYTES: usize = 2000;
/// Bytes of one run: what UDP can carry in one call.
const MAX_RUN_BYTES: usize = 60_000;

thread_local! {
    // One for all sockets: it is filled and emptied within one call.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 1 << 16]);
}

/// A bound socket and the run of packets that waits for its system call.
pub(crate) struct Port {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    run: Run,
}

#[derive(Default)]
struct Run {
    to: Option<SocketAddr>,
    segment: usize,
    packets: usize,
    sealed: bool,
    bytes: Vec<u8>,
}

impl Port {
    /// Binds a free port of `ip`.
    pub(crate) fn bind(ip: IpAddr) -> io::Result<Self> {
        let std = std::net::UdpSocket::bind((ip, 0))?;
        std.set_nonblocking(true)?;
        let io = UdpSocket::from_std(std)?;
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&io), KERNEL_BUFFER_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&io), KERNEL_BUFFER_BYTES);
        Ok(Self { local: io.local_addr()?, io, state, run: Run::default() })
    }

    /// Gives the bound address.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits for datagrams. Errors count as ready: reading finds them.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_recv_ready(cx).map(drop)
    }

    /// Makes one system call and hands each datagram to `each`. False when nothing was waiting.
    pub(crate) fn receive(&self, mut each: impl FnMut(SocketAddr, &[u8])) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            let mut meta = [RecvMeta::default()];
            let got = self.io.try_io(Interest::READABLE, || {
                self.state.recv(UdpSockRef::from(&self.io), &mut [IoSliceMut::new(buffer)], &mut meta)
            });
            match got {
                Ok(_) => {
                    let all = buffer.get(..meta[0].len).unwrap_or_default();
                    for datagram in all.chunks(meta[0].stride.max(1)).filter(|d| d.len() <= MAX_DATAGRAM_BYTES) {
                        each(meta[0].addr, datagram);
                    }
                    true
                }
                // Others are echoes of earlier sends, such as a refused port: go on reading.
                Err(e) => e.kind() != io::ErrorKind::WouldBlock,
            }
        })
    }

    /// Adds a packet to the run, sending the run first when the packet does not fit it.
    pub(crate) fn send(&mut self, to: SocketAddr, packet: &[u8]) {
        let run = &self.run;
        let fits = run.to == Some(to)
            && !run.sealed
            && packet.len() <= run.segment
            && run.packets < self.state.max_gso_segments()
            && run.bytes.len() + packet.len() <= MAX_RUN_BYTES;
        if !fits {
            self.flush();
            self.run.to = Some(to);
            self.run.segment = packet.len();
        }
        self.run.sealed = packet.len() < self.run.segment; // a shorter packet must be the last of its run
        self.run.packets += 1;
        self.run.bytes.extend_from_slice(packet);
    }

    /// Sends what waits. A full kernel buffer counts as packet loss, which SCTP and ICE repair.
    pub(crate) fn flush(&mut self) {
        let Some(destination) = self.run.to.take() else { return };
        let segment_size = (self.run.packets > 1).then_some(self.run.segment);
        let transmit = Transmit { destination, ecn: None, contents: &self.run.bytes, segment_size, src_ip: None };
        let sent = self
            .io
            .try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &transmit));
        if let Err(error) = sent {
            tracing::trace!(%error, "datagrams lost");
        }
        self.run.bytes.clear();
        self.run.packets = 0;
        self.run.sealed = false;
    }
}
