use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::AuthError;

use super::{bindings::thumbprint, rejected};

/// The member of `cnf` that binds a token to a certificate (RFC 8705 §3.1).
pub(super) const MEMBER: &str = "x5t#S256";

/// The certificate that a client presented on its connection, as the extension of a request.
///
/// Needs the feature `incoming`.
///
/// A [`TokenValidator`](crate::TokenValidator) compares it with the certificate that a token is bound to (`x5t#S256` in
/// the claim `cnf`, RFC 8705 §3). Make it once per connection, after the TLS handshake, and insert it into the extensions
/// of each request of this connection. It holds only the SHA-256 thumbprint, and a copy costs nothing.
///
/// ```
/// use http::Request;
/// use tower_identity::incoming::ClientCertificate;
///
/// /// `peer_certificates` is what rustls says about the connection.
/// fn hand_over<B>(peer_certificates: &[impl AsRef<[u8]>], request: &mut Request<B>) {
///     if let Some(certificate) = peer_certificates.first() {
///         let certificate = ClientCertificate::from_der(certificate.as_ref());
///         request.extensions_mut().insert(certificate);
///     }
/// }
/// # let mut request = Request::new(());
/// # hand_over(&[b"a certificate"], &mut request);
/// # assert!(request.extensions().get::<ClientCertificate>().is_some());
/// ```
///
/// `examples/mutual_tls.rs` is a whole server.
///
/// # Behind a proxy that ends TLS
///
/// The proxy sends the certificate in a header, for example `Client-Cert` (RFC 9440). Decode it, and make this extension of
/// it. The proxy must remove the header from what clients send, and no client may reach the server around the proxy.
///
/// # Security
///
/// Only the TLS handshake proves that the client has the certificate's key. So make this from nothing that the client can
/// choose without the handshake, such as a header of an untrusted network.
///
/// A token that is bound to a certificate says nothing about who issued the certificate. The settings of the server's TLS
/// decide whether it must be of a certain authority, or may be any (`self_signed_tls_client_auth`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientCertificate {
    thumbprint: [u8; 32],
}

impl ClientCertificate {
    /// Takes the thumbprint of the certificate in DER: the first one of the chain that the client presented.
    pub fn from_der(certificate: &[u8]) -> Self {
        Self {
            thumbprint: Sha256::digest(certificate).into(),
        }
    }

    /// Returns the SHA-256 thumbprint in base64url, as `x5t#S256` has it.
    pub fn thumbprint(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.thumbprint)
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientCertificate({})", self.thumbprint())
    }
}

/// The certificate that a token is bound to.
#[derive(Clone, Copy)]
pub(super) struct CertificateBinding(ClientCertificate);

impl CertificateBinding {
    /// Reads the members of `cnf`. A thumbprint that cannot be one is an error, because no certificate fits it.
    pub(super) fn read(confirmation: &Map<String, Value>) -> Result<Option<Self>, AuthError> {
        let thumbprint = thumbprint(confirmation, MEMBER, || {
            rejected(
                "the token is bound to a certificate (`cnf`) by something else than its thumbprint",
            )
        })?;
        Ok(thumbprint.map(|thumbprint| Self(ClientCertificate { thumbprint })))
    }

    /// Compares it with the certificate of the connection that the token came over.
    pub(super) fn check(&self, presented: Option<&ClientCertificate>) -> Result<(), AuthError> {
        match presented {
            Some(presented) if *presented == self.0 => Ok(()),
            Some(_) => Err(rejected(
                "the token is bound to another certificate (`cnf`) than the one that its connection was made with",
            )),
            None => Err(rejected(
                "the token is bound to a certificate (`cnf`), and its connection was made without one",
            )),
        }
    }
}
