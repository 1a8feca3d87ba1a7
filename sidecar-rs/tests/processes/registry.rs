//! A registry small enough to read: tokens, relay, presence. It can be old, forgetful of fields, slow, or gone.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

/// What is unusual about this one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Sends no details and no joins, and takes `protocol` and `connection` out of what it relays: all peers look old.
    pub(crate) old: bool,
    /// Keeps each offer, answer and candidate for so long.
    pub(crate) delay: Duration,
}

#[derive(Default)]
struct State {
    online: HashMap<String, (u64, mpsc::Sender<Value>)>,
    serial: u64,
    seen: Vec<Value>,
}

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: CancellationToken,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::with(Manner::default()).await
    }

    pub(crate) async fn with(manner: Manner) -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), manner).await
    }

    pub(crate) async fn at(address: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let (address, state, stop) = (listener.local_addr().expect("bound"), Arc::default(), CancellationToken::new());
        let registry = Self { address, state, stop: stop.clone() };
        let state = registry.state.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                let (state, stop) = (state.clone(), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = serve(stream, state, manner) => {}
                    }
                });
            }
        });
        registry
    }

    /// Drops every connection and frees the port.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// Gives the frames that sidecars sent.
    pub(crate) fn seen(&self, kind: &str) -> Vec<Value> {
        let state = self.state.lock().expect("no panic in there");
        state.seen.iter().filter(|f| f["type"] == kind).cloned().collect()
    }

    pub(crate) fn is_online(&self, name: &str) -> bool {
        self.state.lock().expect("no panic in there").online.contains_key(name)
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>, manner: Manner) {
    let mut head = vec![0; 4096];
    let head = loop {
        let Ok(n) = stream.peek(&mut head).await else { return };
        let text = String::from_utf8_lossy(&head[..n]).to_string();
        if n == 0 || text.contains("\r\n\r\n") {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    let header = |name: &str| {
        let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    if head.starts_with("GET /ws") {
        let Some(name) = header("authorization:").and_then(|v| Some(v.strip_prefix("Bearer token-")?.to_owned()))
        else {
            return refuse(stream, 401, "{}").await;
        };
        return relay(stream, name, state, manner).await;
    }
    let _ = stream.read(&mut vec![0; 4096]).await;
    match header("x-api-key:").and_then(|k| Some(k.strip_prefix("key-")?.to_owned())) {
        Some(name) if head.starts_with("POST /api/token") => {
            refuse(
                stream,
                200,
                &json!({"token": format!("token-{name}"), "peer_id": name, "role": "agent"}).to_string(),
            )
            .await;
        }
        _ => refuse(stream, 404, "{}").await,
    }
}

async fn refuse(mut stream: TcpStream, status: u16, body: &str) {
    let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn relay(stream: TcpStream, name: String, state: Arc<Mutex<State>>, manner: Manner) {
    let Ok(socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let (mut write, mut read) = socket.split();
    let (tx, mut rx) = mpsc::channel::<Value>(1024);
    tokio::spawn(async move {
        while let Some(frame) = rx.recv().await {
            if !manner.delay.is_zero() {
                tokio::time::sleep(manner.delay).await;
            }
            if write.send(Message::text(frame.to_string())).await.is_err() {
                return;
            }
        }
    });
    let mut mine = 0;
    while let Some(Ok(message)) = read.next().await {
        let Message::Text(text) = message else { continue };
        let mut frame: Value = serde_json::from_str(&text).expect("sidecars send JSON");
        let mut state = state.lock().expect("no panic in there");
        state.seen.push(frame.clone());
        if frame["type"] == "register" {
            let peers: Vec<String> = state.online.keys().cloned().collect();
            let mut list = json!({"peers": peers});
            if !manner.old {
                list["details"] = peers.iter().map(|p| (p.clone(), json!({"protocol": 1}))).collect();
            }
            let _ = tx.try_send(json!({"type": "peer_list", "peer_id": "registry", "payload": list}));
            state.serial += 1;
            mine = state.serial;
            tell(&state, manner, "peer_joined", &name);
            state.online.insert(name.clone(), (mine, tx.clone()));
        } else if let Some(target) = frame["target_id"].as_str().map(str::to_owned) {
            if manner.old
                && let Some(payload) = frame["payload"].as_object_mut()
            {
                payload.remove("protocol");
                payload.remove("connection");
            }
            match state.online.get(&target) {
                Some((_, tx)) => drop(tx.try_send(frame)),
                None if manner.old => {}
                None => {
                    let payload = json!({"code": "peer_offline", "message": "not here", "target_id": target});
                    let _ = tx.try_send(json!({"type": "error", "peer_id": "registry", "payload": payload}));
                }
            }
        }
    }
    let mut state = state.lock().expect("no panic in there");
    if state.online.get(&name).is_some_and(|(serial, _)| *serial == mine) {
        state.online.remove(&name);
        tell(&state, manner, "peer_left", &name);
    }
}

fn tell(state: &State, manner: Manner, kind: &str, about: &str) {
    if manner.old {
        return;
    }
    for (_, tx) in state.online.values() {
        let _ = tx.try_send(json!({"type": kind, "peer_id": "registry", "payload": {"peer_id": about, "protocol": 1}}));
    }
}
