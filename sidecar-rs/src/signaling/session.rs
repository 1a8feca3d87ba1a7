//! One connection to the registry: from the token to its end.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::dial::{Dialer, Stream};
use super::http::{Token, fetch_ice_servers, fetch_token};
use super::{End, Settings, SignalingEvent, State};
use crate::config::{IceServer, Secret};
use crate::error::Code;
use crate::wire::PeerId;
use crate::wire::limits::HEARTBEAT;
use crate::wire::signaling::{Incoming, MAX_FRAME_BYTES, Outgoing, decode};

/// Silence after which the registry counts as gone: two of our pings unanswered.
const SILENCE: Duration = Duration::from_secs(40);
/// Time for a handshake, and for the socket to take one frame.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of unsent frames; past it `send` waits for the socket.
const WRITE_BUFFER_BYTES: usize = 16_384;

/// Close codes after which coming back at once would only be refused again, or push the other one out in turn.
const REVOKED: u16 = 4401;
const SUPERSEDED: u16 = 4409;

type Socket = WebSocketStream<Stream>;

/// An open WebSocket, not registered yet.
pub(super) struct Session {
    socket: Socket,
    me: PeerId,
    ice_servers: Option<Vec<IceServer>>,
    /// The registry speaks protocol 1.
    extended: bool,
}

/// Gets a token and opens the WebSocket.
pub(super) async fn open(settings: &Settings, dialer: &Dialer) -> Result<Session, End> {
    let Token { token, peer_id } = fetch_token(settings, dialer).await?;
    let ice_servers = async {
        match settings.fetch_ice_servers {
            true => Some(fetch_ice_servers(settings, dialer, &token).await),
            false => None,
        }
    };
    // Side by side: both need nothing but the token.
    let (ice_servers, socket) = tokio::join!(ice_servers, open_socket(&settings.urls.signaling, dialer, &token));
    Ok(Session { socket: socket?, me: peer_id, ice_servers, extended: false })
}

/// Opens the WebSocket with the token in a header, and once more with it in the query if the registry is too old for that.
pub(super) async fn open_socket(url: &Uri, dialer: &Dialer, token: &Secret) -> Result<Socket, End> {
    match handshake(url, dialer, token, Place::Header).await {
        Err(End::Refused(why)) => {
            debug!(%why, "header refused, trying the query");
            handshake(url, dialer, token, Place::Query).await
        }
        done => done,
    }
}

#[derive(Clone, Copy)]
enum Place {
    Header,
    Query,
}

