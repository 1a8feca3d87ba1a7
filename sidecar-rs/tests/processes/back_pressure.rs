//! Sends with ids to a peer that takes nothing: answered `ok` up to what SCTP holds, then unanswered up to the window, then
//! `window_exceeded`; and all that was accepted arrives in order, each answered once.
//!
//! Fails when `Core::send` queues without a bound, or when `pump` forgets the answer of what waited.

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn past_the_window_sends_are_refused_and_the_rest_arrives() {
    let registry = Registry::start().await;
    let (one, two) = (Sidecar::start(&registry, "one"), Sidecar::start(&registry, "two"));
    let (mut a, mut b) = (Agent::hello(&one).await, Agent::hello(&two).await);
    a.connected("two").await;
    b.connected("one").await;
    // B reads nothing from here on.
    let pad = "x".repeat(60_000);
    let (mut sent, mut oks, mut refused) = (0u64, 0u64, Vec::new());
    while refused.len() < 3 {
        sent += 1;
        assert!(sent < 2_000, "never refused");
        a.say(&format!(
            r#"{{"type":"send","id":{sent},"payload":{{"target_peer":"two","message":{{"n":{sent},"pad":"{pad}"}}}}}}"#
        ))
        .await;
        // Only what is answered is waited for: a status has an answer of its own, so it tells how far the sidecar is.
        a.say(r#"{"type":"list_peers","id":"mark"}"#).await;
        loop {
            let line = a.line().await;
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            match value["type"].as_str() {
                Some("ok") => oks += 1,
                Some("error") => {
                    assert_eq!(value["payload"]["code"], "window_exceeded", "{line}");
                    assert_eq!(
                        (value["payload"]["retryable"].as_bool(), value["payload"]["executed"].as_str()),
                        (Some(true), Some("no"))
                    );
                    refused.push(value["id"].as_u64().expect("an id"));
                }
                _ => {}
            }
            if value["id"] == "mark" {
                break;
            }
        }
    }
    let accepted: Vec<u64> = (1..=sent).filter(|n| !refused.contains(n)).collect();
    assert!(oks > 0 && oks < accepted.len() as u64, "{oks} of {} answered", accepted.len());
    let arrived = tokio::spawn(async move {
        let mut arrived = Vec::new();
        while arrived.len() < accepted.len() {
            arrived.push(b.next("message").await["message"]["n"].as_u64().expect("a number"));
        }
        assert_eq!(arrived, accepted);
        (b, accepted.len() as u64)
    });
    let (_b, accepted) = arrived.await.expect("all arrive");
    while oks < accepted {
        a.next("ok").await;
        oks += 1;
    }
}
