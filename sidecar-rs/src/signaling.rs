//! The sidecar's end of the conversation with the registry, over reconnects; the only WebSocket in this crate.
//!
//! * a token is exchanged for the key, fresh for each connection; the name in it is ours
//! * then the WebSocket and `register`; then frames both ways, a heartbeat and a ping every 20 s
//! * silence of 40 s, a close or an error end the connection; the next try comes after a jittered wait
//! * what the credential does not allow is `Refused`: reported, and tried again every 30 s, for keys get fixed

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::config::{Config, Credential, IceServer, RegistryUrls};
use crate::wire::PeerId;
use crate::wire::signaling::{Incoming, Outgoing};

pub(crate) mod dial;
pub(crate) mod http;
mod session;

use dial::Dialer;

/// Time between tries while the registry refuses us.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

/// What the conversation needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub urls: RegistryUrls,
    /// With which key.
    pub credential: Credential,
    /// The name we insist on.
    pub peer_id: Option<PeerId>,
    /// `sha-256 AB:CD:..` of our certificate.
    pub fingerprint: String,
    /// When this process started, milliseconds since 1970.
    pub generation: u64,
    /// Ask `/api/config` for STUN and TURN servers. No when they were configured here.
    pub fetch_ice_servers: bool,
}

impl Settings {
    /// Takes from the configuration what is needed here; the process is taken to have started now.
    pub fn new(config: &Config, fingerprint: String) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            urls: config.registry.clone(),
            credential: config.credential.clone(),
            peer_id: config.peer_id.clone(),
            fingerprint,
            generation: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            fetch_ice_servers: config.ice.servers.is_none(),
        }
    }
}

/// Where the conversation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not connected; trying. `reason` says what ended the last connection or try.
    Connecting {
        /// `None` at the first try.
        reason: Option<String>,
    },
    /// Registered. A `PeerList` follows.
    Connected {
        /// Our name.
        peer_id: PeerId,
    },
    /// The registry does not take us; tried again every 30 s.
    Refused {
        /// Why.
        reason: String,
    },
}

impl State {
    /// Gives the word that stands on the wire.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Connected { .. } => "connected",
            Self::Refused { .. } => "refused",
        }
    }

    /// Gives the reason, if there is one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Connecting { reason } => reason.as_deref(),
            Self::Connected { .. } => None,
            Self::Refused { reason } => Some(reason),
        }
    }
}

/// What the manager of the mesh hears from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalingEvent {
    /// The state changed.
    State(State),
    /// STUN and TURN servers the registry offers; comes before `Connected`, once per connection.
    IceServers(Vec<IceServer>),
    /// A frame.
    Incoming(Incoming),
}

/// Why a try or a connection ended.
#[derive(Debug)]
enum End {
    /// We were told to stop, or nobody listens any more.
    Stopped,
    /// It broke; a new try may help soon.
    Lost(String),
    /// The registry does not want us; a new try helps only when somebody changed something.
    Refused(String),
}

/// Keeps us registered until `shutdown`, or until the receiver of `events` is gone.
///
/// When `events` is full the WebSocket is not read, and the registry waits. `outgoing` is emptied at all times: while there is no
/// connection its frames are dropped, since they would be stale after the next register, whose `PeerList` starts anew.
/// Frames that only protocol 1 knows are dropped unless the registry speaks it.
pub async fn run(
    settings: Settings,
    mut outgoing: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<SignalingEvent>,
    shutdown: CancellationToken,
) {
    if settings.urls.is_plain_text() {
        warn!(url = %settings.urls.signaling, "key and tokens cross the network unencrypted; use wss:// and https://");
    }
    let dialer = Dialer::default();
    let mut backoff = Backoff::for_registry();
    if report(&events, State::Connecting { reason: None }).await.is_err() {
        return;
    }
    loop {
        let mut connected_at = None;
        let end = tokio::select! {
            () = shutdown.cancelled() => return,
            end = connect(&settings, &dialer, &mut outgoing) => end,
        };
        let end = match end {
            Ok(opened) => {
                connected_at = Some(Instant::now());
                opened.run(&settings, &mut outgoing, &events, &shutdown).await
            }
            Err(end) => end,
        };
        if let Some(at) = connected_at {
            backoff.lived(at.elapsed());
        }
        let wait = match end {
            End::Stopped => return,
            End::Lost(why) => {
                let wait = backoff.next(rand::random());
                info!(%why, wait_ms = wait.as_millis(), "no registry");
                if report(&events, State::Connecting { reason: Some(why) }).await.is_err() {
                    return;
                }
                wait
            }
            End::Refused(why) => {
                warn!(%why, "refused by the registry");
                if report(&events, State::Refused { reason: why }).await.is_err() {
                    return;
                }
                REFUSED_RETRY
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = drain(&mut outgoing) => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn report(events: &mpsc::Sender<SignalingEvent>, state: State) -> Result<(), End> {
    events.send(SignalingEvent::State(state)).await.map_err(|_| End::Stopped)
}

/// Drops frames while there is nobody to send them to. Ends when their sender is gone.
async fn drain(outgoing: &mut mpsc::Receiver<Outgoing>) {
    while outgoing.recv().await.is_some() {
        debug!("frame dropped: not connected to the registry");
    }
    // The manager is gone, and shutdown follows; the wait beside us decides when.
    std::future::pending().await
}

async fn connect(
    settings: &Settings,
    dialer: &Dialer,
    outgoing: &mut mpsc::Receiver<Outgoing>,
) -> Result<session::Session, End> {
    tokio::select! {
        opened = session::open(settings, dialer) => opened,
        () = drain(outgoing) => Err(End::Stopped),
    }
}

/// Tries token, WebSocket and `/api/config` one after the other, without registering. One entry an item, up to the first fault.
pub async fn probe(settings: &Settings) -> Vec<(&'static str, Result<String, String>)> {
    let dialer = Dialer::default();
    let sentence = |end| match end {
        End::Lost(why) | End::Refused(why) => why,
        End::Stopped => "stopped".to_owned(),
    };
    let token = match http::fetch_token(settings, &dialer).await {
        Ok(token) => token,
        Err(end) => return vec![("token", Err(sentence(end)))],
    };
    let mut found = vec![("token", Ok(format!("the registry knows us as {}", token.peer_id)))];
    found.push(match session::open_socket(&settings.urls.signaling, &dialer, &token.token).await {
        Ok(socket) => {
            session::close(socket).await;
            ("websocket", Ok(settings.urls.signaling.to_string()))
        }
        Err(end) => ("websocket", Err(sentence(end))),
    });
    if settings.fetch_ice_servers {
        let servers = http::fetch_ice_servers(settings, &dialer, &token.token).await;
        found.push(("ice servers", Ok(format!("{} from the registry", servers.len()))));
    }
    found
}

#[cfg(test)]
mod tests;