async fn handshake(url: &Uri, dialer: &Dialer, token: &Secret, place: Place) -> Result<Socket, End> {
    // Never `url` with its query: it ends up in logs.
    let lost = |why: String| End::Lost(format!("{url}: {why}"));
    let full = match place {
        Place::Header => url.to_string(),
        Place::Query => format!("{url}?token={}", token.expose()),
    };
    let mut request = full.into_client_request().map_err(|_| lost("the token cannot be sent".to_owned()))?;
    if let Place::Header = place {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let mut value = value.map_err(|_| lost("the token cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let stream = dialer.connect(url).await.map_err(|e| lost(e.to_string()))?;
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(MAX_FRAME_BYTES);
    config.max_frame_size = Some(MAX_FRAME_BYTES);
    config.write_buffer_size = 0; // A signal is sent at once.
    config.max_write_buffer_size = MAX_FRAME_BYTES + WRITE_BUFFER_BYTES;
    let opening = client_async_with_config(request, stream, Some(config));
    match tokio::time::timeout(IO_TIMEOUT, opening).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(Error::Http(answer))) if matches!(answer.status().as_u16(), 401 | 403) => {
            Err(End::Refused(format!("the registry does not take its own token ({url}: {})", answer.status())))
        }
        Ok(Err(Error::Http(answer))) => Err(lost(format!("status {}", answer.status()))),
        Ok(Err(e)) => Err(lost(e.to_string())),
        Err(_) => Err(lost("no answer within 10 s".to_owned())),
    }
}

impl Session {
    #[cfg(test)]
    pub(super) async fn for_test(stream: Stream, me: PeerId) -> Self {
        let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
        let socket = WebSocketStream::from_raw_socket(stream, role, None).await;
        Self { socket, me, ice_servers: None, extended: false }
    }

    /// Registers and carries frames until something ends it.
    pub(super) async fn run(
        mut self,
        settings: &Settings,
        outgoing: &mut mpsc::Receiver<Outgoing>,
        events: &mpsc::Sender<SignalingEvent>,
        shutdown: &CancellationToken,
    ) -> End {
        let end = tokio::select! {
            () = shutdown.cancelled() => End::Stopped,
            end = self.carry(settings, outgoing, events) => match end {
                Ok(never) => match never {},
                Err(end) => end,
            },
        };
        if let End::Stopped = end {
            close(self.socket).await;
        }
        end
    }

    async fn carry(
        &mut self,
        settings: &Settings,
        outgoing: &mut mpsc::Receiver<Outgoing>,
        events: &mpsc::Sender<SignalingEvent>,
    ) -> Result<std::convert::Infallible, End> {
        let Settings { fingerprint, generation, .. } = settings;
        self.send(Outgoing::Register { fingerprint: fingerprint.clone(), generation: *generation }).await?;
        info!(peer = %self.me, "registered");
        if let Some(servers) = self.ice_servers.take() {
            tell(events, SignalingEvent::IceServers(servers)).await?;
        }
        tell(events, SignalingEvent::State(State::Connected { peer_id: self.me.clone() })).await?;

        let mut heartbeat = tokio::time::interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                frame = self.socket.next() => {
                    self.take(frame, events).await?;
                    heard = Instant::now(); // After the wait for a full channel: that silence was ours.
                }
                frame = outgoing.recv() => match frame {
                    Some(frame) => self.send(frame).await?,
                    None => return Err(End::Stopped),
                },
                _ = heartbeat.tick() => {
                    self.send(Outgoing::Heartbeat).await?;
                    self.write(Message::Ping(Default::default())).await?;
                }
                () = tokio::time::sleep_until(heard + SILENCE) => {
                    return Err(End::Lost("nothing heard from the registry for 40 s".to_owned()));
                }
            }
        }
    }

    async fn take(
        &mut self,
        frame: Option<Result<Message, Error>>,
        events: &mpsc::Sender<SignalingEvent>,
    ) -> Result<(), End> {
        let text = match frame {
            None => return Err(End::Lost("the registry closed the connection".to_owned())),
            Some(Err(e)) => return Err(End::Lost(format!("the connection to the registry broke: {e}"))),
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(frame))) => return Err(closed(frame)),
            Some(Ok(Message::Binary(_))) => {
                warn!("binary frame from the registry ignored");
                return Ok(());
            }
            Some(Ok(_)) => return Ok(()), // Pings are answered by the library.
        };
        match decode(text.as_bytes()) {
            Ok(Incoming::Error { code, message, .. }) if code == Code::Superseded.as_str() => {
                Err(End::Refused(message))
            }
            Ok(incoming) => {
                if let Incoming::PeerList { extended, .. } = incoming {
                    self.extended = extended;
                }
                tell(events, SignalingEvent::Incoming(incoming)).await
            }
            // One bad frame, perhaps of another peer's making, must not cost the connection.
            Err(failure) => {
                warn!(%failure, "frame from the registry ignored");
                Ok(())
            }
        }
    }

    async fn send(&mut self, frame: Outgoing) -> Result<(), End> {
        if frame.needs_protocol_1() && !self.extended {
            return Ok(());
        }
        let text = frame.encode(&self.me);
        self.write(Message::text(text)).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        match tokio::time::timeout(IO_TIMEOUT, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(End::Lost(format!("the connection to the registry broke: {e}"))),
            Err(_) => Err(End::Lost("the registry took no frame for 10 s".to_owned())),
        }
    }
}

/// Says goodbye.
pub(super) async fn close(mut socket: Socket) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    // Best effort: the registry notices the end of the stream as well.
    let _ = tokio::time::timeout(Duration::from_secs(1), socket.close(Some(frame))).await;
}

async fn tell(events: &mpsc::Sender<SignalingEvent>, event: SignalingEvent) -> Result<(), End> {
    events.send(event).await.map_err(|_| End::Stopped)
}

fn closed(frame: Option<CloseFrame>) -> End {
    match frame {
        None => End::Lost("the registry closed the connection".to_owned()),
        Some(frame) => {
            let reason: String = frame.reason.chars().take(200).collect();
            let why = format!("the registry closed the connection: {} {reason}", frame.code);
            match u16::from(frame.code) {
                REVOKED | SUPERSEDED => End::Refused(why),
                _ => End::Lost(why),
            }
        }
    }
}
