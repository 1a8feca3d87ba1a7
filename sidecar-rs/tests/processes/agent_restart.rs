//! The agent restarts under a living sidecar: the channel stays, what came meanwhile waits, the present is told anew.
//!
//! Fails when `Outbox::has_room` is true without a client (messages would be lost), or `greet` tells no present.

use std::time::Duration;

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn messages_wait_for_the_next_agent() {
    let registry = Registry::start().await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    drop(b);
    tokio::time::sleep(Duration::from_millis(100)).await;
    for n in 0..1000 {
        a.send("two", &format!("{{\"n\":{n}}}")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut b = Agent::hello(&two).await;
    assert_eq!(b.next("signaling").await["state"], "connected");
    assert_eq!(b.next("peer_joined").await["peer_id"], "one");
    let open = b.next("peer_connected").await;
    assert_eq!((open["peer_id"].as_str(), open["generation"].as_u64()), (Some("one"), Some(1)));
    for n in 0..1000 {
        assert_eq!(b.next("message").await["message"]["n"], n);
    }
    // Several in a row, each as good as the first.
    for _ in 0..5 {
        drop(b);
        tokio::time::sleep(Duration::from_millis(50)).await;
        b = Agent::hello(&two).await;
        b.connected("one").await;
    }
    b.send("one", "{}").await;
    a.next("message").await;
}
