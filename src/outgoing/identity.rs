use std::{
    fmt, mem,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
};

use http::{Extensions, Method, Request, request::Parts};
use tower::{Layer, Service};

use crate::{
    identity::Identity, inner_service_accessors::inner_service_accessors, runtime::Mutex, telemetry,
};

/// Inserts a session's identity into requests that carry none.
///
/// By default the layer does so for every request without an identity. [`fallback`](Self::fallback) restricts it, for
/// example to the request that closes the session. The layer cannot fail, adds no future and does not
/// change the inner service's error.
///
/// ```
/// use http::{Method, Request};
/// use tower::{Layer, Service, service_fn};
/// use tower_identity::{FallbackPolicy, Identity, IdentityLayer};
///
/// # futures_util::FutureExt::now_or_never(async {
/// let backend = service_fn(async |request: Request<()>| {
///     let identity = request.extensions().get::<Identity>();
///     let subject = identity.map(|identity| identity.subject().to_owned());
///     Ok::<_, std::convert::Infallible>(subject)
/// });
/// let at_login = Identity::builder("user-1").build()?;
/// let mut client = IdentityLayer::new(at_login)
///     .fallback(FallbackPolicy::teardown())
///     .layer(backend);
///
/// let teardown = Request::delete("https://mcp.example.com/mcp").body(())?;
/// assert_eq!(client.call(teardown).await?.as_deref(), Some("user-1"));
///
/// let call = Request::post("https://mcp.example.com/mcp").body(())?;
/// assert_eq!(client.call(call).await?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap().unwrap();
/// ```
///
/// # Precedence
///
/// 1. The layer never replaces or merges an [`Identity`] that is in the request's extensions.
/// 2. The layer inserts nothing into a request that is marked with [`HealthCheck`], because a probe has no user.
/// 3. Otherwise the layer inserts the session's identity, if there is one and the [`FallbackPolicy`] allows it for this
///    request. It then emits a `tracing` event at debug level.
///
/// # Which policy fits which client
///
/// An MCP client sends some requests on its own: the handshake, the standalone event stream, notifications, answers to
/// requests of the server, and the teardown. The code that handles a user's request cannot attach an identity to these.
///
/// | client | policy |
/// | --- | --- |
/// | opens sessions and acts for one user on each (`rmcp`) | [`always`](FallbackPolicy::always) with [`follow_requests`](Self::follow_requests) |
/// | attaches an identity to every request except the teardown | [`teardown`](FallbackPolicy::teardown) |
/// | attaches an identity to each `POST`, but opens event streams and closes sessions on its own | [`methods`](FallbackPolicy::methods) with `GET` and `DELETE` |
/// | is shared by several users | [`never`](FallbackPolicy::never) |
///
/// Since its revision 2026-07-28 MCP has no handshake, no sessions and no `DELETE`. A client of this revision sends only
/// requests of a user, and reconnects of their event streams. So [`never`](FallbackPolicy::never) fits if each request has
/// its identity, and this layer is then needed for servers of earlier revisions only.
///
/// A gateway that attaches the caller's identity to each request wants [`teardown`](FallbackPolicy::teardown): with
/// [`always`](FallbackPolicy::always), a request whose identity was forgotten goes out with the session's old one.
///
/// # Security
///
/// A layer that follows redirects drops the extensions, including the identity, when a redirect leads to another origin.
/// If it is above this layer, the fallback then inserts the session's identity into a request for a foreign host. An
/// [`AuthLayer`](crate::AuthLayer) beneath this layer refuses such a request. Without one, do not use the identity
/// beneath this layer.
#[derive(Clone, Debug)]
pub struct IdentityLayer {
    session: Session,
}

impl IdentityLayer {
    /// Creates a layer for the session of a user.
    ///
    /// `session` is the identity that opened the session. The policy is [`FallbackPolicy::always`] unless
    /// [`fallback`](Self::fallback) sets another.
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

    /// Creates a layer for a client that only probes.
    ///
    /// The layer marks every request as a [`HealthCheck`], including the handshake and the teardown, and inserts no
    /// identity.
    pub fn health_check() -> Self {
        let mut layer = Self::new(None);
        layer.session.health_check = true;
        layer
    }

