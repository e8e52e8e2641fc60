use http::{StatusCode, response::Parts};

use crate::bearer_challenge::BearerChallenge;

/// Says whether a response rejects the credential of its request, and what may help.
///
/// [`Strategy::rejected`](crate::Strategy::rejected) returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The response does not reject the credential.
    NotRejected,
    /// The response rejects the credential, and the strategy has no other to send, or obtained one a short while ago.
    NothingHelps,
    /// The response rejects the credential, and [`authenticate`](crate::Strategy::authenticate) puts another onto the
    /// rejected request, or obtains one.
    AnotherCredential,
    /// The credential is valid, and its scope is not sufficient.
    MoreScope,
    /// The first bytes of the body tell: [`rejected_in_body`](crate::Strategy::rejected_in_body) is asked about them.
    SaidInBody,
}

impl Rejection {
    /// Reads the response as RFC 6750 §3.1 describes it, for a strategy that has no other credential to send.
    ///
    /// | response | result |
    /// | --- | --- |
    /// | 401 | [`NothingHelps`](Self::NothingHelps) |
    /// | 403 with the error `insufficient_scope` in a `Bearer` challenge | [`MoreScope`](Self::MoreScope) |
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
            StatusCode::UNAUTHORIZED => Self::NothingHelps,
            StatusCode::FORBIDDEN if asks_for_scope(response) => Self::MoreScope,
            _ => Self::NotRejected,
        }
    }
}

fn asks_for_scope(response: &Parts) -> bool {
    let challenge = BearerChallenge::read(&response.headers);
    challenge.is_some_and(|challenge| challenge.error.as_deref() == Some("insufficient_scope"))
}
