//! Both dial at once: one connection is left, the same for both, whoever has the lower id; and it carries messages.
//!
//! Fails when `Negotiation::take_offer` forgets who is lower.

use std::time::Duration;

use crate::agent::Agent;
use crate::registry::{Manner, Registry};
use crate::sidecar::Sidecar;

#[tokio::test]
async fn one_connection_is_left() {
    // The delay lets both offers cross.
    let registry = Registry::with(Manner { delay: Duration::from_millis(60), ..Manner::default() }).await;
    let on_demand = [("DIAL", "on_demand")];
    let (low, high) = (Sidecar::with(&registry, "low", &on_demand), Sidecar::with(&registry, "zed", &on_demand));
    let (mut a, mut b) = (Agent::hello(&low).await, Agent::hello(&high).await);
    a.next("peer_joined").await;
    b.next("peer_joined").await;
    a.say(r#"{"type":"connect","id":1,"payload":{"target_peer_id":"zed"}}"#).await;
    b.say(r#"{"type":"connect","id":1,"payload":{"target_peer_id":"low"}}"#).await;
    assert_eq!(a.answer(1).await["type"], "ok");
    assert_eq!(b.answer(1).await["type"], "ok");
    assert_eq!(registry.seen("offer").len(), 2, "both offered");
    a.say(r#"{"type":"status","id":2}"#).await;
    b.say(r#"{"type":"status","id":2}"#).await;
    let (a_status, b_status) = (a.answer(2).await, b.answer(2).await);
    let (mine, theirs) = (&a_status["payload"]["peers"]["zed"], &b_status["payload"]["peers"]["low"]);
    assert_eq!(mine["connection"], theirs["connection"]);
    assert_eq!((mine["role"].as_str(), theirs["role"].as_str()), (Some("offerer"), Some("answerer")));
    a.send("zed", "{\"n\":1}").await;
    b.send("low", "{\"n\":2}").await;
    assert_eq!(b.next("message").await["message"]["n"], 1);
    assert_eq!(a.next("message").await["message"]["n"], 2);
}
