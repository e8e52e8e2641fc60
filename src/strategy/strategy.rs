use std::{fmt, sync::Arc};

use http::{Request, request, response};

use crate::error::AuthError;

use super::{authenticating::Authenticating, rejection::Rejection};

/// Puts credentials onto a request, on behalf of the [`Identity`](crate::Identity) in its extensions.
///
/// It changes the request in place. [`AuthLayer`](crate::AuthLayer) owns the request and drops it when the strategy
/// refuses, so no half-authenticated request leaves. It is object safe: `Arc<dyn Strategy<B>>` is a `Strategy<B>`.
///
/// # What an implementation keeps to
///
/// - It answers at once ([`Authenticating::done`], which costs no allocation) when the credential is at hand.
/// - It is `Clone`, or goes into an `AuthLayer` in an `Arc`, as one that holds state does.
/// - It replaces a credential header that is there, it never adds a second one.
/// - If it acts for a user, it lets a [`HealthCheck`](crate::HealthCheck) pass without a credential.
/// - It leaves URI and `Host` as they are: they were checked before, and are not again.
/// - It marks header values sensitive, and puts no secret in a URL or an error.
/// - It obtains credentials in a task of its own, so that a caller who gives up does not take those of others along.
pub trait Strategy<B>: Send + Sync {
    /// Authenticates `request`, or says why it cannot be.
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B>;

    /// Says whether `response` rejects the credential that left with `sent`, and what may help.
    ///
    /// `sent` is the request as it was sent, with its credential and its extensions. A strategy that keeps credentials
    /// drops this one, by value: if another caller had it replaced meanwhile, the replacement stays. It returns
    /// [`AnotherCredential`](Rejection::AnotherCredential) only if the next [`authenticate`](Self::authenticate) does
    /// not send the same credential again.
    ///
    /// [`AuthLayer`](crate::AuthLayer) asks this after [`retry_rejected`](crate::AuthLayer::retry_rejected), for
    /// responses with a status of 400 to 499. By default no other credential helps: [`Rejection::of`].
    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        let _ = sent;
        Rejection::of(response)
    }

    /// What [spans and metrics](crate::telemetry) call it: one name for all of its kind.
    fn name(&self) -> &'static str {
        "custom"
    }
}

impl<B, T: Strategy<B> + ?Sized> Strategy<B> for Arc<T> {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        (**self).authenticate(request)
    }

    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        (**self).rejected(sent, response)
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
    F: Fn(Request<B>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Request<B>, AuthError>> + Send + 'static,
{
    StrategyFn { f: Arc::new(f) }
}

/// The strategy that [`strategy_fn`] makes.
pub struct StrategyFn<F> {
    f: Arc<F>,
}

impl<B, F, R> Strategy<B> for StrategyFn<F>
where
    F: Fn(Request<B>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Request<B>, AuthError>> + Send + 'static,
{
    fn authenticate(&self, _request: &mut Request<B>) -> Authenticating<B> {
        let f = Arc::clone(&self.f);
        Authenticating::pending(move |request| f(request))
    }
}

impl<F> Clone for StrategyFn<F> {
    fn clone(&self) -> Self {
        Self {
            f: Arc::clone(&self.f),
        }
    }
}

impl<F> fmt::Debug for StrategyFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StrategyFn").finish_non_exhaustive()
    }
}
