//! A peer that dies without a word is noticed within 10 s, and its successor under the same name is connected.
//!
//! Fails when `connection.rs` loosens the ICE timeouts or `negotiation.rs` its `GIVE_UP_AFTER`.

use std::time::Duration;

use crate::agent::Agent;
use crate::registry::{Manner, Registry};
use crate::sidecar::Sidecar;

#[tokio::test]
async fn it_is_noticed_within_ten_seconds_without_help_of_the_registry() {
    // An old registry does not say who left.
    let registry = Registry::with(Manner { old: true, ..Manner::default() }).await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    two.signal(libc::SIGKILL);
    let gone = tokio::time::timeout(Duration::from_secs(10), a.next("peer_disconnected")).await.expect("within 10 s");
    assert_eq!((gone["peer_id"].as_str(), gone["reason"].as_str()), (Some("two"), Some("timeout")));
}

#[tokio::test]
async fn its_successor_replaces_it_at_once() {
    let registry = Registry::start().await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    two.signal(libc::SIGKILL);
    let again = Sidecar::start(&registry, "two");
    let mut b = Agent::hello(&again).await;
    let gone = a.next("peer_disconnected").await;
    let back = a.next("peer_connected").await;
    assert_eq!(gone["peer_id"], "two");
    assert!(back["generation"].as_u64() > gone["generation"].as_u64(), "{gone} {back}");
    a.send("two", "{\"again\":true}").await;
    assert_eq!(b.next("message").await["message"]["again"], true);
}
