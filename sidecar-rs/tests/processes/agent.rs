//! An agent: lines in, lines out, each wait bounded.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::sidecar::Sidecar;

/// Nothing that is to happen may take longer.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Agent {
    pub(crate) read: BufReader<OwnedReadHalf>,
    pub(crate) write: OwnedWriteHalf,
}

impl Agent {
    /// Attaches without a hello, as old agents do.
    pub(crate) async fn attach(sidecar: &Sidecar) -> Self {
        let end = tokio::time::Instant::now() + LIMIT;
        loop {
            match UnixStream::connect(&sidecar.socket).await {
                Ok(stream) => {
                    let (read, write) = stream.into_split();
                    return Self { read: BufReader::new(read), write };
                }
                Err(error) => assert!(tokio::time::Instant::now() < end, "{}: {error}", sidecar.name),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Attaches and says hello.
    pub(crate) async fn hello(sidecar: &Sidecar) -> Self {
        let mut agent = Self::attach(sidecar).await;
        agent.say(r#"{"type":"hello","id":"h","payload":{"protocol":1}}"#).await;
        let line = agent.line().await;
        assert!(line.starts_with(r#"{"type":"hello","id":"h","payload":{"protocol":1,"#), "{line}");
        agent
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.expect("the sidecar reads");
    }

    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = tokio::time::timeout(LIMIT, self.read.read_line(&mut line)).await;
        read.expect("a line in time").expect("text");
        assert_eq!(line.pop(), Some('\n'), "the sidecar closed the socket after {line:?}");
        line
    }

    /// Gives the next line of this type, passing over others.
    pub(crate) async fn next(&mut self, kind: &str) -> Value {
        loop {
            let value: Value = serde_json::from_str(&self.line().await).expect("JSON");
            if value["type"] == kind {
                return value["payload"].clone();
            }
        }
    }

    /// Gives the answer with this id, passing over events.
    pub(crate) async fn answer(&mut self, id: u64) -> Value {
        loop {
            let value: Value = serde_json::from_str(&self.line().await).expect("JSON");
            if value["id"] == id {
                return value;
            }
        }
    }

    pub(crate) async fn connected(&mut self, peer: &str) {
        while self.next("peer_connected").await["peer_id"] != peer {}
    }

    /// Asks until the channel to `peer` is open, for agents that attached too late for the event.
    pub(crate) async fn wait_open(&mut self, peer: &str) {
        for _ in 0..1000 {
            self.say(r#"{"type":"list_peers","payload":{}}"#).await;
            if self.next("peer_list").await["peers"].as_array().expect("a list").iter().any(|p| p == peer) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no channel to {peer}");
    }

    pub(crate) async fn send(&mut self, to: &str, message: &str) {
        self.say(&format!(r#"{{"type":"send","payload":{{"target_peer":"{to}","message":{message}}}}}"#)).await;
    }
}
