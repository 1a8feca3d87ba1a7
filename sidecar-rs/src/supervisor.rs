//! Wires the parts together, and takes them down in order.
//!
//! 1. stop accepting agents
//! 2. close every channel, after the peer acknowledged what it was sent, and tell it
//! 3. let the agent read what is written already, for a moment
//! 4. leave the registry
//! 5. the socket file goes

use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::connection::{EngineError, Identity};
use crate::gather;
use crate::ipc::{self, Socket};
use crate::mesh::Mesh;
use crate::signaling::{self, Settings, SignalingEvent};

/// Frames to the registry that may wait. Full: the frame is dropped, and the handshake it belongs to is tried again later.
const OUTGOING: usize = 1024;
/// Events of the registry that may wait. Full: its WebSocket is not read, and the registry waits.
const EVENTS: usize = 256;
/// Time for the peers to acknowledge what they were sent.
const GOODBYE: Duration = Duration::from_millis(600);
/// Time for the agent to read the last lines.
const DRAIN: Duration = Duration::from_millis(300);
/// Time for the registry to see us leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why the sidecar could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The agent's socket.
    #[error("IPC_SOCKET: {0}")]
    Socket(std::io::Error),
    /// Our key and certificate.
    #[error("IDENTITY_FILE {path}: {why}")]
    Identity {
        /// The file, empty for a fresh identity.
        path: String,
        /// What was wrong.
        why: String,
    },
    /// The operating system refused something.
    #[error(transparent)]
    System(#[from] std::io::Error),
}

/// Runs the sidecar until a signal, or the end of stdin where that is asked for. To be run inside a `LocalSet`.
pub async fn run(config: Config) -> Result<(), StartError> {
    let socket = Socket::bind(&config.ipc_socket).map_err(StartError::Socket)?;
    let identity = identity(&config)?;
    let stop = stop_signal(config.exit_on_stdin_eof)?;
    tracing::info!(socket = %config.ipc_socket.display(), fingerprint = identity.fingerprint(), "ready");

    let settings = Settings::new(&config, identity.fingerprint().to_owned());
    let (outgoing, outgoing_rx) = mpsc::channel(OUTGOING);
    let (events, events_rx) = mpsc::channel(EVENTS);
    let mesh = Mesh::new(config.clone(), identity, outgoing);
    let (accepting, registered) = (CancellationToken::new(), CancellationToken::new());
    let registry = tokio::task::spawn_local(signaling::run(settings, outgoing_rx, events, registered.clone()));
    let clock = tokio::task::spawn_local({
        let mesh = mesh.clone();
        async move { mesh.clock().await }
    });
    let listener = tokio::task::spawn_local(listen(events_rx, mesh.clone(), config));

    tokio::select! {
        () = ipc::serve(&socket, mesh.clone(), accepting.clone()) => {}
        why = stop => tracing::info!(why, "ending"),
    }
    accepting.cancel();
    mesh.close();
    clock.abort();
    let closed = async {
        while !mesh.is_closed() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = tokio::time::timeout(GOODBYE, closed).await;
    mesh.abort();
    let drained = async {
        while !mesh.outbox.flush() && !mesh.outbox.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    registered.cancel();
    let _ = tokio::time::timeout(FAREWELL, registry).await;
    listener.abort();
    drop(socket);
    Ok(())
}

/// Carries the registry's events to the mesh.
async fn listen(mut events: mpsc::Receiver<SignalingEvent>, mesh: Rc<Mesh>, config: Config) {
    if config.ice.servers.is_some() || config.ice.turn.is_some() {
        mesh.stun_servers(gather::stun_servers(&config.ice.servers_now(&[], 0)).await);
    }
    while let Some(event) = events.recv().await {
        match event {
            SignalingEvent::State(state) => mesh.signaling_state(state),
            SignalingEvent::Incoming(incoming) => mesh.incoming(incoming),
            SignalingEvent::IceServers(servers) => {
                let (mesh, all) = (mesh.clone(), config.ice.servers_now(&servers, 0));
                // Beside the events: a name server that does not answer must not hold up the mesh.
                tokio::task::spawn_local(async move { mesh.stun_servers(gather::stun_servers(&all).await) });
            }
        }
    }
}

fn identity(config: &Config) -> Result<Identity, StartError> {
    let wrong = |path: String| move |e: EngineError| StartError::Identity { path, why: e.to_string() };
    match &config.identity_file {
        None => Identity::generate().map_err(wrong(String::new())),
        Some(file) => {
            let path = file.display().to_string();
            let pem = std::fs::read_to_string(file)
                .map_err(|e| StartError::Identity { path: path.clone(), why: e.to_string() })?;
            Identity::from_pem(&pem).map_err(wrong(path))
        }
    }
}

/// Waits for the first reason to end.
fn stop_signal(with_stdin: bool) -> std::io::Result<impl Future<Output = &'static str>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if with_stdin {
        // Beside the end of stdin, for a parent whose pipe was inherited by somebody who lives on.
        // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory of ours.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
    }
    let stdin = async move {
        if !with_stdin {
            std::future::pending::<()>().await;
        }
        // A thread that waits for input would hold up the end of the process; a pipe can be waited for like a socket.
        match tokio::net::unix::pipe::Receiver::from_file(std::fs::File::open("/dev/stdin")?) {
            Ok(mut pipe) => while pipe.read(&mut [0; 256]).await? > 0 {},
            Err(_) => tracing::warn!("EXIT_ON_STDIN_EOF is set, but stdin is no pipe; its end will not be noticed"),
        }
        std::io::Result::Ok(())
    };
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "terminated",
            _ = interrupt.recv() => "interrupted",
            _ = stdin => "stdin ended",
        }
    })
}
