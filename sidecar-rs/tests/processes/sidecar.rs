//! A sidecar process with a socket in a folder of its own. Killed when dropped.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::registry::Registry;

pub(crate) struct Sidecar {
    pub(crate) name: String,
    pub(crate) socket: PathBuf,
    pub(crate) child: Child,
    _folder: tempfile::TempDir,
}

impl Sidecar {
    pub(crate) fn start(registry: &Registry, name: &str) -> Self {
        Self::with(registry, name, &[])
    }

    pub(crate) fn with(registry: &Registry, name: &str, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("ipc/agent.sock");
        let child = Command::new(env!("CARGO_BIN_EXE_chatixia-sidecar"))
            .env_clear()
            .env("IPC_SOCKET", &socket)
            .env("SIGNALING_URL", format!("ws://{}/ws", registry.address))
            .env("API_KEY", format!("key-{name}"))
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .env("ICE_BIND", "127.0.0.1")
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .spawn()
            .expect("the sidecar starts");
        Self { name: name.into(), socket, child, _folder: folder }
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: `kill` touches no memory; the pid is that of our child, which is not reaped before `wait`.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    /// Waits for the end of the process; `None` when it takes longer.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let end = tokio::time::Instant::now() + limit;
        while tokio::time::Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// Resident memory in KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// UDP ports the process has bound.
    pub(crate) fn udp_ports(&self) -> Vec<u16> {
        let pid = self.child.id();
        let links = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
        let inodes: Vec<String> = links
            .filter_map(|e| std::fs::read_link(e.ok()?.path()).ok())
            .filter_map(|l| Some(l.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/udp")).expect("it lives");
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let port = words.get(1)?.rsplit_once(':')?.1;
            inodes.iter().any(|i| words.get(9) == Some(&i.as_str())).then(|| u16::from_str_radix(port, 16).ok())?
        };
        table.lines().filter_map(row).collect()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
