use http::{StatusCode, response::Parts};
#[cfg(feature = "token-exchange")]
use http::{header::AUTHORIZATION, request};

use crate::bearer_challenge::BearerChallenge;
#[cfg(feature = "token-exchange")]
use crate::dpop::bound_token;

/// A strategy's verdict on a response: whether the backend rejects the credential of the request, and what may help.
///
/// [`Strategy::rejected`](crate::Strategy::rejected) returns it.
/// [`AuthLayer`](crate::AuthLayer#retrying-rejected-credentials) sends the request once more only for
/// [`AnotherCredential`](Self::AnotherCredential). Its documentation has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The response does not reject the credential.
    NotRejected,
    /// The response rejects the credential, and the strategy has no other to send. For example, it obtained one a few
    /// seconds ago.
    NothingHelps,
    /// The response rejects the credential, and [`authenticate`](crate::Strategy::authenticate) puts another onto the
    /// rejected request, or obtains one.
    AnotherCredential,
    /// The credential is valid but lacks a scope.
    MoreScope,
    /// Only the body tells. The layer reads its first bytes and calls
    /// [`rejected_in_body`](crate::Strategy::rejected_in_body).
    SaidInBody,
}

impl Rejection {
    /// Reads the response as RFC 6750 §3.1 and RFC 9449 §7.1 describe it, for a strategy that has no other credential to
    /// send.
    ///
    /// | response | result |
    /// | --- | --- |
    /// | 401 with the error `invalid_dpop_proof` or `use_dpop_nonce` in its challenge, which are about the proof and not about the credential | [`NotRejected`](Self::NotRejected) |
    /// | any other 401 | [`NothingHelps`](Self::NothingHelps) |
    /// | 403 with the error `insufficient_scope` in a `Bearer` or `DPoP` challenge | [`MoreScope`](Self::MoreScope) |
    /// | any other | [`NotRejected`](Self::NotRejected) |
    ///
    /// ```
    /// use http::Response;
    /// use tower_identity::strategy::Rejection;
    ///
    /// let (response, ()) = Response::builder().status(401).body(())?.into_parts();
    /// assert_eq!(Rejection::of(&response), Rejection::NothingHelps);
    /// # Ok::<(), http::Error>(())
    /// ```
    pub fn of(response: &Parts) -> Self {
        match response.status {
            StatusCode::UNAUTHORIZED if says_proof(BearerChallenge::read(&response.headers)) => {
                Self::NotRejected
            }
            StatusCode::UNAUTHORIZED => Self::NothingHelps,
            StatusCode::FORBIDDEN if asks_for_scope(response) => Self::MoreScope,
            _ => Self::NotRejected,
        }
    }
}

/// Whether the response is about the proof of the request alone, so that another credential would not help.
#[cfg(feature = "token-exchange")]
pub(super) fn is_about_proof(sent: &request::Parts, response: &Parts) -> bool {
    let authorization = sent.headers.get(AUTHORIZATION);
    let challenge = match authorization.and_then(bound_token) {
        Some(_) => BearerChallenge::read_dpop_first(&response.headers),
        None => BearerChallenge::read(&response.headers),
    };
    says_proof(challenge)
}

fn says_proof(challenge: Option<BearerChallenge>) -> bool {
    challenge.is_some_and(|challenge| challenge.is_about_proof())
}

fn asks_for_scope(response: &Parts) -> bool {
    let challenge = BearerChallenge::read(&response.headers);
    challenge.is_some_and(|challenge| challenge.error.as_deref() == Some("insufficient_scope"))
}
