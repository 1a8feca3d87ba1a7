//! The agent's socket; with `ipc/agent.rs` the only place that touches Unix sockets.
//!
//! * one client at a time; a second is told `busy`. The socket outlives its clients
//! * lines are read in batches; what they send goes on the wire once per batch
//! * a client is not read while it does not read, or while it sent without ids to a peer that has no room: back-pressure by the
//!   socket. Writing to it goes on meanwhile, so that neither side waits for the other
//! * only processes of our own user may connect

use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use self::agent::Agent;
use crate::error::{Code, Failure};
use crate::lines::Lines;
use crate::link::Link;
use crate::mesh::Mesh;
use crate::negotiation::Reason;
use crate::outbox::{Asker, ClientId, Sink};
use crate::wire::RequestId;
use crate::wire::ipc::{self, Command, Request, answer};
use crate::wire::limits::{MAX_LINE_BYTES, PROTOCOL};

mod agent;

/// Bytes asked for in one read: what the kernel keeps for a Unix socket by default, and more than one line.
const READ_BYTES: usize = 256 << 10;
/// A read of this size means that the agent is busy sending: let connections take turns.
const BUSY_READ_BYTES: usize = 16 << 10;
/// Time for a new client to say hello before it gets messages.
const HELLO_PATIENCE: Duration = Duration::from_millis(100);
/// Wait when the system has no descriptors left.
const BREATH: Duration = Duration::from_millis(200);

/// The bound socket; the file goes with it.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds the socket, mode 0600, in a folder made with mode 0700 if need be. A socket file that nobody answers on is replaced.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(named)?;
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(named(io::Error::new(ErrorKind::AddrInUse, "another process listens there"))),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(named)?,
            Err(_) => {} // not there, or no socket: bind says what is wrong
        }
        // The mode holds from the first instant on: nobody else can connect in between.
        // SAFETY: umask has no preconditions, and at this point there is one thread.
        let old = unsafe { libc::umask(0o177) };
        let bound = UnixListener::bind(path);
        // SAFETY: as above.
        unsafe { libc::umask(old) };
        let listener = bound.map_err(named)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(named)?;
        let inode = std::fs::metadata(path).map_err(named)?.ino();
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Only ours: another sidecar may have taken the path over.
        if std::fs::metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Accepts clients until `shutdown`.
