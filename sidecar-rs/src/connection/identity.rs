//! Who we are to the peers.

use rtc::crypto;
use rtc::peer_connection::certificate::{CertificateParams, RTCCertificate};

use super::EngineError;

/// Our key and certificate, one for all connections: a peer is its key.
#[derive(Clone)]
pub struct Identity {
    pub(super) certificate: RTCCertificate,
    fingerprint: String,
}

impl Identity {
    /// Makes a fresh one.
    pub fn generate() -> Result<Self, EngineError> {
        let provider = crypto::default_provider()?;
        let params = CertificateParams::new(vec!["chatixia-sidecar".to_owned()])
            .map_err(|e| EngineError::Identity(e.to_string()))?;
        let scheme = crypto::SignatureScheme::EcdsaP256Sha256;
        Self::from_certificate(RTCCertificate::generate(provider.crypto(), scheme, params)?)
    }

    /// Reads one from PEM text with a private key and its certificate.
    pub fn from_pem(pem: &str) -> Result<Self, EngineError> {
        let provider = crypto::default_provider()?;
        Self::from_certificate(RTCCertificate::from_pem(pem, provider.crypto())?)
    }

    fn from_certificate(certificate: RTCCertificate) -> Result<Self, EngineError> {
        let provider = crypto::default_provider()?;
        let prints = certificate.get_fingerprints(provider.crypto())?;
        let print = prints.first().ok_or_else(|| EngineError::Identity("no certificate".into()))?;
        let fingerprint = format!("{} {}", print.algorithm, print.value.to_ascii_uppercase());
        Ok(Self { certificate, fingerprint })
    }

    /// Gives `sha-256 AB:CD:..`.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}
