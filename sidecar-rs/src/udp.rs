//! One bound UDP socket. `quinn-udp` gives segmentation offload: a run of equal-sized packets is one system call.
//!
//! Readiness is watched for reading only: asked for both, the kernel would wake us each time a packet of ours was taken.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::task::{Context, Poll};

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Wanted kernel buffer each way: more than one SCTP window, or a burst on loopback looks like loss. Less is accepted.
const KERNEL_BUFFER_BYTES: usize = 2 << 20;
/// Nothing legitimate is larger (SCTP is cut to 1191 bytes): dropped before any parser sees it.
const MAX_DATAGRAM_BYTES: usize = 2000;
/// Bytes of one run: what UDP can carry in one call.
const MAX_RUN_BYTES: usize = 60_000;

/// Runs taken by one system call. One less than asked for means that there is nothing left, which saves the call that says so.
const RUNS: usize = 4;
const RUN_BUFFER_BYTES: usize = 1 << 16;

thread_local! {
    // One for all sockets: it is filled and emptied within one call.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; RUNS * RUN_BUFFER_BYTES]);
}

/// A bound socket and the run of packets that waits for its system call.
pub(crate) struct Port {
    io: AsyncFd<UdpSocket>,
    /// There may be datagrams to read.
    ready: Cell<bool>,
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
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let _ = state.set_recv_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER_BYTES);
        let _ = state.set_send_buffer_size(UdpSockRef::from(&socket), KERNEL_BUFFER_BYTES);
        // SAFETY: the socket owns its descriptor, keeps it for life, and always gives the same one.
        let io =
            unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(|e| e.into_parts().1)?;
        Ok(Self { local, io, ready: Cell::new(false), state, run: Run::default() })
    }

    /// Gives the bound address.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits for datagrams. Errors count as ready: reading finds them.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ready.get() {
            return Poll::Ready(());
        }
        self.io.poll_read_ready(cx).map(|guard| {
            // Before the read, so that what comes after it wakes us again.
            if let Ok(mut guard) = guard {
                guard.clear_ready();
            }
            self.ready.set(true);
        })
    }

    /// Makes one system call and hands each datagram to `each`. False when nothing is left.
    pub(crate) fn receive(&self, mut each: impl FnMut(SocketAddr, &[u8])) -> bool {
        if !self.ready.get() {
            return false;
        }
        BUFFER.with_borrow_mut(|buffer| {
            let mut meta = [RecvMeta::default(); RUNS];
            let mut parts = buffer.chunks_exact_mut(RUN_BUFFER_BYTES);
            let mut slices: [IoSliceMut<'_>; RUNS] =
                std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
            let got = match self.state.recv(UdpSockRef::from(self.io.get_ref()), &mut slices, &mut meta) {
                Ok(got) => got,
                // Others are echoes of earlier sends, such as a refused port: go on reading.
                Err(e) => {
                    self.ready.set(e.kind() != io::ErrorKind::WouldBlock);
                    return self.ready.get();
                }
            };
            for (meta, slice) in meta.iter().zip(&slices).take(got) {
                let all = slice.get(..meta.len).unwrap_or_default();
                for datagram in all.chunks(meta.stride.max(1)).filter(|d| d.len() <= MAX_DATAGRAM_BYTES) {
                    each(meta.addr, datagram);
                }
            }
            self.ready.set(got == RUNS);
            self.ready.get()
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
        if let Err(error) = self.state.try_send(UdpSockRef::from(self.io.get_ref()), &transmit) {
            tracing::trace!(%error, "datagrams lost");
        }
        self.run.bytes.clear();
        self.run.packets = 0;
        self.run.sealed = false;
    }
}
