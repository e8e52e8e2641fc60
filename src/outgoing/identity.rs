//! [`IdentityLayer`]: the request's identity wins; the session's fills the gap.
//!
//! ```
//! use http::{Method, Request};
//! use tower::{Layer, Service, service_fn};
//! use tower_identity::{FallbackPolicy, Identity, IdentityLayer};
//!
//! # futures_util::FutureExt::now_or_never(async {
//! let at_log_in = Identity::builder("user-1").build()?;
//! let backend = service_fn(async |request: Request<()>| {
//!     let identity = request.extensions().get::<Identity>();
//!     Ok::<_, std::convert::Infallible>(identity.map(|identity| identity.subject().to_owned()))
//! });
//! let mut client = IdentityLayer::new(at_log_in).fallback(FallbackPolicy::teardown()).layer(backend);
//!
//! let teardown = Request::delete("https://mcp.example.com/mcp").body(())?;
//! assert_eq!(client.call(teardown).await?.as_deref(), Some("user-1"));
//!
//! let call = Request::post("https://mcp.example.com/mcp").body(())?;
//! assert_eq!(client.call(call).await?, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap().unwrap();
//! ```
//!
//! # Precedence
//!
//! 1. An [`Identity`] in the request's extensions is never replaced or merged, whatever the layer holds.
//! 2. A request marked [`HealthCheck`] has no user: nothing is inserted.
//! 3. Otherwise the session's identity is inserted, if there is one and the [`FallbackPolicy`] allows it for this
//!    request. A `tracing` event at debug level says so.
//!
//! # Which policy fits which client
//!
//! An MCP client makes calls that no user asked for: the handshake, the standalone event stream, notifications,
//! answers to the server's own requests, and the teardown. Nobody attaches an identity to these.
//!
//! | client | policy |
//! | --- | --- |
//! | opens sessions, and speaks for one user on each (`rmcp`) | [`always`](FallbackPolicy::always), and [`follow_requests`](IdentityLayer::follow_requests) |
//! | attaches an identity to each request itself, except when it closes the session | [`teardown`](FallbackPolicy::teardown) |
//! | attaches an identity to each `POST`, but opens event streams and closes sessions by itself | [`methods`](FallbackPolicy::methods) with `GET` and `DELETE` |
//! | is shared by several users | [`never`](FallbackPolicy::never) |
//!
//! # Security
//!
//! A layer that follows redirects to another origin drops the extensions, identity included. If it is above this layer,
//! the fallback then fills the gap for a stranger's host. That does no harm above an
//! [`AuthLayer`](super::AuthLayer), which refuses the request; do not use the identity beneath this layer without one.

use std::{
    fmt, mem,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use http::{Method, Request, request::Parts};
use tower::{Layer, Service};

use crate::{
    identity::Identity, inner_service_accessors::inner_service_accessors, runtime::Mutex, telemetry,
};

/// Inserts a session's identity into the requests that carry none: into all of them, until a
/// [policy](Self::fallback) says otherwise.
///
/// It costs no future, changes no error and cannot fail. See the [module](self) for the rules.
#[derive(Clone, Debug)]
pub struct IdentityLayer {
    session: Session,
}

impl IdentityLayer {
    /// A layer for a session that was opened with this identity, if with any.
    ///
    /// It is used where [`FallbackPolicy::always`] allows, until [`fallback`](Self::fallback) says otherwise.
    pub fn new(session: impl Into<Option<Identity>>) -> Self {
        Self {
            session: Session {
                identity: session
                    .into()
                    .map_or(SessionIdentity::None, SessionIdentity::Captured),
                policy: FallbackPolicy::always(),
                health_check: false,
            },
        }
    }

    /// A layer for a client that only probes: it marks every request as a [`HealthCheck`], its handshake and its
    /// teardown included, and inserts no identity.
    pub fn health_check() -> Self {
        let mut layer = Self::new(None);
        layer.session.health_check = true;
        layer
    }

    /// Sets which requests may use the session's identity.
    #[must_use]
    pub fn fallback(mut self, policy: FallbackPolicy) -> Self {
        self.session.policy = policy;
        self
    }

    /// Lets the fallback follow the newest identity that a request of the same user carried.
    ///
    /// Hours into a session, the identity from log-in has expired; what the last request carried has not. With this, a
    /// teardown or the reconnect of an event stream goes out with that one. Newest is what was
    /// [built last](Identity::is_newer_than), so a replay of an old request does not turn it back. An identity of
    /// another subject or issuer is never followed, and a session that was opened without an identity follows none.
    ///
    /// Identities are not merged: a newer one with fewer tokens replaces one with more. An identity without an issuer
    /// follows nobody, because [who is the same user](Identity::is_same_user) cannot be told.
    ///
    /// All services made by this layer and its clones follow together: use one layer for each session.
    #[must_use]
    pub fn follow_requests(mut self) -> Self {
        if let SessionIdentity::Captured(identity) = self.session.identity {
            self.session.identity = SessionIdentity::Followed(Arc::new(Mutex::new(identity)));
        }
        self
    }
}

impl<S> Layer<S> for IdentityLayer {
    type Service = IdentityService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IdentityService {
            inner,
            session: self.session.clone(),
        }
    }
}

