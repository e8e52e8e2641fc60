use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value};

use crate::{
    error::{AuthError, AuthErrorKind},
    incoming::validator::rejected,
    oauth::SigningAlgorithm,
};

use super::{
    nonces::{Freshness, Nonces},
    proof::{Expected, Proof, sent_in},
    public_url::PublicUrl,
    replay::{Replay, Use},
};

/// Checks proofs as a [`DpopPolicy`](super::DpopPolicy) says.
#[derive(Clone)]
pub(in crate::incoming) struct Verifier {
    pub(super) algorithms: Vec<SigningAlgorithm>,
    pub(super) urls: Arc<[PublicUrl]>,
    pub(super) window: Duration,
    pub(super) is_required: bool,
    pub(super) replay: Replay,
    pub(super) nonces: Option<Nonces>,
}

/// A request with a token under the scheme `DPoP`.
pub(in crate::incoming) struct Presentation<'a> {
    pub(in crate::incoming) method: &'a Method,
    pub(in crate::incoming) path: &'a str,
    pub(in crate::incoming) headers: &'a HeaderMap,
    pub(in crate::incoming) token: &'a str,
}

/// A good proof, and the nonce that the caller should use from now on, if it is another one.
pub(in crate::incoming) struct Verified {
    pub(in crate::incoming) proof: Proof,
    pub(in crate::incoming) next_nonce: Option<HeaderValue>,
}

impl Verifier {
    /// Returns `true` if no other tokens are accepted.
    pub(in crate::incoming) fn is_required(&self) -> bool {
        self.is_required
    }

    /// The names of the accepted algorithms.
    pub(in crate::incoming) fn algorithms(&self) -> Vec<&'static str> {
        let algorithms = self.algorithms.iter();
        algorithms.map(|algorithm| algorithm.name()).collect()
    }

    /// The members of the resource's metadata about it (RFC 9728 §2).
    pub(in crate::incoming) fn metadata(&self) -> Map<String, Value> {
        let members = [
            (
                "dpop_signing_alg_values_supported",
                self.algorithms().into(),
            ),
            ("dpop_bound_access_tokens_required", self.is_required.into()),
        ];
        let members = members.into_iter();
        members
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Checks the proof of a request, except whether it was used before.
    pub(in crate::incoming) fn verify(
        &self,
        presented: &Presentation<'_>,
        now: SystemTime,
    ) -> Result<Verified, AuthError> {
        let proof = sent_in(presented.headers).map_err(bad_proof)?;
        let expected = Expected {
            algorithms: &self.algorithms,
            urls: &self.urls,
            window: self.window,
            method: presented.method,
            path: presented.path,
            token: Some(presented.token),
            now,
        };
        let (proof, nonce) = expected.check(proof).map_err(bad_proof)?;
        Ok(Verified {
            proof,
            next_nonce: self.check_nonce(nonce.as_deref(), now)?,
        })
    }

    /// Notes the use of a proof whose token is good, too.
    pub(in crate::incoming) fn use_once(&self, proof: &Proof, now: SystemTime) -> Use {
        self.replay.note(proof, now, self.window)
    }

    fn check_nonce(
        &self,
        nonce: Option<&str>,
        now: SystemTime,
    ) -> Result<Option<HeaderValue>, AuthError> {
        let Some(nonces) = &self.nonces else {
            return Ok(None);
        };
        match nonce.map(|nonce| nonces.freshness(nonce, now)) {
            Some(Freshness::Fresh) => Ok(None),
            // The request is good, whether or not there is a next one.
            Some(Freshness::Old) => Ok(nonces.issue(now).ok()),
            Some(Freshness::Refused) | None => {
                let error = rejected("the proof needs a nonce of this server that has not expired");
                let error = error.with_code("use_dpop_nonce");
                Err(error.with_dpop_nonce(nonces.issue(now)?))
            }
        }
    }
}

/// The caller reads `description`, which holds nothing of the proof.
#[cold]
pub(super) fn bad_proof(description: &'static str) -> AuthError {
    let error = rejected(description);
    debug_assert_eq!(error.kind(), AuthErrorKind::Rejected);
    error.with_code("invalid_dpop_proof")
}
