//! The two plain requests to the registry: a key for a token, and the list of STUN and TURN servers.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tracing::debug;

use super::dial::Dialer;
use super::{End, Settings};
use crate::config::{IceServer, Secret};
use crate::wire::PeerId;

/// Time for one request, connecting included.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of an answer, at most; both are a few hundred.
const MAX_ANSWER_BYTES: usize = 65_536;

/// A token and the name it gives us.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) token: Secret,
    pub(crate) peer_id: PeerId,
}

/// Exchanges the key for a token.
///
/// `Refused` when the registry does not know the key, or when it gives a name other than the one we insist on.
pub(super) async fn fetch_token(settings: &Settings, dialer: &Dialer) -> Result<Token, End> {
    let key = settings.credential.read().map_err(End::Refused)?;
    // Pairing gives out device tokens; the registry tells the two apart by their header.
    let header = if key.expose().starts_with("dt_") { "x-device-token" } else { "x-api-key" };
    let url = &settings.urls.token;
    let (status, body) = request(dialer, Method::POST, url, header, &key).await.map_err(|why| lost(url, &why))?;
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(End::Refused(format!("the registry does not take the API key (POST {url}: {status})")));
        }
        other => return Err(lost(url, &format!("status {other}"))),
    }
    #[derive(Deserialize)]
    struct Answer {
        token: Secret,
        peer_id: PeerId,
    }
    // The error's text could quote the token, so its place only.
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|e| lost(url, &format!("not a token answer: {:?} fault at column {}", e.classify(), e.column())))?;
    match &settings.peer_id {
        Some(wanted) if *wanted != answer.peer_id => {
            Err(End::Refused(format!("PEER_ID is {wanted}, but the registry knows this API key as {}", answer.peer_id)))
        }
        _ => Ok(Token { token: answer.token, peer_id: answer.peer_id }),
    }
}

/// Asks for STUN and TURN servers; gives none when the registry has none to give or does not answer.
pub(super) async fn fetch_ice_servers(settings: &Settings, dialer: &Dialer, token: &Secret) -> Vec<IceServer> {
    let bearer = Secret::new(format!("Bearer {}", token.expose()));
    let url = &settings.urls.config;
    let why = match request(dialer, Method::GET, url, AUTHORIZATION.as_str(), &bearer).await {
        Ok((StatusCode::OK, body)) => match crate::config::ice_servers_from_registry(&body) {
            Ok(servers) => return servers,
            Err(e) => format!("fault at column {}", e.column()),
        },
        Ok((status, _)) => format!("status {status}"),
        Err(why) => why,
    };
    debug!(%url, %why, "no STUN or TURN servers from the registry");
    Vec::new()
}

fn lost(url: &Uri, why: &str) -> End {
    End::Lost(format!("{url}: {why}"))
}

/// Sends one request with one secret header, on a connection of its own.
async fn request(
    dialer: &Dialer,
    method: Method,
    url: &Uri,
    header: &str,
    secret: &Secret,
) -> Result<(StatusCode, Bytes), String> {
    let exchange = async {
        let mut value =
            HeaderValue::from_str(secret.expose()).map_err(|_| "the key holds a line break or control character")?;
        value.set_sensitive(true);
        let authority = url.authority().map_or("", |a| a.as_str());
        let request = Request::builder()
            .method(method)
            .uri(url.path())
            .header(HOST, authority)
            .header(USER_AGENT, concat!("chatixia-sidecar/", env!("CARGO_PKG_VERSION")))
            .header(header, value)
            .body(Empty::<Bytes>::new())
            .map_err(|e| e.to_string())?;
        let stream = dialer.connect(url).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let mut answer = pin!(async {
            let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(|e| e.to_string())?;
            Ok((status, body.to_bytes()))
        });
        tokio::select! {
            answer = &mut answer => answer,
            // It may end right after the answer's last byte, which then is still to be read from it.
            _ = connection => answer.await,
        }
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| "no answer within 15 s".to_owned())?
}