/// The service of [`IdentityLayer`].
#[derive(Clone, Debug)]
pub struct IdentityService<S> {
    inner: S,
    session: Session,
}

inner_service_accessors!(IdentityService);

impl<S, B> Service<Request<B>> for IdentityService<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        self.session.prepare(&mut request);
        self.inner.call(request)
    }
}

#[derive(Clone, Debug)]
struct Session {
    identity: SessionIdentity,
    policy: FallbackPolicy,
    health_check: bool,
}

impl Session {
    fn prepare<B>(&self, request: &mut Request<B>) {
        if let Some(identity) = request.extensions().get::<Identity>() {
            self.identity.follow(identity);
        } else if !self.health_check && request.extensions().get::<HealthCheck>().is_none() {
            self.fill_gap(request);
        }
        if self.health_check {
            request.extensions_mut().insert(HealthCheck);
        }
    }

    fn fill_gap<B>(&self, request: &mut Request<B>) {
        if let Some(identity) = self.identity.newest()
            && self.policy.allows(request)
        {
            tracing::debug!(method = %request.method(), "the request carries no identity: using the session's");
            telemetry::fallback();
            request.extensions_mut().insert(identity);
        }
    }
}

#[derive(Clone, Debug)]
enum SessionIdentity {
    None,
    Captured(Identity),
    Followed(Arc<Mutex<Identity>>),
}

impl SessionIdentity {
    fn newest(&self) -> Option<Identity> {
        match self {
            Self::None => None,
            Self::Captured(identity) => Some(identity.clone()),
            Self::Followed(newest) => Some(
                newest
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            ),
        }
    }

    fn follow(&self, seen: &Identity) {
        if let Self::Followed(newest) = self {
            let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.is_newer_than(&newest) && seen.is_same_user(&newest) {
                *newest = seen.clone();
            }
        }
    }
}

/// For which requests a session's identity may fill the gap.
#[derive(Clone)]
pub struct FallbackPolicy {
    rule: Rule,
}

#[derive(Clone)]
enum Rule {
    Always,
    Methods(Arc<[Method]>),
    When(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

impl FallbackPolicy {
    /// For every request that carries no identity.
    pub fn always() -> Self {
        Self { rule: Rule::Always }
    }

    /// For none.
    pub fn never() -> Self {
        Self::methods([])
    }

    /// For requests with one of these methods.
    pub fn methods(methods: impl IntoIterator<Item = Method>) -> Self {
        Self {
            rule: Rule::Methods(methods.into_iter().collect()),
        }
    }

    /// For the `DELETE` that closes a session, and nothing else.
    pub fn teardown() -> Self {
        Self::methods([Method::DELETE])
    }

    /// For requests for which `predicate` says `true`. It is asked only when there is a gap to fill.
    pub fn when(predicate: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self {
            rule: Rule::When(Arc::new(predicate)),
        }
    }

    fn allows<B>(&self, request: &mut Request<B>) -> bool {
        match &self.rule {
            Rule::Always => true,
            Rule::Methods(methods) => methods.contains(request.method()),
            Rule::When(predicate) => {
                let mut parts = Request::new(()).into_parts().0;
                swap_parts(request, &mut parts);
                let allowed = predicate(&parts);
                swap_parts(request, &mut parts);
                allowed
            }
        }
    }
}

impl Default for FallbackPolicy {
    /// [`FallbackPolicy::always`].
    fn default() -> Self {
        Self::always()
    }
}

impl fmt::Debug for FallbackPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Always => f.write_str("FallbackPolicy::always"),
            Rule::Methods(methods) => f
                .debug_tuple("FallbackPolicy::methods")
                .field(methods)
                .finish(),
            Rule::When(_) => f.write_str("FallbackPolicy::when"),
        }
    }
}

/// Marks a request, in its extensions, as a probe: it has no user.
///
/// Strategies that act for a user let it pass without a credential, even if it carries an [`Identity`]; those that have
/// a credential of their own (a fixed header) use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck;

fn swap_parts<B>(request: &mut Request<B>, parts: &mut Parts) {
    mem::swap(request.method_mut(), &mut parts.method);
    mem::swap(request.uri_mut(), &mut parts.uri);
    mem::swap(request.version_mut(), &mut parts.version);
    mem::swap(request.headers_mut(), &mut parts.headers);
    mem::swap(request.extensions_mut(), &mut parts.extensions);
}
