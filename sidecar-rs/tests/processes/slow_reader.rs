//! An agent that reads nothing while 50,000 messages are sent to it: memory stays flat, all arrive in order, others are unaffected.
//!
//! Fails when `Link` reads without asking `Outbox::has_room`, or when nothing wakes the links once the agent reads again.

use std::time::Duration;

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

const MESSAGES: usize = 50_000;

#[tokio::test]
async fn memory_is_flat_and_nothing_is_lost() {
    let registry = Registry::start().await;
    let (sender, slow, other) =
        (Sidecar::start(&registry, "sender"), Sidecar::start(&registry, "slow"), Sidecar::start(&registry, "other"));
    let (mut a, mut b, mut c) = (Agent::attach(&sender).await, Agent::attach(&slow).await, Agent::attach(&other).await);
    a.wait_open("slow").await;
    a.wait_open("other").await;
    b.wait_open("other").await;
    c.wait_open("slow").await;
    let Agent { mut read, mut write } = a;
    let before = slow.rss_kib();
    let pad = "x".repeat(200);
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        for n in 0..MESSAGES {
            let line = format!(
                "{{\"type\":\"send\",\"payload\":{{\"target_peer\":\"slow\",\"message\":{{\"n\":{n},\"pad\":\"{pad}\"}}}}}}\n"
            );
            write.write_all(line.as_bytes()).await.expect("the sidecar reads, sooner or later");
        }
        write
    });
    // The association takes what its window of 4 MiB allows (with small messages that costs more); then it must stay so.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let full = slow.rss_kib();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = slow.rss_kib();
    assert!(!sending.is_finished(), "12 MB went somewhere although nobody reads");
    assert!(full < before + 32 * 1024, "memory grew from {before} to {full} KiB");
    assert!(after < full + 1024, "memory went on growing, from {full} to {after} KiB");
    // Another peer of the slow one: its sends are not held up by the slow agent's socket, and it hears from others.
    c.say(r#"{"type":"send","id":1,"payload":{"target_peer":"slow","message":{"from":"other"}}}"#).await;
    assert_eq!(c.answer(1).await["type"], "ok");

    let mut next = 0;
    while next < MESSAGES {
        let message = b.next("message").await;
        if message["from_peer"] == "sender" {
            assert_eq!(message["message"]["n"], next, "order");
            next += 1;
        }
    }
    let mut write = sending.await.expect("all sent");
    // The sender's own sidecar serves it as before.
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
    write.write_all(b"{\"type\":\"list_peers\",\"id\":9}\n").await.expect("it reads");
    let mut line = String::new();
    tokio::time::timeout(Duration::from_secs(10), read.read_line(&mut line)).await.expect("in time").expect("text");
    assert_eq!(line, "{\"type\":\"peer_list\",\"id\":9,\"payload\":{\"peers\":[\"other\",\"slow\"]}}\n");
}
