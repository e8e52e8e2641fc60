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
//!     AuthError, AuthErrorKind, AuthLayer, Authenticating, HealthCheck, Identity, Origin, Strategy,
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

mod attempt;
mod authenticating;
#[cfg(feature = "aws-sts")]
pub mod aws_sts;
#[cfg(feature = "token-exchange")]
mod client_credentials;
#[cfg(feature = "token-exchange")]
mod cross_app_access;
mod header_injection;
#[cfg(feature = "token-exchange")]
mod issued;
#[cfg(feature = "token-exchange")]
mod jwt;
#[cfg(feature = "token-exchange")]
mod on_behalf_of;
#[cfg(feature = "token-exchange")]
mod subject;
#[cfg(feature = "token-exchange")]
mod token_exchange;
mod unauthenticated;
mod upstream_inject;

use std::{fmt, sync::Arc};

use http::Request;

use crate::error::AuthError;

pub use attempt::Attempt;
pub use authenticating::Authenticating;
pub(crate) use authenticating::PendingAuthentication;
#[cfg(feature = "aws-sts")]
pub use aws_sts::{AwsSts, AwsStsBuilder, GatheredBody, RoleMapping, SessionCredentials};
#[cfg(feature = "token-exchange")]
pub use client_credentials::{ClientCredentials, ClientCredentialsBuilder};
#[cfg(feature = "token-exchange")]
pub use cross_app_access::{CrossAppAccess, CrossAppAccessBuilder};
pub use header_injection::HeaderInjection;
#[cfg(feature = "token-exchange")]
pub use issued::IssuedToken;
#[cfg(feature = "token-exchange")]
pub use on_behalf_of::{OnBehalfOf, OnBehalfOfBuilder};
#[cfg(feature = "token-exchange")]
pub use subject::{Actor, Subject};
#[cfg(feature = "token-exchange")]
pub use token_exchange::{TokenExchange, TokenExchangeBuilder};
pub use unauthenticated::Unauthenticated;
pub use upstream_inject::UpstreamInject;

/// Puts credentials onto a request, on behalf of the [`Identity`](crate::Identity) in its extensions.
///
/// The request goes in by value and comes out by value, so a strategy that fails leaves no half-authenticated request
/// behind. It is object safe: `Arc<dyn Strategy<B>>` is a `Strategy<B>`.
///
/// # What an implementation keeps to
///
/// - It answers at once ([`Authenticating`] is then ready, and costs no allocation) when the credential is at hand.
/// - It is `Clone`, or goes into an `AuthLayer` in an `Arc`, as one that holds state does.
/// - It replaces a credential header that is there, it never adds a second one.
/// - If it acts for a user, it lets a [`HealthCheck`](crate::HealthCheck) pass without a credential.
/// - It leaves URI and `Host` as they are: they were checked before, and are not again.
/// - It marks header values sensitive, and puts no secret in a URL or an error.
/// - It obtains credentials in a task of its own, so that a caller who gives up does not take those of others along.
pub trait Strategy<B>: Send + Sync {
    /// Authenticates `request`, or says why it cannot be.
    fn authenticate(&self, request: Request<B>) -> Authenticating<B>;

    /// Gives up the credential that `request` was `sent` with, because the backend rejected it. Returns whether
    /// [`authenticate`](Self::authenticate) now finds another.
    ///
    /// If one of this user's was given up after `sent`, what is at hand has replaced it already, and is kept. By default
    /// there is no other.
    fn reject(&self, request: &Request<B>, sent: Attempt) -> bool {
        let _ = (request, sent);
        false
    }

    /// What [spans and metrics](crate::telemetry) call it: one name for all of its kind.
    fn name(&self) -> &'static str {
        "custom"
    }
}

impl<B, T: Strategy<B> + ?Sized> Strategy<B> for Arc<T> {
    fn authenticate(&self, request: Request<B>) -> Authenticating<B> {
        (**self).authenticate(request)
    }

    fn reject(&self, request: &Request<B>, sent: Attempt) -> bool {
        (**self).reject(request, sent)
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }
}

/// Makes a [`Strategy`] of a closure that returns a future.
///
/// ```
/// use http::{HeaderValue, Request};
/// use tower_identity::{AuthLayer, Origin, strategy_fn};
///
/// let tenant = HeaderValue::from_static("blue");
/// let strategy = strategy_fn(move |mut request: Request<String>| {
///     let tenant = tenant.clone();
///     async move {
///         request.headers_mut().insert("x-tenant", tenant);
///         Ok(request)
///     }
/// });
/// let layer = AuthLayer::new(Origin::try_from("https://mcp.example.com")?, strategy);
/// # Ok::<(), tower_identity::InvalidOrigin>(())
/// ```
///
/// One that captures nothing may be an async closure, `async |request| …`; the future of one that captures would borrow
/// from it.
///
/// The future is boxed: one allocation for each request. A [`Strategy`] of your own type can avoid it.
pub fn strategy_fn<F, B, R>(f: F) -> StrategyFn<F>
where
    F: Fn(Request<B>) -> R + Send + Sync,
    R: Future<Output = Result<Request<B>, AuthError>> + Send + 'static,
{
    StrategyFn { f }
}

/// The strategy that [`strategy_fn`] makes.
#[derive(Clone, Copy)]
pub struct StrategyFn<F> {
    f: F,
}

impl<B, F, R> Strategy<B> for StrategyFn<F>
where
    F: Fn(Request<B>) -> R + Send + Sync,
    R: Future<Output = Result<Request<B>, AuthError>> + Send + 'static,
{
    fn authenticate(&self, request: Request<B>) -> Authenticating<B> {
        Authenticating::pending((self.f)(request))
    }
}

impl<F> fmt::Debug for StrategyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrategyFn").finish_non_exhaustive()
    }
}
