//! Against a real server on loopback: plain HTTP and WebSocket on one port, as the registry has it.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use futures_util::{SinkExt, StreamExt};

use super::*;
use crate::config::Secret;
use crate::wire::signaling::Signal;

const TOKEN: &str = r#"{"token":"t.o.k","peer_id":"planner","role":"agent"}"#;
const ICE: &str = r#"{"iceServers":[{"urls":["stun:stun.example"]}]}"#;
const PEERS: &str =
    r#"{"type":"peer_list","peer_id":"registry","payload":{"peers":["b"],"details":{"b":{"protocol":1}}}}"#;

/// Ends a test that waits for what will not come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(15), what).await.expect("within 15 s")
}

/// How the registry of a test answers.
#[derive(Clone)]
struct Manner {
    token: (u16, &'static str),
    config: (u16, &'static str),
    /// Takes tokens in the query only.
    old: bool,
}

const FRIENDLY: Manner = Manner { token: (200, TOKEN), config: (200, ICE), old: false };

type Server = WebSocketStream<TcpStream>;

struct Registry {
    url: String,
    sockets: mpsc::Receiver<Server>,
    /// First line and headers of every request.
    requests: Arc<Mutex<Vec<String>>>,
    _task: JoinHandle<()>,
}

impl Registry {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/ws", listener.local_addr().unwrap());
        let (opened, sockets) = mpsc::channel(8);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Some(socket) = serve(stream, &manner, &seen).await {
                    opened.send(socket).await.ok();
                }
            }
        });
        Self { url, sockets, requests, _task: task }
    }

    async fn accept(&mut self) -> Server {
        let mut socket = soon(self.sockets.recv()).await.unwrap();
        let register = text(&mut socket).await;
        assert!(
            register.starts_with(r#"{"type":"register","peer_id":"planner","payload":{"protocol":1,"#),
            "{register}"
        );
        socket.send(Message::text(PEERS)).await.unwrap();
        socket
    }

    fn requests(&self, of: &str) -> Vec<String> {
        self.requests.lock().unwrap().iter().filter(|request| request.starts_with(of)).cloned().collect()
    }
}

/// Answers one request; gives the socket if it was one.
async fn serve(mut stream: TcpStream, manner: &Manner, seen: &Mutex<Vec<String>>) -> Option<Server> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    seen.lock().unwrap().push(head.clone());
    let header = |name: &str| {
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(": ")?.1.to_owned())
    };
    let (status, body) = if head.starts_with("POST /api/token ") {
        manner.token
    } else if head.starts_with("GET /api/config ") {
        manner.config
    } else if head.starts_with("GET /ws?token=t.o.k ") || (header("authorization").is_some() && !manner.old) {
        let accept = derive_accept_key(header("sec-websocket-key")?.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        return Some(WebSocketStream::from_raw_socket(stream, Role::Server, None).await);
    } else {
        (403, "")
    };
    let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.ok();
    None
}

async fn text(socket: &mut Server) -> String {
    loop {
        if let Message::Text(text) = soon(socket.next()).await.unwrap().unwrap() {
            return text.to_string();
        }
    }
}

/// The side under test, running.
struct Client {
    events: mpsc::Receiver<SignalingEvent>,
    outgoing: mpsc::Sender<Outgoing>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Client {
    fn start(url: &str, peer_id: Option<&str>) -> Self {
        let settings = Settings {
            urls: RegistryUrls::new(Some(url.to_owned()), None).unwrap(),
            credential: Credential::Value(Secret::new("k1")),
            peer_id: peer_id.map(|id| id.parse().unwrap()),
            fingerprint: "sha-256 AB".to_owned(),
            generation: 7,
            fetch_ice_servers: true,
        };
        let (events_in, events) = mpsc::channel(64);
        let (outgoing, outgoing_out) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(settings, outgoing_out, events_in, shutdown.clone()));
        Self { events, outgoing, shutdown, task }
    }

    async fn next(&mut self) -> SignalingEvent {
        soon(self.events.recv()).await.expect("the conversation goes on")
    }

    async fn state(&mut self) -> State {
        loop {
            if let SignalingEvent::State(state) = self.next().await {
                return state;
            }
        }
    }

    /// Waits for `connected` and the peer list after it.
    async fn connected(&mut self) {
        while !matches!(self.state().await, State::Connected { .. }) {}
        assert!(matches!(self.next().await, SignalingEvent::Incoming(Incoming::PeerList { extended: true, .. })));
    }

    async fn stop(self) {
        self.shutdown.cancel();
        soon(self.task).await.expect("ends when told to");
    }
}

fn b() -> PeerId {
    "b".parse().unwrap()
}

