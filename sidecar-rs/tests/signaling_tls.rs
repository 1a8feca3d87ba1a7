//! A real TLS handshake with a certificate named by `SSL_CERT_FILE`, in a process that also runs the crypto of WebRTC.
//!
//! Two TLS providers in one binary make rustls panic as soon as somebody asks it for the default one. Taking the provider
//! out of `signaling/dial.rs` (`ClientConfig::builder()`) makes this test fail if the dependencies bring in two.

#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy.toml does not count as tests.

use std::sync::Arc;
use std::time::Duration;

use chatixia_sidecar::config::{Args, Config};
use chatixia_sidecar::signaling::{Settings, probe};
use rtc::peer_connection::certificate::RTCCertificate;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("GET /ws ") {
        let key =
            head.lines().find_map(|line| line.to_lowercase().starts_with("sec-websocket-key:").then(|| &line[19..]));
        let accept = derive_accept_key(key.unwrap().trim().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        // Until the client says goodbye.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        return Ok(());
    }
    let body = if head.starts_with("POST /api/token ") {
        r#"{"token":"t.o.k","peer_id":"planner"}"#
    } else {
        r#"{"iceServers":[]}"#
    };
    stream.write_all(format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
    stream.shutdown().await
}

fn config(url: &str) -> Config {
    let url = url.to_owned();
    Config::load(&Args::default(), &move |name| match name {
        "SIGNALING_URL" => Some(url.clone()),
        "API_KEY" => Some("k1".to_owned()),
        _ => None,
    })
    .unwrap()
}

/// The only test of this file, since it sets a variable of the whole process.
#[test]
fn the_registry_is_reached_over_tls_and_an_unknown_certificate_is_refused() {
    let trusted = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, trusted.cert.pem()).unwrap();
    // SAFETY: no other thread of this process reads or writes the environment: nothing has been started yet.
    unsafe { std::env::set_var("SSL_CERT_FILE", &file) };

    // The other user of a TLS crate in this binary.
    let provider = rtc::crypto::default_provider().unwrap();
    let certificate =
        RTCCertificate::generate(provider.crypto(), rtc::crypto::SignatureScheme::EcdsaP256Sha256, Default::default());
    assert!(certificate.is_ok());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (identity, expected) in [(trusted, true), (stranger, false)] {
            let key = PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
            let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![identity.cert.der().clone()], key)
                .unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(server));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let task = tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream).await.ok();
                        }
                    });
                }
            });
            let settings = Settings::new(&config(&format!("wss://localhost:{port}/ws")), "sha-256 AB".to_owned());
            let found = tokio::time::timeout(Duration::from_secs(20), probe(&settings)).await.unwrap();
            if expected {
                let items: Vec<_> = found.iter().map(|(item, result)| (*item, result.is_ok())).collect();
                assert_eq!(items, [("token", true), ("websocket", true), ("ice servers", true)], "{found:?}");
            } else {
                let [("token", Err(why))] = &found[..] else { panic!("{found:?}") };
                assert!(why.contains("certificate"), "{why}");
            }
            task.abort();
        }
    });
}
