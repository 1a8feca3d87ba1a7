//! Who we are to the peers.

use std::time::{Duration, SystemTime};

use rtc::crypto;
use rtc::peer_connection::certificate::{CertificateParams, RTCCertificate};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::EngineError;

const VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

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

    /// Reads one from PEM text: an ECDSA P-256 private key (PKCS #8) and its certificate, in either order.
    pub fn from_pem(pem: &str) -> Result<Self, EngineError> {
        let provider = crypto::default_provider()?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| EngineError::Identity(format!("no private key (PKCS #8): {e}")))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| EngineError::Identity(format!("no certificate: {e}")))?;
        // Only bookkeeping of the crate: peers know a certificate by its fingerprint and look at no dates.
        let expires = SystemTime::now() + VALID;
        Self::from_certificate(RTCCertificate::from_pkcs8(
            provider.crypto(),
            crypto::SignatureScheme::EcdsaP256Sha256,
            vec![certificate],
            key.secret_pkcs8_der(),
            expires,
        )?)
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams as Params, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

    use super::Identity;

    fn made(key: &KeyPair) -> (String, String) {
        let certificate =
            Params::new(vec!["x".to_owned()]).expect("a legal name").self_signed(key).expect("signs itself");
        (key.serialize_pem(), certificate.pem())
    }

    /// A key file that other programs write: without this a peer had a new key with every start.
    #[test]
    fn reads_key_and_certificate_in_either_order() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let (key, certificate) = made(&key);
        let one = Identity::from_pem(&format!("{key}{certificate}")).expect("key first");
        let other = Identity::from_pem(&format!("{certificate}\n{key}")).expect("certificate first");
        assert_eq!(one.fingerprint(), other.fingerprint());
        assert!(one.fingerprint().starts_with("sha-256 ") && one.fingerprint().len() == 8 + 32 * 3 - 1);
    }

    #[test]
    fn names_what_is_missing_or_of_another_kind() {
        let (key, certificate) = made(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key"));
        for (pem, why) in [(certificate, "no private key"), (key, "no certificate"), (String::new(), "no private key")]
        {
            let error = Identity::from_pem(&pem).err().expect("refused").to_string();
            assert!(error.contains(why), "{error}");
        }
        let (key, certificate) = made(&KeyPair::generate_for(&PKCS_ED25519).expect("a key"));
        assert!(Identity::from_pem(&format!("{key}{certificate}")).is_err());
    }
}