fn offer() -> Outgoing {
    let signal = Signal::Offer { sdp: "v=0".into(), protocol: 1, connection: None, restart: false };
    Outgoing::Signal { to: b(), signal }
}

#[tokio::test]
async fn registers_and_carries_frames_both_ways() {
    let mut registry = Registry::start(FRIENDLY).await;
    let mut client = Client::start(&registry.url, Some("planner"));
    let mut socket = registry.accept().await;
    assert_eq!(client.next().await, SignalingEvent::State(State::Connecting { reason: None }));
    let SignalingEvent::IceServers(servers) = client.next().await else { panic!("servers come before connected") };
    assert_eq!(servers[0].urls, ["stun:stun.example"]);
    let connected = State::Connected { peer_id: "planner".parse().unwrap() };
    assert_eq!(client.next().await, SignalingEvent::State(connected));
    let SignalingEvent::Incoming(Incoming::PeerList { peers, extended: true }) = client.next().await else { panic!() };
    assert_eq!(peers[0].peer_id, b());

    client.outgoing.send(offer()).await.unwrap();
    client.outgoing.send(Outgoing::Topology(Vec::new())).await.unwrap();
    assert!(text(&mut socket).await.starts_with(r#"{"type":"offer","peer_id":"planner","target_id":"b""#));
    assert!(text(&mut socket).await.starts_with(r#"{"type":"topology""#));
    let answer = r#"{"type":"answer","peer_id":"b","target_id":"planner","payload":{"sdp":"v=0"}}"#;
    socket.send(Message::text(answer)).await.unwrap();
    assert!(matches!(client.next().await, SignalingEvent::Incoming(Incoming::Signal { from, .. }) if from == b()));

    client.stop().await;
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))), "a clean goodbye");
    assert!(registry.requests("POST /api/token")[0].contains("x-api-key: k1\r\n"));
    assert!(registry.requests("GET /ws")[0].to_lowercase().contains("authorization: bearer t.o.k\r\n"));
    assert!(!registry.requests("GET /ws")[0].contains("?token"), "no token in the address");
}

#[tokio::test]
async fn garbage_costs_nothing() {
    let mut registry = Registry::start(FRIENDLY).await;
    let mut client = Client::start(&registry.url, None);
    let mut socket = registry.accept().await;
    client.connected().await;
    let deep = "[".repeat(5000);
    for garbage in ["", "null", "{", r#"{"type":"dance","peer_id":"x","payload":{}}"#, &deep] {
        socket.send(Message::text(garbage.to_owned())).await.unwrap();
    }
    socket.send(Message::binary(vec![0, 255, 1])).await.unwrap();
    let left = r#"{"type":"peer_left","peer_id":"registry","payload":{"peer_id":"b"}}"#;
    socket.send(Message::text(left)).await.unwrap();
    assert_eq!(client.next().await, SignalingEvent::Incoming(Incoming::PeerLeft(b())));
    client.stop().await;
}

#[tokio::test]
async fn a_dropped_connection_is_made_again_with_a_fresh_token() {
    let mut registry = Registry::start(FRIENDLY).await;
    let mut client = Client::start(&registry.url, None);
    for round in 1..=2 {
        let socket = registry.accept().await;
        client.connected().await;
        assert_eq!(registry.requests("POST /api/token").len(), round);
        drop(socket); // No close frame: as a registry that was killed.
        assert!(matches!(client.state().await, State::Connecting { reason: Some(_) }));
        // Stale by the time there is a registry again.
        client.outgoing.send(offer()).await.unwrap();
    }
    let mut socket = registry.accept().await;
    client.connected().await;
    client.outgoing.send(Outgoing::Heartbeat).await.unwrap();
    assert!(text(&mut socket).await.contains("heartbeat"), "the stale offers were dropped");
    client.stop().await;
}

#[tokio::test]
async fn a_key_the_registry_does_not_know_is_refused() {
    let registry = Registry::start(Manner { token: (401, ""), ..FRIENDLY }).await;
    let mut client = Client::start(&registry.url, None);
    assert_eq!(client.state().await, State::Connecting { reason: None });
    let State::Refused { reason } = client.state().await else { panic!("not refused") };
    assert!(reason.contains("does not take the API key") && !reason.contains("k1"), "{reason}");
    // Three times what the channel holds: whoever sends meanwhile is not held up.
    for _ in 0..200 {
        soon(client.outgoing.send(offer())).await.unwrap();
    }
    client.stop().await;
}

#[tokio::test]
async fn a_name_other_than_ours_is_refused() {
    let registry = Registry::start(FRIENDLY).await;
    let mut client = Client::start(&registry.url, Some("critic"));
    client.state().await;
    let reason = "PEER_ID is critic, but the registry knows this API key as planner".to_owned();
    assert_eq!(client.state().await, State::Refused { reason });
    client.stop().await;
}

