use std::{pin::Pin, sync::Arc, time::UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method};

use crate::{
    error::{AuthError, AuthErrorKind},
    ready_or_pending::ReadyOrPending,
};

use super::{key::DpopKey, key_pair::Private};

/// The request that a proof is for.
pub(crate) struct ProofOf<'a> {
    pub(crate) method: &'a Method,
    /// Scheme, host and port, without the default port.
    pub(crate) origin: &'a str,
    pub(crate) path: &'a str,
    /// The access token that the request has, if any.
    pub(crate) token: Option<&'a [u8]>,
    pub(crate) nonce: Option<&'a str>,
}

/// A proof, or the work of a signer that is elsewhere.
pub(crate) type Proving = ReadyOrPending<PendingProof>;

pub(crate) type PendingProof = Pin<Box<dyn Future<Output = Result<HeaderValue, AuthError>> + Send>>;

impl DpopKey {
    /// Makes the proof for one request (RFC 9449 §4.2).
    pub(crate) fn prove(&self, request: &ProofOf<'_>) -> Proving {
        let claims = match self.claims(request) {
            Ok(claims) => claims,
            Err(error) => return Proving::ready(Err(error)),
        };
        let pair = &self.inner().pair;
        let signed = pair.header().len() + 1 + encoded_length(claims.len());
        let length = signed + 1 + encoded_length(pair.signature_length());
        let mut proof = String::with_capacity(length);
        proof.push_str(pair.header());
        proof.push('.');
        URL_SAFE_NO_PAD.encode_string(claims, &mut proof);
        if let Private::Elsewhere(signer) = pair.private() {
            let signer = Arc::clone(signer);
            return Proving::Pending(Box::pin(async move {
                let signature = signer.sign(&proof).await?;
                proof.push('.');
                URL_SAFE_NO_PAD.encode_string(signature, &mut proof);
                header_value(proof)
            }));
        }
        Proving::ready(match pair.private().sign(&mut proof) {
            Some(()) => header_value(proof),
            None => Err(AuthError::new(
                AuthErrorKind::Configuration,
                "a DPoP proof could not be signed with the private key",
            )),
        })
    }

    fn claims(&self, request: &ProofOf<'_>) -> Result<Vec<u8>, AuthError> {
        let inner = self.inner();
        let jti = (inner.random)().map_err(|error| {
            AuthError::new(
                AuthErrorKind::Unavailable,
                "a DPoP proof could not be made, because the random source failed",
            )
            .with_source(error)
        })?;
        let issued_at = inner.clock.now();
        let issued_at = issued_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nonce = request.nonce.map_or(0, str::len);
        let length = 192 + request.origin.len() + request.path.len() + nonce;
        let mut claims = Claims(Vec::with_capacity(length));
        claims.push(b"{\"jti\":\"");
        claims.push_base64(&jti);
        // A method has no character that JSON escapes (RFC 9110 §5.6.2).
        claims.push(b"\",\"htm\":\"");
        claims.push(request.method.as_str().as_bytes());
        claims.push(b"\",\"htu\":\"");
        claims.push_text(request.origin);
        claims.push_text(request.path);
        claims.push(b"\",\"iat\":");
        claims.push_number(issued_at.as_secs());
        if let Some(token) = request.token {
            claims.push(b",\"ath\":\"");
            claims.push_base64(&inner.hash_of(token));
            claims.push(b"\"");
        }
        if let Some(nonce) = request.nonce {
            claims.push(b",\"nonce\":\"");
            claims.push_text(nonce);
            claims.push(b"\"");
        }
        claims.push(b"}");
        Ok(claims.0)
    }
}

/// The claims of a proof as JSON, written without a tree of values.
struct Claims(Vec<u8>);

impl Claims {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends text as the inside of a JSON string. A path of the crate `http` may have a quotation mark.
    fn push_text(&mut self, text: &str) {
        for byte in text.bytes() {
            if matches!(byte, b'"' | b'\\') {
                self.0.push(b'\\');
            }
            self.0.push(byte);
        }
    }

    fn push_base64(&mut self, bytes: &[u8]) {
        let mut encoded = [0; 43];
        let length = URL_SAFE_NO_PAD.encode_slice(bytes, &mut encoded);
        let encoded = length.ok().and_then(|length| encoded.get(..length));
        self.push(encoded.unwrap_or_default());
    }

    fn push_number(&mut self, number: u64) {
        use std::io::Write;

        // Writing into a `Vec` does not fail.
        let _ = write!(self.0, "{number}");
    }
}

/// The length of so many bytes in base64url.
fn encoded_length(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

fn header_value(proof: String) -> Result<HeaderValue, AuthError> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from(proof)).map_err(|error| {
        AuthError::new(
            AuthErrorKind::Configuration,
            "a DPoP proof cannot be sent in its header",
        )
        .with_source(error)
    })?;
    value.set_sensitive(true);
    Ok(value)
}
