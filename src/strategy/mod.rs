//! How an identity becomes credentials: the [`Strategy`] trait, and the strategies.
//!
//! | strategy | what leaves with the request | on a health check |
//! | --- | --- | --- |
//! | [`Unauthenticated`] | what the caller put there | the same |
//! | [`HeaderInjection`] | a fixed header | the same |
//! | [`UpstreamInject`] | the user's own token of an upstream provider, as a bearer | no credential |
//! | `TokenExchange` | a token that was exchanged for one of the user's (RFC 8693) | the client's own token, if it has a secret or a key; else no credential |
//! | `ClientCredentials` | the client's own token (RFC 6749 §4.4) | the same |
//! | `OnBehalfOf` | a token that Microsoft Entra issued for the user's | no credential |
//! | `CrossAppAccess` | a token of the backend's own authorization server, for an assertion by the user's identity provider (ID-JAG) | no credential |
//! | `AwsSts` | a signature (SigV4) as the IAM role that the user's claims choose | no signature |
//!
//! `AwsSts` is there with the feature `aws-sts`, the four before it with `token-exchange`. They keep what was issued in a
//! `CredentialCache`, and can replace what a backend rejected: see `Reauthenticate`.
//!
//! Your own is a [`strategy_fn`], or a type:
//!
//! ```
//! use http::{HeaderValue, Request};
//! use tower_identity::{
//!     AuthError, AuthErrorKind, AuthLayer, Authenticating, HealthCheck, Identity,
//!     Origin, Strategy,
//! };
//!
//! /// Tells a backend that trusts this gateway who the user is.
//! #[derive(Clone)]
//! struct SubjectHeader;
//!
//! impl<B> Strategy<B> for SubjectHeader {
//!     fn authenticate(&self, mut request: Request<B>) -> Authenticating<B> {
//!         if request.extensions().get::<HealthCheck>().is_some() {
//!             return request.into();
//!         }
//!         let Some(identity) = request.extensions().get::<Identity>() else {
//!             return AuthError::new(AuthErrorKind::MissingIdentity, "the backend wants to know the user").into();
//!         };
//!         let Ok(subject) = HeaderValue::from_str(identity.subject()) else {
//!             return AuthError::new(AuthErrorKind::Rejected, "the subject cannot be a header value").into();
//!         };
//!         request.headers_mut().insert("x-subject", subject);
//!         request.into()
//!     }
//! }
//!
//! let layer = AuthLayer::new(Origin::try_from("https://mcp.example.com")?, SubjectHeader);
//! # use tower::Layer;
//! # let _ = layer.layer(tower::service_fn(async |_: Request<()>| Ok::<_, tower::BoxError>(())));
//! # Ok::<(), tower_identity::InvalidOrigin>(())
//! ```

pub(crate) mod attempt;
pub(crate) mod authenticating;
#[cfg(feature = "aws-sts")]
pub(crate) mod aws_sts;
#[cfg(feature = "token-exchange")]
pub(crate) mod client_credentials;
#[cfg(feature = "token-exchange")]
pub(crate) mod cross_app_access;
pub(crate) mod header_injection;
#[cfg(feature = "token-exchange")]
pub(crate) mod issued;
#[cfg(feature = "token-exchange")]
pub(crate) mod on_behalf_of;
pub(crate) mod strategy;
#[cfg(feature = "token-exchange")]
pub(crate) mod subject;
#[cfg(feature = "token-exchange")]
pub(crate) mod token_exchange;
pub(crate) mod unauthenticated;
pub(crate) mod upstream_inject;

pub use attempt::Attempt;
#[cfg(feature = "aws-sts")]
pub use aws_sts::{builder::AwsStsBuilder, credentials::SessionCredentials, payload::GatheredBody};
#[cfg(feature = "token-exchange")]
pub use client_credentials::ClientCredentialsBuilder;
#[cfg(feature = "token-exchange")]
pub use cross_app_access::CrossAppAccessBuilder;
#[cfg(feature = "token-exchange")]
pub use issued::IssuedToken;
#[cfg(feature = "token-exchange")]
pub use on_behalf_of::OnBehalfOfBuilder;
pub use strategy::StrategyFn;
#[cfg(feature = "token-exchange")]
pub use token_exchange::TokenExchangeBuilder;
