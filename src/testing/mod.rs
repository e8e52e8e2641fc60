//! For tests of your application only: an issuer and a backend in the test's process, without network or waiting.
//!
//! Needs the feature `testing`.
//!
//! - [`TestIssuer`] is an OpenID provider as a Tower service: it is the HTTP client of a
//!   [`TokenValidator`](crate::TokenValidator), a [`TokenEndpoint`](crate::TokenEndpoint) or an
//!   [`IntrospectionEndpoint`](crate::IntrospectionEndpoint).
//! - [`TestBackend`] is a backend as a Tower service beneath an [`AuthLayer`](crate::AuthLayer), which keeps what it is
//!   sent, and can refuse tokens that are not good.
//! - [`TestNetwork`] is one HTTP client for all of them, and for other services.
//! - [`Answer`] is an answer that a test has prepared, for example a 401 or a connection that breaks.
//! - [`identity()`] is a user in one line.
//! - [`DefaultClock`](crate::DefaultClock) with a [`ManualClock`](crate::ManualClock) moves the time of all of them.
//!
//! [Test your gateway](crate::guide::test_your_gateway) puts them together.
//!
//! ```toml
//! [dev-dependencies]
//! tower-identity = { version = "0.1", features = ["testing"] }
//! ```
//!
//! The feature `full` does not contain `testing`, so that it does not reach a program by accident.
//!
//! # Panics
//!
//! Wrong arguments panic in this module, as the assertions of a test do.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails with a panic"
)]

mod answer;
mod backend;
mod issuer;
mod network;
mod received;

use crate::{AccessToken, Identity, Origin, UpstreamToken};

pub use answer::{Answer, AnswerFuture};
pub use backend::TestBackend;
pub use issuer::{TestIssuer, token::TestToken};
pub use network::{TestNetwork, TestNetworkFuture};
pub use received::ReceivedRequest;

/// Creates an identity of `subject` with an access token for each upstream provider, by the provider's name.
///
/// Needs the feature `testing`.
///
/// The issuer is `https://idp.example.com`. [`TestIssuer::identity`] has the user's own token, too.
///
/// ```
/// use tower_identity::testing::identity;
///
/// let alice = identity("alice", [("github", "gho_16C7e42F292c")]);
/// let github = alice.upstream("github").unwrap();
/// assert_eq!(github.access_token().expose(), "gho_16C7e42F292c");
/// # let nobody_else = identity("bob", []);
/// ```
///
/// # Panics
///
/// If the subject is blank, or a token cannot be sent in a header.
#[track_caller]
pub fn identity<'a>(
    subject: &str,
    upstream: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Identity {
    let mut identity = Identity::builder(subject).issuer("https://idp.example.com");
    for (provider, token) in upstream {
        let token = AccessToken::new(token).expect("a token is visible ASCII");
        identity = identity.upstream(provider, UpstreamToken::new(token));
    }
    identity.build().expect("an identity has a subject")
}

#[track_caller]
fn origin_of(text: &str) -> Origin {
    Origin::try_from(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
