use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use crate::{dpop::DPOP, error::AuthError};

pub(super) use key::{Learning, Nonce, PendingProof, Proofs, wants_nonce};

/// The outcome of making the proof of a request.
#[cfg_attr(
    not(feature = "dpop"),
    expect(dead_code, reason = "without keys there are no proofs")
)]
pub(super) enum Proving {
    /// Its token is bound to no key.
    NotNeeded,
    Made(HeaderValue, Nonce),
    Refused(AuthError),
    /// The signer is elsewhere.
    Pending(PendingProof, Nonce),
}

/// Puts the proof onto the request, in place of one that the caller sent.
pub(super) fn put_on(headers: &mut HeaderMap, proof: HeaderValue) {
    headers.insert(DPOP, proof);
}

/// The proof that the caller sent. It was made for the token that the caller sent.
pub(super) struct CallersProof {
    authorization: Option<HeaderValue>,
}

impl CallersProof {
    #[cold]
    pub(super) fn on(headers: &HeaderMap) -> Self {
        Self {
            authorization: headers.get(AUTHORIZATION).cloned(),
        }
    }

    /// Removes the proof, if the request has another token now.
    #[cold]
    pub(super) fn remove_beside_another_token(&self, headers: &mut HeaderMap) {
        if headers.get(AUTHORIZATION) != self.authorization.as_ref() {
            headers.remove(DPOP);
        }
    }
}

#[cfg(feature = "dpop")]
mod key {
    use std::sync::Arc;

    use http::{Request, StatusCode, header::AUTHORIZATION, response};

    use crate::{
        bearer_challenge::BearerChallenge,
        dpop::bound_token,
        oauth::dpop::{
            key::DpopKey,
            nonce::{Nonces, nonce_of},
            proof::{self, ProofOf},
        },
        origin::Origin,
    };

    use super::Proving;

    pub(in super::super) use crate::oauth::dpop::proof::PendingProof;

    /// The nonce that a proof has.
    pub(in super::super) type Nonce = Option<Arc<str>>;

    /// Makes the proofs of requests to one origin, with the nonce that it wants (RFC 9449 §9). A clone shares the nonce.
    #[derive(Clone, Default)]
    pub(in super::super) struct Proofs {
        nonces: Nonces,
    }

    impl Proofs {
        /// Makes the proof for a request whose token is bound to the key (RFC 9449 §7.1).
        pub(in super::super) fn prove<B>(
            &self,
            origin: &Origin,
            key: &DpopKey,
            request: &Request<B>,
        ) -> Proving {
            let authorization = request.headers().get(AUTHORIZATION);
            let Some(token) = authorization.and_then(bound_token) else {
                return Proving::NotNeeded;
            };
            let nonce = self.nonces.newest();
            let proof = key.prove(&ProofOf {
                method: request.method(),
                origin: origin.as_str(),
                path: request.uri().path(),
                token: Some(token),
                nonce: nonce.as_deref(),
            });
            match proof {
                proof::Proving::Pending(proof) => Proving::Pending(proof, nonce),
                proof::Proving::Ready(made) => match made.into_inner() {
                    Ok(proof) => Proving::Made(proof, nonce),
                    Err(error) => Proving::Refused(error),
                },
            }
        }

        pub(in super::super) fn learning(&self, _: &DpopKey) -> Learning {
            self.nonces.clone()
        }
    }

    /// Learns the nonce of the response to a proof.
    pub(in super::super) type Learning = Nonces;

    /// Whether the backend wants another nonce than `sent`, and says nothing else against the request.
    pub(in super::super) fn wants_nonce(sent: &Nonce, response: &response::Parts) -> bool {
        response.status == StatusCode::UNAUTHORIZED
            && nonce_of(&response.headers).is_some_and(|nonce| sent.as_deref() != Some(nonce))
            && BearerChallenge::read_dpop_first(&response.headers)
                .and_then(|challenge| challenge.error)
                .is_none_or(|error| error == "use_dpop_nonce")
    }
}

/// Without the feature `dpop` there are no keys.
#[cfg(not(feature = "dpop"))]
mod key {
    use std::future;

    use http::{HeaderMap, HeaderValue, Request, response};

    use crate::{dpop::BoundKey, error::AuthError, origin::Origin};

    use super::Proving;

    pub(in super::super) type Nonce = BoundKey;

    pub(in super::super) type PendingProof = future::Ready<Result<HeaderValue, AuthError>>;

    #[derive(Clone, Default)]
    pub(in super::super) struct Proofs {}

    impl Proofs {
        pub(in super::super) fn prove<B>(
            &self,
            _: &Origin,
            key: &BoundKey,
            _: &Request<B>,
        ) -> Proving {
            match *key {}
        }

        pub(in super::super) fn learning(&self, key: &BoundKey) -> Learning {
            match *key {}
        }
    }

    pub(in super::super) struct Learning(BoundKey);

    impl Learning {
        pub(in super::super) fn learn(&self, _: &HeaderMap) {
            match self.0 {}
        }
    }

    pub(in super::super) fn wants_nonce(sent: &Nonce, _: &response::Parts) -> bool {
        match *sent {}
    }
}
