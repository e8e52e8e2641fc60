//! A certificate authority for the TLS of the peers.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use tower_identity::{AuthError, AuthErrorKind};

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{encoded}\n-----END {label}-----\n")
}

/// A CA, and what it issued, as PEM.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) certificate: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "CA");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let certificate = pem("CERTIFICATE", certificate.der());
        let issuer = Issuer::new(parameters, key);
        Self {
            issuer,
            certificate,
        }
    }

    /// A certificate for this name, and its key.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        self.issue_until(name, 4096)
    }

    /// A certificate that ends with the first day of this year, and its key.
    pub(crate) fn issue_until(&self, name: &str, year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.not_after = date_time_ymd(year, 1, 1);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (
            pem("CERTIFICATE", certificate.der()),
            pem("PRIVATE KEY", key.serialized_der()),
        )
    }
}

/// The error of a call that is refused for its TLS.
///
/// A server that misses a certificate says so and hangs up. Its word is lost where the client still sends, and the call
/// fails as with a server that is gone.
pub(crate) async fn tls_refusal(call: impl AsyncFn() -> Result<(), AuthError>) -> AuthError {
    let mut last = None;
    for _ in 0..50 {
        let error = call().await.unwrap_err();
        if error.kind() == AuthErrorKind::Configuration {
            return error;
        }
        last = Some(error);
    }
    panic!("not refused: {last:?}");
}
