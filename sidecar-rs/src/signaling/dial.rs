//! TCP, and TLS over it, to the registry.
//!
//! The TLS provider is named here and nowhere taken from the process: with two of them linked in, rustls panics when asked
//! to choose.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tracing::debug;

/// Time for one address to answer, TLS included.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A byte stream, encrypted or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

pub(crate) type Stream = Box<dyn Io>;

/// Opens streams. The certificates of the machine (or of `SSL_CERT_FILE`) are read at the first encrypted one, and kept.
#[derive(Default)]
pub(crate) struct Dialer {
    tls: OnceLock<TlsConnector>,
}

impl Dialer {
    /// Connects to where `uri` points. Fails with a sentence in the error; never waits longer than 10 s.
    pub(crate) async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s");
        tokio::time::timeout(DIAL_TIMEOUT, self.dial(uri)).await.map_err(timed_out)?
    }

    async fn dial(&self, uri: &Uri) -> io::Result<Stream> {
        // An address of IPv6 stands in brackets in a URL and without them everywhere else.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let encrypted = matches!(uri.scheme_str(), Some("https" | "wss"));
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let tcp = TcpStream::connect((host, port)).await?;
        // Frames are small and each is waited for.
        tcp.set_nodelay(true)?;
        if !encrypted {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = match self.tls.get() {
            Some(tls) => tls.clone(),
            None => self.tls.get_or_init(|| connector(trusted())).clone(),
        };
        Ok(Box::new(tls.connect(name, tcp).await?))
    }
}

fn trusted() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        debug!(%error, "certificate skipped");
    }
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    debug!(added, ignored, "trusted certificates read");
    roots
}

fn connector(roots: RootCertStore) -> TlsConnector {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has a cipher suite for every default version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
