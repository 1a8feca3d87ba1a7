//! Spawned by a library, the sidecar ends when its parent does: stdin ends. Otherwise stdin means nothing.
//!
//! Fails when `stop_signal` does not wait for stdin.

use std::time::Duration;

use crate::agent::Agent;
use crate::registry::Registry;
use crate::sidecar::Sidecar;

#[tokio::test]
async fn the_end_of_stdin_ends_it_only_where_asked() {
    let registry = Registry::start().await;
    let mut spawned = Sidecar::with(&registry, "one", &[("EXIT_ON_STDIN_EOF", "1")]);
    let mut free = Sidecar::start(&registry, "two");
    drop(Agent::hello(&spawned).await);
    drop(Agent::hello(&free).await);
    drop((spawned.child.stdin.take(), free.child.stdin.take()));
    let status = spawned.wait(Duration::from_secs(2)).await.expect("it ends");
    assert_eq!(status.code(), Some(0));
    assert!(!spawned.socket.exists());
    assert!(free.wait(Duration::from_millis(300)).await.is_none(), "the other lives on");
}

#[tokio::test]
async fn missing_settings_end_it_with_two_and_a_sentence() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_chatixia-sidecar")).env_clear().output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("SIGNALING_URL"), "{text}");
    let version =
        std::process::Command::new(env!("CARGO_BIN_EXE_chatixia-sidecar")).arg("--version").output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&version.stdout), "chatixia-sidecar 0.1.0 (protocol 1)\n");
}