pub(crate) async fn serve(socket: &Socket, mesh: Rc<Mesh>, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = socket.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => admit(stream, &mesh),
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be closed.
                tracing::warn!(%error, "cannot accept the agent");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

fn admit(stream: UnixStream, mesh: &Rc<Mesh>) {
    // SAFETY: getuid has no preconditions.
    let me = unsafe { libc::getuid() };
    match stream.peer_cred() {
        Ok(cred) if cred.uid() == me || cred.uid() == 0 => {}
        Ok(cred) => return tracing::warn!(uid = cred.uid(), "a process of another user was turned away"),
        Err(error) => return tracing::warn!(%error, "a client without credentials was turned away"),
    }
    let end = match Agent::new(stream) {
        Ok(end) => Rc::new(end),
        Err(error) => return tracing::warn!(%error, "the agent's socket cannot be watched"),
    };
    match mesh.outbox.attach(end.clone()) {
        Some(client) => drop(tokio::task::spawn_local(Client { mesh: mesh.clone(), client, end }.run())),
        None => drop(tokio::task::spawn_local(turn_away(end))),
    }
}

async fn turn_away(end: Rc<Agent>) {
    let mut line = Vec::new();
    let failure = Failure::new(Code::Busy, "another client is attached; the sidecar serves one at a time");
    answer::error(&mut line, None, &failure);
    // A fresh socket has room for one line.
    if let Err(error) = end.try_write(&line) {
        tracing::debug!(%error, "a second client did not hear why");
    }
    // What it wrote is read away for a moment: closing over unread bytes would reach it as an error, maybe before the line.
    let mut unread = BytesMut::with_capacity(4096);
    let _ = tokio::time::timeout(BREATH, async {
        while matches!(end.read(&mut unread).await, Ok(1..)) {
            unread.clear();
        }
    })
    .await;
}

struct Client {
    mesh: Rc<Mesh>,
    client: ClientId,
    end: Rc<Agent>,
}

impl Client {
    async fn run(self) {
        tracing::info!("agent attached");
        let why = tokio::select! {
            why = self.read() => why,
            () = self.write() => "socket broken",
            () = self.wait_for_hello() => "never",
            () = self.mesh.outbox.broken.notified() => "it does not read",
        };
        self.mesh.outbox.detach();
        tracing::info!(why, "agent detached");
    }

    /// Messages may have waited for a client, and the answer to its hello comes before them. Clients without one only listen.
    async fn wait_for_hello(&self) {
        tokio::time::sleep(HELLO_PATIENCE).await;
        self.listen();
        std::future::pending().await
    }

    fn listen(&self) {
        if self.mesh.outbox.listen() {
            self.mesh.wake_links();
        }
    }

    /// Writes what the socket did not take at once.
    async fn write(&self) {
        let outbox = &self.mesh.outbox;
        loop {
            if outbox.is_empty() {
                outbox.blocked.notified().await;
            }
            if self.end.writable().await.is_err() {
                return;
            }
            if outbox.flush() {
                self.mesh.wake_links();
            }
        }
    }

    async fn read(&self) -> &'static str {
        let mut lines = Lines::new(MAX_LINE_BYTES);
        loop {
            lines.buffer().reserve(READ_BYTES);
            let got = match self.end.read(lines.buffer()).await {
                Ok(0) => return "it closed the socket",
                Ok(got) => got,
                Err(_) => return "socket broken",
            };
            while let Some(line) = lines.next_line() {
                let slow = match line {
                    Ok(line) => self.take(&line),
                    Err(too_long) => {
                        let failure = Failure::new(Code::LineTooLong, too_long.to_string());
                        self.mesh.outbox.error(&self.asker(None), &failure);
                        Vec::new()
                    }
                };
                if !slow.is_empty() {
                    self.settle();
                    for link in slow {
                        link.room().await;
                    }
                }
                while !self.mesh.outbox.keeps_up() {
                    self.settle();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            self.settle();
            self.listen();
            if got >= BUSY_READ_BYTES {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The end of a batch: sends on the wire, answers to the agent.
    fn settle(&self) {
        self.mesh.flush();
        if self.mesh.outbox.flush() {
            self.mesh.wake_links();
        }
    }

    fn asker(&self, id: Option<RequestId>) -> Asker {
        Asker { client: self.client, id }
    }

    /// Does one command. Gives the connections to wait for before the next one.
    fn take(&self, line: &Bytes) -> Vec<Rc<Link>> {
        let Request { id, command } = match ipc::decode(line) {
            Ok(request) => request,
            Err(rejected) => {
                self.mesh.outbox.error(&self.asker(rejected.id), &rejected.failure);
                return Vec::new();
            }
        };
        let (mesh, outbox, asker) = (&self.mesh, &self.mesh.outbox, self.asker(id));
        match command {
            Command::Send { target_peer, message } => match mesh.send_to(&asker, &target_peer, &message) {
                Ok(slow) => return slow.into_iter().collect(),
                Err(failure) => outbox.error(&asker, &failure),
            },
            Command::Broadcast { message } => {
                let (sent, failed, slow) = mesh.broadcast(asker.id.is_none(), &message);
                match &asker.id {
                    Some(id) => {
                        let failed = failed.iter().map(|(peer, code)| (peer, *code));
                        outbox.line(|out| answer::broadcast_ok(out, id, &sent, failed));
                    }
                    None => {
                        for (peer, code) in failed {
                            outbox.error(&asker, &Failure::new(code, format!("broadcast not sent to {peer}")));
                        }
                    }
                }
                return slow;
            }
            Command::ListPeers => {
                let peers = mesh.connected_peers();
                outbox.line(|out| answer::peer_list(out, asker.id.as_ref(), &peers));
            }
            Command::Hello { protocol, .. } if protocol != PROTOCOL => {
                let message = format!("the agent speaks protocol {protocol}, this sidecar {PROTOCOL}");
                outbox.error(&asker, &Failure::new(Code::ProtocolMismatch, message));
            }
            Command::Hello { .. } => mesh.greet(asker.id.as_ref()),
            Command::Connect { target_peer_id } => mesh.connect(asker, &target_peer_id),
            Command::Disconnect { target_peer_id } => {
                mesh.remove_peer(&target_peer_id, Reason::Local);
                outbox.ok(&asker);
            }
            Command::Status => mesh.status(asker.id.as_ref()),
        }
        Vec::new()
    }
}
