//! [`Reauthenticate`]: a call that was rejected with 401 is sent once more, with a fresh credential.
//!
//! It is a policy for Tower's own [`RetryLayer`], above the [`AuthLayer`](super::AuthLayer) with the same strategy:
//!
//! ```
//! use http::{Request, Response, StatusCode};
//! use tower::{Service, ServiceBuilder, ServiceExt, retry::RetryLayer, service_fn};
//! use tower_identity::{
//!     AuthLayer, Authenticating, IdentityLayer, Origin, Reauthenticate, Strategy,
//!     strategy::Attempt,
//! };
//!
//! # use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
//! /// Sends numbers, and the next one when one was rejected. `TokenExchange` and its like do it with tokens.
//! #[derive(Clone, Default)]
//! struct Numbers(Arc<AtomicU32>);
//!
//! impl<B> Strategy<B> for Numbers {
//!     fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
//!         request.headers_mut().insert("x-number", self.0.load(Ordering::SeqCst).into());
//!         Authenticating::done()
//!     }
//!
//!     fn reject(&self, _request: &Request<B>, _sent: Attempt) -> bool {
//!         self.0.fetch_add(1, Ordering::SeqCst);
//!         true
//!     }
//! }
//!
//! # futures_util::FutureExt::now_or_never(async {
//! let backend = service_fn(async |request: Request<String>| {
//!     let mut response = Response::new(());
//!     if request.headers()["x-number"] == "0" {
//!         *response.status_mut() = StatusCode::UNAUTHORIZED;
//!     }
//!     Ok::<_, tower::BoxError>(response)
//! });
//! let strategy = Numbers::default();
//! let mut client = ServiceBuilder::new()
//!     .layer(IdentityLayer::new(None))
//!     .layer(RetryLayer::new(Reauthenticate::new(strategy.clone())))
//!     .layer(AuthLayer::new(Origin::try_from("https://mcp.example.com")?, strategy))
//!     .service(backend);
//!
//! let request = Request::post("https://mcp.example.com/mcp").body(String::from("{}"))?;
//! let response = client.ready().await?.call(request).await?;
//! assert_eq!(response.status(), StatusCode::OK);
//! # Ok::<(), tower::BoxError>(())
//! # }).unwrap().unwrap();
//! ```
//!
//! # What is retried
//!
//! 1. Only an answer 401. A 403 goes to the caller as it is, with its challenge: another token would not have more scope.
//! 2. Only if the strategy [has another credential](Strategy::reject) to send. One that would send the same again
//!    ([`UpstreamInject`](crate::UpstreamInject), [`HeaderInjection`](crate::HeaderInjection)) is not asked twice.
//! 3. Only if the body can be cloned: [`Reauthenticate::with_body`] is for bodies that cannot always be.
//! 4. Once. A second 401 goes to the caller.
//!
//! When no fresh credential can be had, the caller gets the error that says why.
//!
//! Of many calls that were rejected with the same credential, the first has it replaced, and all go on with the one fresh
//! credential.
//!
//! [`RetryLayer`]: tower::retry::RetryLayer

use std::{fmt, future};

use http::{Request, Response, StatusCode};
use tower::retry::Policy;

use crate::{
    strategy::{attempt::Attempt, strategy::Strategy},
    telemetry,
};

/// Has a request sent again, once, when the backend answered 401 and the strategy has another credential.
///
/// See the [module](self) for when it does.
pub struct Reauthenticate<A, B> {
    strategy: A,
    clone_body: fn(&B) -> Option<B>,
    is_retry: bool,
}

impl<A, B> Reauthenticate<A, B> {
    /// A policy for the strategy of the `AuthLayer` beneath: the same, or a clone that shares its credentials.
    ///
    /// Every request is cloned before it is sent, with its body.
    pub fn new(strategy: A) -> Self
    where
        B: Clone,
    {
        Self::with_body(strategy, |body| Some(body.clone()))
    }

    /// As [`new`](Self::new), for a body that is cloned by `clone_body`. Where that returns `None`, there is no retry.
    ///
    /// ```
    /// # #[cfg(feature = "reqwest")]
    /// # fn policy<A>(strategy: A) -> tower_identity::Reauthenticate<A, reqwest::Body> {
    /// use tower_identity::Reauthenticate;
    ///
    /// // A stream has no bytes at hand, and is not retried.
    /// Reauthenticate::with_body(strategy, |body: &reqwest::Body| {
    ///     body.as_bytes().map(|bytes| bytes.to_vec().into())
    /// })
    /// # }
    /// ```
    pub fn with_body(strategy: A, clone_body: fn(&B) -> Option<B>) -> Self {
        Self {
            strategy,
            clone_body,
            is_retry: false,
        }
    }
}

impl<A, B, R, E> Policy<Request<B>, Response<R>, E> for Reauthenticate<A, B>
where
    A: Strategy<B>,
{
    type Future = future::Ready<()>;

    fn retry(
        &mut self,
        request: &mut Request<B>,
        result: &mut Result<Response<R>, E>,
    ) -> Option<Self::Future> {
        let is_rejected =
            matches!(result, Ok(response) if response.status() == StatusCode::UNAUTHORIZED);
        if self.is_retry || !is_rejected {
            return None;
        }
        let sent = request.extensions_mut().remove::<Attempt>()?;
        if !self.strategy.reject(request, sent) {
            return None;
        }
        tracing::debug!(method = %request.method(), "the credential was rejected: sending the request with a fresh one");
        telemetry::forced_refresh(self.strategy.name());
        self.is_retry = true;
        Some(future::ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        if self.is_retry {
            return None;
        }
        let body = (self.clone_body)(request.body())?;
        let mut clone = Request::new(body);
        *clone.method_mut() = request.method().clone();
        *clone.uri_mut() = request.uri().clone();
        *clone.version_mut() = request.version();
        *clone.headers_mut() = request.headers().clone();
        *clone.extensions_mut() = request.extensions().clone();
        clone.extensions_mut().insert(Attempt::now());
        Some(clone)
    }
}

impl<A: Clone, B> Clone for Reauthenticate<A, B> {
    fn clone(&self) -> Self {
        Self {
            strategy: self.strategy.clone(),
            clone_body: self.clone_body,
            is_retry: self.is_retry,
        }
    }
}

impl<A, B> fmt::Debug for Reauthenticate<A, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reauthenticate")
            .field("is_retry", &self.is_retry)
            .finish_non_exhaustive()
    }
}