    /// Sets which requests may use the session's identity. By default all may ([`FallbackPolicy::always`]).
    #[must_use]
    pub fn fallback(mut self, policy: FallbackPolicy) -> Self {
        self.session.policy = policy;
        self
    }

    /// Makes the fallback use the newest identity that a request of the same user carried.
    ///
    /// Hours into a session the tokens from login have expired, but those of the last request have not. For example, a
    /// teardown or the reconnect of an event stream then goes out with the tokens of the last request.
    ///
    /// An identity is newer if its tokens were [read later](Identity::is_newer_than), so replaying an old request does
    /// not bring its identity back. The layer only follows an identity of the [same user](Identity::is_same_user), that
    /// is, of the same subject and issuer. An identity without an issuer is therefore never followed. Identities are
    /// not merged: a newer one with fewer tokens replaces an older one with more.
    ///
    /// All services that this layer and its clones create share the newest identity, so use one layer for each session.
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

/// The service that [`IdentityLayer`] creates.
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

    #[inline]
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
    #[inline]
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

    #[inline(never)]
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

    #[inline]
    fn follow(&self, seen: &Identity) {
        if let Self::Followed(newest) = self {
            keep_newer(newest, seen);
        }
    }
}

/// Selects the requests that may use the session's identity.
///
/// See [which policy fits which client](IdentityLayer#which-policy-fits-which-client).
///
/// ```
/// use http::Method;
/// use tower_identity::FallbackPolicy;
///
/// let policy = FallbackPolicy::methods([Method::GET, Method::DELETE]);
/// let policy = FallbackPolicy::when(|parts| parts.uri.path() == "/mcp");
/// ```
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
    /// Allows every request that carries no identity.
    pub fn always() -> Self {
        Self { rule: Rule::Always }
    }

    /// Allows no request.
    pub fn never() -> Self {
        Self::methods([])
    }

    /// Allows requests with one of these methods.
    pub fn methods(methods: impl IntoIterator<Item = Method>) -> Self {
        Self {
            rule: Rule::Methods(methods.into_iter().collect()),
        }
    }

    /// Allows only the `DELETE` that closes a session.
    pub fn teardown() -> Self {
        Self::methods([Method::DELETE])
    }

    /// Allows requests for which `predicate` returns `true`.
    ///
    /// The predicate is called only for requests that carry no identity.
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
    /// Returns [`FallbackPolicy::always`].
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

/// Marks a request as a probe that has no user.
///
/// Insert it into the request's extensions. Strategies that act for a user then send the request without a credential,
/// even if it carries an [`Identity`]. Strategies whose credential belongs to no user, for example
/// [`HeaderInjection`](crate::HeaderInjection), send theirs.
///
/// ```
/// use http::Request;
/// use tower_identity::HealthCheck;
///
/// let mut probe = Request::get("https://mcp.example.com/health").body(())?;
/// probe.extensions_mut().insert(HealthCheck);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck;

impl HealthCheck {
    /// Whether the request with these extensions is one. `identity` is the one among them.
    #[inline]
    pub(crate) fn is_marked(extensions: &Extensions, identity: Option<&Identity>) -> bool {
        // Where the identity is alone, no mark is beside it: most requests are spared a look-up.
        let may_be = identity.is_none() || extensions.len() > 1;
        may_be && extensions.get::<Self>().is_some()
    }
}

#[inline(never)]
fn keep_newer(newest: &Mutex<Identity>, seen: &Identity) {
    let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.is_newer_than(&newest) && seen.is_same_user(&newest) {
        *newest = seen.clone();
    }
}

fn swap_parts<B>(request: &mut Request<B>, parts: &mut Parts) {
    mem::swap(request.method_mut(), &mut parts.method);
    mem::swap(request.uri_mut(), &mut parts.uri);
    mem::swap(request.version_mut(), &mut parts.version);
    mem::swap(request.headers_mut(), &mut parts.headers);
    mem::swap(request.extensions_mut(), &mut parts.extensions);
}
