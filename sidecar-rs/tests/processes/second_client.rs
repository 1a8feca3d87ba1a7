//! One agent at a time: a second is told `busy` and closed, and the first does not notice.
//!
//! Fails when `Outbox::attach` lets a second one in.

use tokio::io::AsyncBufReadExt;

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn the_second_is_turned_away() {
    let registry = Registry::start().await;
    let one = Sidecar::start(&registry, "one");
    let mut first = Agent::hello(&one).await;
    for _ in 0..3 {
        let mut second = Agent::attach(&one).await;
        assert_eq!(second.next("error").await["code"], "busy");
        let mut rest = String::new();
        assert_eq!(second.read.read_line(&mut rest).await.expect("an end"), 0, "closed after the reason");
    }
    first.say(r#"{"type":"list_peers","id":1}"#).await;
    assert_eq!(first.answer(1).await["type"], "peer_list");
}

#[tokio::test]
async fn a_second_sidecar_on_the_same_path_is_refused_and_a_stale_file_is_replaced() {
    let registry = Registry::start().await;
    let mut one = Sidecar::start(&registry, "one");
    let mut a = Agent::hello(&one).await;
    let path = one.socket.to_str().expect("text").to_owned();
    let mut thief = Sidecar::with(&registry, "two", &[("IPC_SOCKET", &path), ("RUST_LOG", "off")]);
    let status = thief.wait(std::time::Duration::from_secs(10)).await.expect("it ends");
    assert_eq!(status.code(), Some(1));
    a.say(r#"{"type":"list_peers","id":1}"#).await;
    assert_eq!(a.answer(1).await["type"], "peer_list");
    one.signal(libc::SIGKILL);
    one.wait(std::time::Duration::from_secs(5)).await.expect("killed");
    assert!(one.socket.exists(), "a killed process leaves its file");
    let mut heir = Sidecar::with(&registry, "two", &[("IPC_SOCKET", &path)]);
    heir.socket.clone_from(&one.socket);
    Agent::hello(&heir).await;
    use std::os::unix::fs::PermissionsExt;
    let mode = |p: &std::path::Path| std::fs::metadata(p).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&heir.socket), 0o600);
    assert_eq!(mode(heir.socket.parent().expect("a folder")), 0o700);
}
