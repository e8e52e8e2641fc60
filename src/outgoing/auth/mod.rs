//! [`AuthLayer`]: the origin is checked, then a strategy puts credentials onto the request.
//!
//! ```
//! use http::{Request, Response};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//! use tower_identity::{
//!     AccessToken, AuthLayer, Identity, Origin, UpstreamInject, UpstreamToken,
//! };
//!
//! # futures_util::FutureExt::now_or_never(async {
//! let backend = service_fn(async |request: Request<()>| {
//!     assert_eq!(request.headers()["authorization"], "Bearer gho_16C7e42F292c");
//!     Ok::<_, std::convert::Infallible>(Response::new(()))
//! });
//! let origin = Origin::try_from("https://mcp.example.com")?;
//! let mut client = AuthLayer::new(origin, UpstreamInject::new("github")?).layer(backend);
//!
//! let github = UpstreamToken::new(AccessToken::new("gho_16C7e42F292c")?);
//! let mut request = Request::post("https://mcp.example.com/mcp").body(())?;
//! request.extensions_mut().insert(Identity::builder("user-1").upstream("github", github).build()?);
//! client.ready().await?.call(request).await?;
//! # Ok::<(), tower::BoxError>(())
//! # }).unwrap().unwrap();
//! ```
//!
//! # Security
//!
//! - **A credential has an address.** Scheme, host and port of the request's URI, and its `Host` header if it has one,
//!   must be the layer's [`Origin`]. Otherwise the request fails with [`AuthErrorKind::WrongOrigin`] before the strategy
//!   is asked. So does a request with user info in its URI, and one with a relative URI, unless
//!   [`AuthLayer::client_fixes_origin`] was called.
//! - **All or nothing.** When the strategy fails, the request is dropped: it is not sent without the credential.
//! - What follows redirects belongs above this layer, or nowhere: beneath it, a credential in a header of its own
//!   (`x-api-key`) would travel along. [`FollowRedirect`] above is safe, clients that follow by themselves are not.
//!
//! # Readiness is held
//!
//! While a strategy obtains a credential (a token exchange, say), the inner service that was found ready for this call
//! is kept: a concurrency permit beneath stays taken, and is given back when the request is refused. So a strategy must
//! not send its own requests through the same limited stack, or a limit of one would wait for itself.
//!
//! [`AuthErrorKind::WrongOrigin`]: crate::AuthErrorKind::WrongOrigin
//! [`FollowRedirect`]: https://docs.rs/tower-http/latest/tower_http/follow_redirect/index.html

use std::{
    fmt, future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tower::{BoxError, Layer, Service};

use crate::{
    error::AuthError,
    origin::Origin,
    outgoing::origin_guard::OriginGuard,
    strategy::{authenticating::PendingAuthentication, strategy::Strategy},
    telemetry::{AuthenticationSpan, Requests},
};

/// Puts credentials onto the requests for one [`Origin`], and refuses all others.
///
/// See the [module](self) for what it promises.
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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Err(error) = self.guard.check(&request) {
            let span = AuthenticationSpan::new(self.guard.origin(), || self.strategy.name());
            return self.refuse(span, error);
        }
        let backend = self.guard.origin();
        let strategy = || self.strategy.name();
        let mut span = AuthenticationSpan::new(backend, strategy);
        let entered = span.enter();
        let answer = self.strategy.authenticate(request).into_ready();
        drop(entered);
        match answer {
            Ok(Ok(request)) => {
                span.end(&AUTHENTICATED);
                self.requests.count(backend, strategy, &AUTHENTICATED);
                AuthFuture::sent(self.inner.call(request))
            }
            Ok(Err(error)) => self.refuse(span, error),
            Err(authenticating) => {
                // The clone was not polled ready: it stays behind, and the instance that was takes the request.
                let clone = self.inner.clone();
                let inner = std::mem::replace(&mut self.inner, clone);
                AuthFuture {
                    state: State::Authenticating {
                        authenticating,
                        inner,
                        backend: backend.clone(),
                        strategy: strategy(),
                        span,
                        requests: self.requests.clone(),
                    },
                }
            }
        }
    }
}

impl<S: Clone, A> AuthService<S, A> {
    #[cold]
    fn refuse<B>(&mut self, mut span: AuthenticationSpan, error: AuthError) -> AuthFuture<S, B>
    where
        S: Service<Request<B>>,
        A: Strategy<B>,
    {
        let backend = self.guard.origin();
        let outcome = Err::<(), _>(error.clone());
        span.end(&outcome);
        self.requests
            .count(backend, || self.strategy.name(), &outcome);
        let error = error.with_backend(backend.clone());
        // A call that is not made would keep the readiness, a concurrency permit, say, until the next one.
        self.inner = self.inner.clone();
        AuthFuture::failed(error)
    }
}

/// What is told of a request that leaves: moving it to where it is told from would cost more than telling it.
const AUTHENTICATED: Result<(), AuthError> = Ok(());

impl<S: fmt::Debug, A> fmt::Debug for AuthService<S, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthService")
            .field("inner", &self.inner)
            .field("origin", self.guard.origin())
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// The future of [`AuthService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct AuthFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, S::Future, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, F, B> {
        Authenticating {
            authenticating: PendingAuthentication<B>,
            inner: S,
            backend: Origin,
            strategy: &'static str,
            span: AuthenticationSpan,
            requests: Requests,
        },
        Sent {
            #[pin]
            future: F,
        },
        Failed {
            error: future::Ready<AuthError>,
        },
    }
}

impl<S, B> AuthFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn sent(future: S::Future) -> Self {
        Self {
            state: State::Sent { future },
        }
    }

    fn failed(error: AuthError) -> Self {
        Self {
            state: State::Failed {
                error: future::ready(error),
            },
        }
    }
}

impl<S, B> Future for AuthFuture<S, B>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProjection::Authenticating {
                    authenticating,
                    inner,
                    backend,
                    strategy,
                    span,
                    requests,
                } => {
                    let entered = span.enter();
                    let polled = authenticating.as_mut().poll(cx);
                    drop(entered);
                    let outcome = ready!(polled);
                    span.end(&outcome);
                    requests.count(backend, || strategy, &outcome);
                    match outcome {
                        Ok(request) => State::Sent {
                            future: inner.call(request),
                        },
                        Err(error) => State::Failed {
                            error: future::ready(error.with_backend(backend.clone())),
                        },
                    }
                }
                StateProjection::Sent { future } => return future.poll(cx).map_err(Into::into),
                StateProjection::Failed { error } => {
                    return Pin::new(error).poll(cx).map(|error| Err(error.into()));
                }
            };
            state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for AuthFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFuture").finish_non_exhaustive()
    }
}
