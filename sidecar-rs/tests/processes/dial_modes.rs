//! `on_demand`: no connection until somebody asks; a send fails at once and starts the dial. Beyond `MAX_PEERS` the connection
//! that was not used for longest is closed, and the peer is told.
//!
//! Fails when `peer_list` dials in that mode, or `make_room` closes another one.

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn on_demand_waits_for_a_demand() {
    let registry = Registry::start().await;
    let mode = [("DIAL", "on_demand")];
    let (one, two) = (Sidecar::with(&registry, "one", &mode), Sidecar::with(&registry, "two", &mode));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.next("peer_joined").await;
    b.next("peer_joined").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(registry.seen("offer").is_empty());
    a.say(r#"{"type":"connect","id":1,"payload":{"target_peer_id":"nobody"}}"#).await;
    assert_eq!(a.answer(1).await["payload"]["code"], "peer_unreachable");
    a.say(r#"{"type":"send","id":2,"payload":{"target_peer":"two","message":{}}}"#).await;
    assert_eq!(a.answer(2).await["payload"]["code"], "peer_unreachable");
    a.connected("two").await;
    a.say(r#"{"type":"connect","id":3,"payload":{"target_peer_id":"two"}}"#).await;
    assert_eq!(a.answer(3).await["type"], "ok");
    a.say(r#"{"type":"disconnect","id":4,"payload":{"target_peer_id":"two"}}"#).await;
    assert_eq!(a.answer(4).await["type"], "ok");
    assert_eq!(b.next("peer_disconnected").await["reason"], "closed");
}

#[tokio::test]
async fn the_least_recently_used_makes_room() {
    let registry = Registry::start().await;
    let hub = Sidecar::with(&registry, "hub", &[("MAX_PEERS", "2")]);
    let mut h = Agent::hello(&hub).await;
    let (one, two) = (Sidecar::start(&registry, "p1"), Sidecar::start(&registry, "p2"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("hub").await;
    b.connected("hub").await;
    b.send("hub", "{\"n\":1}").await;
    h.next("message").await;
    a.send("hub", "{\"n\":2}").await;
    h.next("message").await;
    let three = Sidecar::start(&registry, "p3");
    let mut c = Agent::hello(&three).await;
    c.connected("hub").await;
    let closed = h.next("peer_disconnected").await;
    assert_eq!((closed["peer_id"].as_str(), closed["reason"].as_str()), (Some("p2"), Some("idle")));
}
