//! Frames without `protocol` and `connection`, and a registry that sends no details: everything works, best effort.
//!
//! Fails when `negotiation.rs` insists on a name for a connection, or frames of protocol 1 go to an old registry.

use crate::agent::Agent;
use crate::registry::{Manner, Registry};
use crate::sidecar::Sidecar;

#[tokio::test]
async fn old_frames_make_a_channel_and_a_new_offer_replaces_it() {
    let registry = Registry::with(Manner { old: true, ..Manner::default() }).await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    a.say(r#"{"type":"status","id":2}"#).await;
    let status = a.answer(2).await;
    assert_eq!(status["payload"]["peers"]["two"]["protocol"], 0);
    // An old sidecar that lost its registry offers to all again: a third process under the name of the second does the same.
    let again = Sidecar::start(&registry, "two");
    let mut c = Agent::hello(&again).await;
    c.connected("one").await;
    a.next("peer_disconnected").await;
    a.connected("two").await;
    c.send("one", "{\"n\":3}").await;
    assert_eq!(a.next("message").await["message"]["n"], 3);
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert!(registry.seen("topology").is_empty(), "an old registry knows no such frame");
    let ends = registry.seen("ice_candidate").iter().filter(|f| f["payload"]["candidate"] == "").count();
    assert_eq!(ends, 0, "an old registry's peers know no end of candidates");
}
