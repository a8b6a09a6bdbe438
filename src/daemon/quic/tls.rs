//! TLS with node keys: a self-signed certificate is only the carrier of an ed25519 key.
//!
//! Names and dates of certificates are ignored; what counts is that the handshake proves possession of the key. The
//! dialling side expects one certain key, the accepting side takes any and lets the cluster decide.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use zeroize::Zeroizing;

use crate::model::NodeId;

/// The protocol's name in TLS (RFC 7301).
pub(super) const ALPN: &[u8] = b"peerd/1";

/// An ed25519 private key in PKCS #8 begins so (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The body of an ed25519 public key's SubjectPublicKeyInfo begins so (RFC 8410 §4).
const SPKI_PREFIX: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A node's key as TLS uses it.
pub struct Identity {
    certificate: CertificateDer<'static>,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl Identity {
    /// The carrier certificate of `key`.
    pub fn new(key: &SigningKey) -> Result<Self, rcgen::Error> {
        let pkcs8 = Zeroizing::new([&PKCS8_PREFIX[..], key.as_bytes()].concat());
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(pkcs8.as_slice()),
            &rcgen::PKCS_ED25519,
        )?;
        let certificate = rcgen::CertificateParams::new(vec!["peerd".to_owned()])?.self_signed(&pair)?;
        Ok(Self { certificate: certificate.der().clone(), pkcs8 })
    }

    fn chain(&self) -> (Vec<CertificateDer<'static>>, rustls::pki_types::PrivateKeyDer<'static>) {
        (vec![self.certificate.clone()], PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()).into())
    }

    /// The accepting side: any proven key.
    pub(super) fn server(&self) -> Result<rustls::ServerConfig, Error> {
        let (chain, key) = self.chain();
        let provider = provider();
        let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier { provider, expected: None }))
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Resumption would skip the certificate, and with it the proof that Hello relies on.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// The dialling side: only the node `expected` may answer.
    pub(super) fn client(&self, expected: NodeId) -> Result<rustls::ClientConfig, Error> {
        let (chain, key) = self.chain();
        let provider = provider();
        let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { provider, expected: Some(expected) }))
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The node key that a certificate carries.
pub(super) fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let spki = certificate.subject_public_key_info();
    // webpki hands out the whole SEQUENCE: 2 bytes of tag and length, then algorithm and key.
    let key = spki.as_ref().get(2..)?.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(NodeId)
}

/// Takes any certificate that carries an ed25519 key, or the one of a certain node.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    expected: Option<NodeId>,
}

impl Verifier {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let node = node_of(certificate).ok_or(CertificateError::BadEncoding)?;
        match self.expected {
            Some(expected) if expected != node => Err(CertificateError::ApplicationVerificationFailure.into()),
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }
}

const TLS13_ONLY: &str = "only TLS 1.3 is spoken";

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(TLS13_ONLY.into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(TLS13_ONLY.into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_carries_the_node_key_and_nothing_else_counts() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let identity = Identity::new(&key).expect("a certificate");
        assert_eq!(node_of(&identity.certificate), Some(NodeId(key.verifying_key().to_bytes())));
    }

    #[test]
    fn a_certificate_without_an_ed25519_key_carries_no_node() {
        let other = rcgen::generate_simple_self_signed(vec!["peerd".to_owned()]).expect("a certificate");
        assert_eq!(node_of(other.cert.der()), None);
        assert_eq!(node_of(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), None);
    }
}