#[tokio::test]
async fn an_old_registry_gets_the_token_in_the_query_and_only_old_frames() {
    let mut registry = Registry::start(Manner { old: true, config: (404, ""), ..FRIENDLY }).await;
    let mut client = Client::start(&registry.url, None);
    let mut socket = soon(registry.sockets.recv()).await.unwrap();
    text(&mut socket).await;
    let old_list = r#"{"type":"peer_list","peer_id":"registry","payload":{"peers":["b"]}}"#;
    socket.send(Message::text(old_list)).await.unwrap();
    loop {
        match client.next().await {
            SignalingEvent::IceServers(servers) => assert!(servers.is_empty()),
            SignalingEvent::Incoming(Incoming::PeerList { extended, .. }) => break assert!(!extended),
            _ => {}
        }
    }
    let end = Signal::Candidate { candidate: String::new(), sdp_mid: None, sdp_mline_index: None, connection: None };
    for frame in [Outgoing::Topology(Vec::new()), Outgoing::Signal { to: b(), signal: end }, offer()] {
        client.outgoing.send(frame).await.unwrap();
    }
    assert!(text(&mut socket).await.contains(r#""type":"offer""#), "only the offer is for old ears");
    assert_eq!(registry.requests("GET /ws").len(), 2, "the header first, then the query");
    client.stop().await;
}

#[tokio::test]
async fn a_newer_sidecar_of_our_name_sends_us_to_the_waiting_room() {
    let mut registry = Registry::start(FRIENDLY).await;
    let mut client = Client::start(&registry.url, None);
    let mut socket = registry.accept().await;
    client.connected().await;
    let superseded =
        r#"{"type":"error","peer_id":"registry","payload":{"code":"superseded","message":"a newer one is online"}}"#;
    socket.send(Message::text(superseded)).await.unwrap();
    assert_eq!(client.state().await, State::Refused { reason: "a newer one is online".to_owned() });
    client.stop().await;
}

#[tokio::test]
async fn no_registry_at_all_is_no_reason_to_end() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/ws", free.local_addr().unwrap());
    drop(free);
    let mut client = Client::start(&url, None);
    client.state().await;
    assert!(matches!(client.state().await, State::Connecting { reason: Some(_) }));
    client.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_no_token_is_a_fault_and_no_crash() {
    let large: &'static str = "x".repeat(70_000).leak();
    for body in ["", "[]", r#"{"token":"t"}"#, r#"{"token":"t","peer_id":"a b"}"#, large] {
        let registry = Registry::start(Manner { token: (200, body), ..FRIENDLY }).await;
        let mut client = Client::start(&registry.url, None);
        client.state().await;
        assert!(matches!(client.state().await, State::Connecting { reason: Some(_) }), "{:.20}", body);
        client.stop().await;
    }
}

/// Two of our pings unanswered end the connection, and not before: on a virtual clock, over a stream in memory.
#[tokio::test(start_paused = true)]
async fn silence_of_forty_seconds_ends_the_connection() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let mut server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    let session = session::Session::for_test(Box::new(ours), "planner".parse().unwrap()).await;
    let settings = Settings {
        urls: RegistryUrls::new(Some("ws://localhost/ws".to_owned()), None).unwrap(),
        credential: Credential::Value(Secret::new("k1")),
        peer_id: None,
        fingerprint: String::new(),
        generation: 1,
        fetch_ice_servers: false,
    };
    let (events, _keep) = mpsc::channel(8);
    let (_outgoing, mut frames) = mpsc::channel(8);
    let shutdown = CancellationToken::new();
    let started = Instant::now();
    let mut ending = std::pin::pin!(session.run(&settings, &mut frames, &events, &shutdown));
    // The server reads for 50 s, which answers the pings, and then falls silent with the stream still open.
    let awake = tokio::time::timeout(Duration::from_secs(50), async {
        let mut heartbeats = 0;
        while let Some(Ok(frame)) = server.next().await {
            heartbeats += usize::from(frame.to_text().is_ok_and(|text| text.contains("heartbeat")));
            assert!(heartbeats < 3, "one each 20 s");
        }
    });
    tokio::select! {
        _ = &mut ending => panic!("ended while the registry answered"),
        _ = awake => {}
    }
    let End::Lost(why) = ending.await else { panic!("not lost") };
    assert!(why.contains("nothing heard"), "{why}");
    let life = started.elapsed().as_secs();
    assert!((79..=81).contains(&life), "last heard at 40 s, ended after {life} s");
}
