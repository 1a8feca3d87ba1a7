//! The socket of one agent, non-blocking. Readiness is watched for reading only; for writing only while it is full. Asked for
//! both at all times, the kernel would wake us each time the agent reads.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as Stream;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::outbox::Sink;

pub(super) struct Agent {
    io: AsyncFd<Stream>,
    /// The last read filled its buffer: there may be more.
    more: Cell<bool>,
}

impl Agent {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { io: watch(stream.into_std()?, Interest::READABLE)?, more: Cell::new(true) })
    }

    /// Reads into the spare room of `buffer`, of which there must be some. 0 at the end of the stream. Safe to drop half-way.
    pub(super) async fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        loop {
            if !self.more.get() {
                // Cleared before the read, so that what comes after it wakes us again.
                self.io.readable().await?.clear_ready();
            }
            self.more.set(true);
            let spare = buffer.spare_capacity_mut();
            let room = spare.len();
            // SAFETY: the pointer and the length are those of memory we own and may write to.
            let got = unsafe { libc::recv(self.io.as_raw_fd(), spare.as_mut_ptr().cast(), room, 0) };
            match usize::try_from(got) {
                Ok(got) => {
                    // SAFETY: the kernel wrote `got` bytes, no more than `room`, behind what was there.
                    unsafe { buffer.set_len(buffer.len() + got) };
                    self.more.set(got == room);
                    return Ok(got);
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        ErrorKind::WouldBlock => self.more.set(false),
                        ErrorKind::Interrupted => {}
                        _ => return Err(error),
                    }
                }
            }
        }
    }

    /// Waits until the socket takes bytes.
    pub(super) async fn writable(&self) -> io::Result<()> {
        let watched = watch(self.io.get_ref().try_clone()?, Interest::WRITABLE)?;
        watched.writable().await.map(drop)
    }
}

fn watch(stream: Stream, interest: Interest) -> io::Result<AsyncFd<Stream>> {
    // SAFETY: the stream owns its descriptor, keeps it for life, and always gives the same one.
    unsafe { AsyncFd::register_with_interest(stream, interest) }.map_err(|e| e.into_parts().1)
}

impl Sink for Agent {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut self.io.get_ref(), bytes)
    }
}
