//! Three managers in one process, wired by hand: a fault in one connection ends that one, with reason `internal`, and no other.
//! Fails when `Link::guarded` does not catch, or `link_event` does not pass the end on.

use std::io;

use super::*;
use crate::config::Args;
use crate::outbox::Sink;
use crate::wire::ipc::{Command, Request, decode};

#[derive(Default)]
struct Lines(RefCell<Vec<u8>>);

impl Sink for Lines {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Lines {
    async fn wait_for(&self, part: &str) {
        for _ in 0..1000 {
            if self.text().contains(part) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{part} did not come: {}", self.text());
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow()).into_owned()
    }
}

struct End {
    mesh: Rc<Mesh>,
    lines: Rc<Lines>,
    outgoing: Option<mpsc::Receiver<Outgoing>>,
}

fn end(name: &str) -> End {
    let env = |key: &str| match key {
        "SIGNALING_URL" => Some("ws://127.0.0.1:1/ws".to_owned()),
        "API_KEY" => Some("key".to_owned()),
        "ICE_BIND" => Some("127.0.0.1".to_owned()),
        _ => None,
    };
    let config = Config::load(&Args::default(), &env).expect("settings");
    let (tx, rx) = mpsc::channel(64);
    let mesh = Mesh::new(config, Identity::generate().expect("an identity"), tx);
    let lines = Rc::new(Lines::default());
    mesh.outbox.attach(lines.clone()).expect("the first");
    mesh.outbox.greet();
    mesh.outbox.listen();
    mesh.signaling_state(SignalingState::Connected { peer_id: name.parse().expect("an id") });
    End { mesh, lines, outgoing: Some(rx) }
}

fn send(end: &End, line: &str) -> Result<(), Failure> {
    let Ok(Request { id, command: Command::Send { target_peer, message } }) = decode(&Bytes::from(line.to_owned()))
    else {
        panic!("{line} is no send");
    };
    end.mesh.send_to(&Asker { client: 1, id }, &target_peer, &message)?;
    end.mesh.flush();
    Ok(())
}

fn dial(end: &End, names: &[&str]) {
    let present = |n: &&str| Present { peer_id: n.parse().expect("an id"), fingerprint: None, protocol: 1 };
    end.mesh.incoming(Incoming::PeerList { peers: names.iter().map(present).collect(), extended: true });
}

#[tokio::test]
async fn a_fault_in_one_connection_ends_no_other() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let mut ends = [("hub", end("hub")), ("one", end("one")), ("two", end("two"))];
            let meshes: Vec<(PeerId, Rc<Mesh>)> =
                ends.iter().map(|(n, e)| (n.parse().expect("an id"), e.mesh.clone())).collect();
            for (name, end) in &mut ends {
                let (from, meshes) = (name.parse::<PeerId>().expect("an id"), meshes.clone());
                let clock = end.mesh.clone();
                tokio::task::spawn_local(async move { clock.clock().await });
                let mut outgoing = end.outgoing.take().expect("once");
                tokio::task::spawn_local(async move {
                    while let Some(frame) = outgoing.recv().await {
                        if let Outgoing::Signal { to, signal } = frame
                            && let Some((_, mesh)) = meshes.iter().find(|(id, _)| *id == to)
                        {
                            mesh.incoming(Incoming::Signal { from: from.clone(), signal });
                        }
                    }
                });
            }
            let [(_, hub), (_, one), (_, two)] = &ends;
            dial(hub, &["one", "two"]);
            for (end, peer) in [(hub, "one"), (hub, "two"), (one, "hub"), (two, "hub")] {
                end.lines.wait_for(&format!(r#""peer_connected","payload":{{"peer_id":"{peer}""#)).await;
            }
            let fault = r#"{"type":"send","id":1,"payload":{"target_peer":"one","message":{"fault":1}}}"#;
            assert!(send(hub, fault).is_err(), "the send is refused");
            hub.lines
                .wait_for(r#""peer_disconnected","payload":{"peer_id":"one","generation":1,"reason":"internal"}"#)
                .await;
            send(hub, r#"{"type":"send","payload":{"target_peer":"two","message":{"n":1}}}"#).expect("sent");
            two.lines.wait_for(r#""message":{"n":1}"#).await;
            send(two, r#"{"type":"send","payload":{"target_peer":"hub","message":{"n":2}}}"#).expect("sent");
            hub.lines.wait_for(r#""message":{"n":2}"#).await;
            assert!(!hub.lines.text().contains(r#""peer_disconnected","payload":{"peer_id":"two""#));
            // The faulty one comes back by itself.
            hub.lines.wait_for(r#""peer_connected","payload":{"peer_id":"one","generation":2"#).await;
            hub.mesh.close();
        })
        .await;
}
