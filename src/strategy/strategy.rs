use std::{fmt, sync::Arc};

use http::{Request, request, response};

use crate::error::AuthError;

use super::{authenticating::Authenticating, rejection::Rejection};

/// Puts a credential onto a request, on behalf of the [`Identity`](crate::Identity) in its extensions.
///
/// A strategy changes the request in place. [`AuthLayer`](crate::AuthLayer) owns the request and drops it when the
/// strategy refuses, so no half-authenticated request leaves. The trait is object safe: `Arc<dyn Strategy<B>>` is a
/// `Strategy<B>`. A strategy that needs nothing of the body implements the trait for every `B`.
///
/// ```
/// use http::{HeaderValue, Request};
/// use tower_identity::{
///     AuthError, AuthErrorKind, AuthLayer, Authenticating, HealthCheck, Identity,
///     Origin, Strategy,
/// };
///
/// /// Tells a backend that trusts this gateway who the user is.
/// #[derive(Clone)]
/// struct SubjectHeader;
///
/// impl<B> Strategy<B> for SubjectHeader {
///     fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
///         if request.extensions().get::<HealthCheck>().is_some() {
///             return Authenticating::done();
///         }
///         let Some(identity) = request.extensions().get::<Identity>() else {
///             return AuthError::new(
///                 AuthErrorKind::MissingIdentity,
///                 "the backend needs to know the user",
///             ).into();
///         };
///         let Ok(subject) = HeaderValue::from_str(identity.subject()) else {
///             return AuthError::new(
///                 AuthErrorKind::Rejected,
///                 "the subject is not a valid header value",
///             ).into();
///         };
///         request.headers_mut().insert("x-subject", subject);
///         Authenticating::done()
///     }
/// }
///
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let layer = AuthLayer::new(origin, SubjectHeader);
/// # use tower::Layer;
/// # let _ = layer.layer(tower::service_fn(async |_: Request<()>| Ok::<_, tower::BoxError>(())));
/// # Ok::<(), tower_identity::InvalidOrigin>(())
/// ```
///
/// # Rules for implementations
///
/// - A strategy that has the credential returns [`Authenticating::done`], without an allocation.
/// - It is `Clone`, or goes into an `AuthLayer` in an `Arc`.
/// - It replaces an existing credential header, and never adds a second one. A retried request has its former
///   credential.
/// - If it acts for a user, it lets a [`HealthCheck`](crate::HealthCheck) pass without a credential.
/// - It does not change the URI and `Host`, because they were checked before.
/// - It marks header values sensitive, and puts no secret into a URL or an error.
/// - It makes no proof for a token that is bound to a key. It names the key (`Authenticating::bound_to`, with the feature
///   `dpop`).
/// - It obtains credentials in a separate task, for example with `CredentialCache`, so that a cancelled caller does not
///   cancel the request that others wait for.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a strategy for requests with the body `{B}`",
    label = "it does not authenticate such requests",
    note = "`strategy_fn` makes a strategy of a closure, and `build()` one of a builder",
    note = "`AwsSts` reads the body, so the body must be `Send` and `From<Bytes>`, as `Full<Bytes>` and `axum::body::Body` are"
)]
pub trait Strategy<B>: Send + Sync {
    /// Puts the credential onto `request`, or starts to obtain it.
    ///
    /// If the strategy refuses the request, it may leave it half changed. The request must then be dropped.
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B>;

    /// Says whether `response` rejects the credential that left with `sent`, and what may help.
    ///
    /// `sent` is the request as it left this layer, with its credential and its extensions. A strategy with a cache
    /// compares the credential in `sent` with the cached one. If they are equal, it has the cached one replaced, and
    /// returns [`AnotherCredential`](Rejection::AnotherCredential) only if [`authenticate`](Self::authenticate) does not
    /// put the same credential onto `sent` again. Other requests may use it until it is replaced. If they differ, another
    /// call has replaced the rejected credential, and the replacement stays. `CredentialCache::reject` and
    /// `CredentialCache::replace` do all this.
    ///
    /// [`AuthLayer`](crate::AuthLayer) calls this only after [`retry_rejected`](crate::AuthLayer::retry_rejected), for
    /// a response with a status of 400 to 499. The provided method returns [`Rejection::of`], so the request is not
    /// retried.
    fn rejected(&self, sent: &request::Parts, response: &response::Parts) -> Rejection {
        let _ = sent;
        Rejection::of(response)
    }

    /// Says the same of a response for which [`rejected`](Self::rejected) returned
    /// [`SaidInBody`](Rejection::SaidInBody). `first_bytes` are the first 8 KiB of its body, or all of a shorter one.
    ///
    /// The caller waits until these bytes have arrived, at most 5 s. Then `first_bytes` are those that have arrived.
    /// The limit needs a Tokio runtime with time enabled, and the feature `token-exchange`. The body is passed on
    /// unchanged. The body of an event stream (`text/event-stream`) is not looked at, and of a body in more than 1,024
    /// frames only the first 1,024 are.
    fn rejected_in_body(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection {
        let _ = (sent, first_bytes);
        Rejection::of(response)
    }

    /// Returns the scopes of the credential that left with `sent`, if this strategy obtains a credential with the scopes
    /// of a [`WiderScope`](crate::strategy::WiderScope) in the request's extensions. The default is `None`: the strategy
    /// cannot widen its scope, or does not know it.
    ///
    /// [`AuthLayer`](crate::AuthLayer) asks only after `step_up`, when a backend wants more scope.
    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        let _ = sent;
        None
    }

    /// Returns whether this strategy reads a [`WiderScope`](crate::strategy::WiderScope) in the request's extensions. The
    /// default is `false`.
    ///
    /// [`Both`](crate::strategy::Both) asks: of two credentials, only one may be widened, because a backend that wants
    /// more scope does not say for which.
    fn can_widen_scope(&self) -> bool {
        false
    }

    /// The label for this strategy in [spans and metrics](crate::telemetry).
    ///
    /// It is the same for all strategies of a type. The default is `custom`.
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

    fn rejected_in_body(
        &self,
        sent: &request::Parts,
        response: &response::Parts,
        first_bytes: &[u8],
    ) -> Rejection {
        (**self).rejected_in_body(sent, response, first_bytes)
    }

    fn held_scopes(&self, sent: &request::Parts) -> Option<Vec<String>> {
        (**self).held_scopes(sent)
    }

    fn can_widen_scope(&self) -> bool {
        (**self).can_widen_scope()
    }

    fn name(&self) -> &'static str {
        (**self).name()
    }
}

/// Makes a [`Strategy`] of an async closure that takes the request and gives it back.
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
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let layer = AuthLayer::new(origin, strategy);
/// # Ok::<(), tower_identity::InvalidOrigin>(())
/// ```
///
/// A closure that captures nothing may be written `async |request| …`. The future of one that captures would borrow
/// from the closure, so it needs a clone, as above.
///
/// The closure's future is boxed for each request. A type that implements [`Strategy`] can avoid this.
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
