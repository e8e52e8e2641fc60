use http::{HeaderMap, Method};

use crate::{
    credential::cache::key::CacheScope,
    dpop::DPOP,
    error::{AuthError, AuthErrorKind},
    oauth::{
        dpop::{
            keys::DpopKeys,
            nonce::{Nonces, nonce_of},
            proof::ProofOf,
        },
        http_client::Answer,
        request::TokenRequest,
        response::Members,
    },
};

use super::TokenEndpoint;

/// The keys that the tokens of an endpoint are bound to, and the nonce that it wants.
pub(super) struct Binding {
    keys: DpopKeys,
    nonces: Nonces,
}

impl Binding {
    pub(super) fn new(keys: DpopKeys) -> Self {
        Self {
            keys,
            nonces: Nonces::default(),
        }
    }

    pub(super) fn describe(&self, scope: CacheScope) -> CacheScope {
        self.keys.describe(scope)
    }

    /// Keeps the nonce of an answer for the next proof.
    pub(super) fn learn(&self, answer: &Answer) {
        self.nonces.learn(&answer.headers);
    }

    /// Learns the nonce of an answer. Returns `true` if the request failed for the lack of this nonce (RFC 9449 §8).
    pub(super) fn wants_nonce(&self, answer: &Answer) -> bool {
        self.learn(answer);
        answer.status.is_client_error()
            && nonce_of(&answer.headers).is_some()
            && Members::parse(&answer.body)
                .is_some_and(|members| members.error_code() == Some("use_dpop_nonce"))
    }
}

impl TokenEndpoint {
    /// The keys that its tokens are bound to, if they are.
    pub(crate) fn dpop_keys(&self) -> Option<&DpopKeys> {
        Some(&self.inner.binding.as_ref()?.keys)
    }

    /// Adds the proof that this client has the key (RFC 9449 §5).
    pub(super) async fn add_proof(
        &self,
        request: &TokenRequest,
        headers: &mut HeaderMap,
    ) -> Result<(), AuthError> {
        let Some(binding) = &self.inner.binding else {
            return match request.key() {
                Some(_) => Err(self.error(
                    AuthErrorKind::Configuration,
                    "was asked for a token that is bound to a key, but has no keys; set `dpop`",
                )),
                None => Ok(()),
            };
        };
        let key = match request.key() {
            Some(key) => key.clone(),
            None => binding.keys.key(None)?,
        };
        let nonce = binding.nonces.newest();
        let proof = key.prove(&ProofOf {
            method: &Method::POST,
            origin: &self.inner.origin.to_string(),
            path: self.inner.uri.path(),
            token: None,
            nonce: nonce.as_deref(),
        });
        headers.insert(DPOP, proof.await?);
        Ok(())
    }
}
