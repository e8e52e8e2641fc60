use std::{
    fmt,
    task::{Context, Poll},
};

use http::Request;
use tower::{BoxError, Layer, Service};

use crate::{
    error::AuthError,
    origin::Origin,
    outgoing::origin_guard::OriginGuard,
    strategy::{
        authenticating::{Continuation, State},
        strategy::Strategy,
    },
    telemetry::{AuthenticationSpan, Requests},
};

use super::future::{AuthFuture, Obtaining};

/// Puts credentials onto the requests for one [`Origin`], and refuses all others.
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, Service, ServiceExt, service_fn};
/// use tower_identity::{
///     AccessToken, AuthLayer, Identity, Origin, UpstreamInject, UpstreamToken,
/// };
///
/// # futures_util::FutureExt::now_or_never(async {
/// let backend = service_fn(async |request: Request<()>| {
///     assert_eq!(request.headers()["authorization"], "Bearer gho_16C7e42F292c");
///     Ok::<_, std::convert::Infallible>(Response::new(()))
/// });
/// let origin = Origin::try_from("https://mcp.example.com")?;
/// let mut client = AuthLayer::new(origin, UpstreamInject::new("github")?).layer(backend);
///
/// let github = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?);
/// let mut request = Request::post("https://mcp.example.com/mcp").body(())?;
/// request.extensions_mut().insert(Identity::builder("user-1").upstream("github", github).build()?);
/// client.ready().await?.call(request).await?;
/// # Ok::<(), tower::BoxError>(())
/// # }).unwrap().unwrap();
/// ```
///
/// # Security
///
/// - **A credential has an address.** Scheme, host and port of the request's URI, and its `Host` header if it has one,
///   must be the layer's [`Origin`]. Otherwise the request fails with [`AuthErrorKind::WrongOrigin`] before the strategy
///   is asked. So does a request with user info in its URI, and one with a relative URI, unless
///   [`AuthLayer::client_fixes_origin`] was called.
/// - **All or nothing.** When the strategy fails, the request is dropped: it is not sent without the credential.
/// - What follows redirects belongs above this layer, or nowhere: beneath it, a credential in a header of its own
///   (`x-api-key`) would travel along. [`FollowRedirect`] above is safe, clients that follow by themselves are not.
///
/// # Readiness is held
///
/// While a strategy obtains a credential (a token exchange, say), the inner service that was found ready for this call
/// is kept: a concurrency permit beneath stays taken, and is given back when the request is refused. So a strategy must
/// not send its own requests through the same limited stack, or a limit of one would wait for itself.
///
/// [`AuthErrorKind::WrongOrigin`]: crate::AuthErrorKind::WrongOrigin
/// [`FollowRedirect`]: https://docs.rs/tower-http/latest/tower_http/follow_redirect/index.html
#[derive(Clone)]
pub struct AuthLayer<A> {
    guard: OriginGuard,
    strategy: A,
    requests: Requests,
}

impl<A> AuthLayer<A> {
    /// A layer that has `strategy` authenticate requests for `origin`.
    pub fn new(origin: Origin, strategy: A) -> Self {
        Self {
            guard: OriginGuard::new(origin),
            strategy,
            requests: Requests::default(),
        }
    }

    /// Lets requests with a relative URI pass: the client beneath sends whatever it is given to this layer's origin.
    ///
    /// # Security
    ///
    /// That it does so is not checked, and cannot be.
    #[must_use]
    pub fn client_fixes_origin(mut self) -> Self {
        self.guard = self.guard.client_fixes_origin();
        self
    }
}

impl<S, A: Clone> Layer<S> for AuthLayer<A> {
    type Service = AuthService<S, A>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService {
            inner,
            guard: self.guard.clone(),
            strategy: self.strategy.clone(),
            requests: self.requests.clone(),
        }
    }
}

impl<A> fmt::Debug for AuthLayer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthLayer")
            .field("origin", self.guard.origin())
            .finish_non_exhaustive()
    }
}

/// The service of [`AuthLayer`].
///
/// Its error is [`BoxError`]; [`AuthError::find_in`] tells whether authentication failed, or what is beneath.
#[derive(Clone)]
pub struct AuthService<S, A> {
    inner: S,
    guard: OriginGuard,
    strategy: A,
    requests: Requests,
}

impl<S, A, B> Service<Request<B>> for AuthService<S, A>
where
    S: Service<Request<B>> + Clone,
    S::Error: Into<BoxError>,
    A: Strategy<B>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = AuthFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.authenticate(&mut request) {
            Authentication::Done => AuthFuture::sent(self.inner.call(request)),
            Authentication::Refused(error) => {
                // A call that is not made would keep the readiness until the next one.
                self.inner = self.inner.clone();
                AuthFuture::refused(error)
            }
            Authentication::Pending { obtain, span } => {
                // The clone was not polled ready: it stays behind, and the instance that was takes the request.
                let clone = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, clone);
                AuthFuture::obtaining(Obtaining {
                    request: obtain(request),
                    inner,
                    backend: self.guard.origin().clone(),
                    strategy: self.strategy.name(),
                    span,
                    requests: self.requests.clone(),
                })
            }
        }
    }
}

enum Authentication<B> {
    Done,
    Refused(AuthError),
    Pending {
        obtain: Continuation<B>,
        span: AuthenticationSpan,
    },
}

impl<S, A> AuthService<S, A> {
    fn authenticate<B>(&self, request: &mut Request<B>) -> Authentication<B>
    where
        A: Strategy<B>,
    {
        let backend = self.guard.origin();
        let strategy = || self.strategy.name();
        if let Err(error) = self.guard.check(request) {
            let span = AuthenticationSpan::new(backend, strategy);
            return Authentication::Refused(self.refusal(span, strategy, error));
        }
        let mut span = AuthenticationSpan::new(backend, strategy);
        let entered = span.enter();
        let state = self.strategy.authenticate(request).into_state();
        drop(entered);
        match state {
            State::Done => {
                span.end(&AUTHENTICATED);
                self.requests.count(backend, strategy, &AUTHENTICATED);
                Authentication::Done
            }
            State::Refused(error) => Authentication::Refused(self.refusal(span, strategy, error)),
            State::Pending(obtain) => Authentication::Pending { obtain, span },
        }
    }

    #[cold]
    fn refusal(
        &self,
        mut span: AuthenticationSpan,
        strategy: impl FnOnce() -> &'static str,
        error: AuthError,
    ) -> AuthError {
        let backend = self.guard.origin();
        let outcome = Err::<(), _>(error.clone());
        span.end(&outcome);
        self.requests.count(backend, strategy, &outcome);
        error.with_backend(backend.clone())
    }
}

/// A request that leaves, as it is counted.
const AUTHENTICATED: Result<(), AuthError> = Ok(());

impl<S: fmt::Debug, A> fmt::Debug for AuthService<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService")
            .field("inner", &self.inner)
            .field("origin", self.guard.origin())
            .finish_non_exhaustive()
    }
}
