//! The gateway itself, from the top: what is made of its file, and the way of a request.

use std::{
    collections::BTreeMap, error::Error, future::IntoFuture, io, pin::pin, sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
    serve::ListenerExt,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, uri::PathAndQuery};
use http_body_util::Full;
use moka::sync::Cache;
use tokio::{net::TcpListener, sync::oneshot, time};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::{FollowRedirect, FollowRedirectLayer};
use tower_identity::{
    AccountLinking, AuthError, AuthErrorKind, BackendAuthConfig, BindSubject, Clock,
    FallbackPolicy, Identity, IdentityLayer, Interaction, Origin, Strategy, TokenValidator,
    TokenValidatorLayer, UpstreamTokenStore, UpstreamTokens,
    client::hyper::{HttpsClient, https_client},
    config::{CrossAppAccessConfig, Resources, TokenExchangeConfig},
    incoming::{BindSubjectService, McpRequest},
    outgoing::{AuthService, IdentityService, RetryRejected, forward_mcp},
    upstream::linking::CodeFlow,
};

use super::{
    config::{Asking, Config},
    pages::{Pages, failure},
};

/// The inputs of a gateway besides its file, which a test can replace.
pub(crate) struct Surroundings {
    pub(crate) environment: fn(&str) -> Option<String>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The store for the tokens of the accounts that users link.
    pub(crate) store: Arc<dyn UpstreamTokenStore>,
}

pub(crate) struct Gateway {
    pages: Option<Pages>,
    backends: BTreeMap<String, Backend>,
    sessions: Cache<SessionKey, Session>,
}

struct Backend {
    validator: TokenValidator,
    url: Uri,
    client: BackendClient,
    credential: Credential,
}

/// The kind of credential that a backend gets. It decides who can help where it is refused.
enum Credential {
    /// The gateway's own, or none.
    Gateway,
    /// One that the caller's login brings.
    Login,
    /// The token of an account that the user links, on this page.
    Linked {
        provider: String,
        url: Option<String>,
    },
}

/// The body of a request, which is sent again where a credential was rejected.
type Message = Full<Bytes>;

/// One for each backend. A redirect is followed, but [`AuthService`] beneath refuses to follow it to another origin.
type BackendClient = FollowRedirect<
    AuthService<HttpsClient<Message>, Arc<dyn Strategy<Message>>, RetryRejected<Message>>,
>;

/// One for each session.
#[derive(Clone)]
struct Session {
    /// Bound to the user who opened it, and with their identity for what the gateway sends by itself.
    service: IdentityService<BindSubjectService<BackendClient>>,
    /// Whether its client can have the user visit a URL.
    shows_urls: bool,
}

/// The name of the backend, and the `Mcp-Session-Id` that it gave.
type SessionKey = (Arc<str>, HeaderValue);

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const MAX_SESSIONS: u64 = 16_384;
const CACHED_TOKENS: usize = 16_384;
/// A message of a client. The answers are streamed.
const MAX_MESSAGE: usize = 4 << 20;
pub(crate) const SESSION_IDLE: Duration = Duration::from_secs(3600);
const GRACE: Duration = Duration::from_secs(10);

impl Gateway {
    pub(crate) fn new(config: &Config, surroundings: Surroundings) -> Result<Self, BoxError> {
        let (environment, clock) = (surroundings.environment, surroundings.clock);
        let token_client = https_client::<Full<Bytes>>()?;

        let resources = Resources::builder(token_client.clone())
            .environment(environment)
            .clock(clock.clone())
            .build()?;
        config.outgoing_auth.check(&resources)?;
        let asking = Asking {
            environment,
            client: &token_client,
            clock: &clock,
        };
        let mut providers = Vec::new();
        for (name, provider) in &config.providers {
            let client = provider.client(&asking);
            let client = client.map_err(|error| format!("provider {name}: {error}"))?;
            providers.push(client.provider(name).optional().build()?);
        }
        let store = surroundings.store;
        let mut upstream = UpstreamTokens::new(store.clone(), providers).clock(clock.clone());
        let url = config.url.trim_end_matches('/');
        let mut pages = None;
        if let Some(accounts) = &config.accounts {
            let issuer = accounts.issuer(&config.issuer, &asking)?;
            let callback = format!("{url}/login/callback");
            let login = CodeFlow::new(issuer, callback, store.clone())?.clock(clock.clone());
            let linking = AccountLinking::builder(format!("{url}/accounts"), upstream)
                .error_page(failure)
                .build()?;
            upstream = linking.upstream_tokens();
            let names = config.providers.keys().cloned().collect();
            pages = Some(Pages::new(url, login, linking, names, store, clock.clone()));
        }

        let client = https_client::<Message>()?;
        let mut backends = BTreeMap::new();
        for (name, backend) in &config.backends {
            if !is_free(name) {
                return Err(format!("no backend can be called `{name}`").into());
            }
            let backend = backend.parse::<Uri>()?;
            let origin = origin_of(&backend)?;
            // Each backend is a resource with its own metadata (RFC 9728 §3.3), and with tokens that are for it alone.
            let resource = format!("{url}/{name}");
            let validator = TokenValidator::builder(&config.issuer, token_client.clone())
                .audience(&resource)
                .resource(&resource)
                .scopes(config.scopes.iter().cloned())
                .cache_tokens(CACHED_TOKENS)
                .upstream_tokens(upstream.clone())
                // Where a link has ended, the backends that do not need it go on.
                .admit_without_upstream_login()
                .clock(clock.clone());
            let validator = match &config.audience {
                Some(audience) => validator.audience(audience),
                None => validator,
            };
            let layer = config.outgoing_auth.layer_for(name, origin, &resources)?;
            let auth = &config.outgoing_auth;
            let auth = auth.backends.get(name).or(auth.default.as_ref());
            let backend = Backend {
                validator: validator.build()?,
                credential: auth.map_or(Credential::Gateway, |auth| {
                    Credential::of(auth, pages.as_ref())
                }),
                url: backend,
                client: ServiceBuilder::new()
                    .layer(FollowRedirectLayer::new())
                    .layer(layer.retry_rejected())
                    .service(client.clone()),
            };
            backends.insert(name.clone(), backend);
        }
        Ok(Self {
            pages,
            backends,
            sessions: Cache::builder()
                .max_capacity(MAX_SESSIONS)
                .time_to_idle(SESSION_IDLE)
                .build(),
        })
    }

    /// Serves until `stop` is ready. Then it takes no new connections, closes the sessions, which ends their event streams,
    /// and gives what is under way a while to end.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let gateway = Arc::new(self);
        let router = gateway.clone().router();
        let (stopping, stopped) = oneshot::channel();
        let stop = async move {
            stop.await;
            let _ = stopping.send(());
        };
        let listener = listener.tap_io(|tcp| _ = tcp.set_nodelay(true));
        let server = axum::serve(listener, router).with_graceful_shutdown(stop);
        let mut server = pin!(server.into_future());
        let mut closing = pin!(async move {
            let _ = stopped.await;
            gateway.close_sessions().await;
        });
        tokio::select! {
            served = &mut server => {
                closing.await;
                served
            }
            () = &mut closing => time::timeout(GRACE, server).await.unwrap_or(Ok(())),
        }
    }

    fn router(self: Arc<Self>) -> Router {
        let mut router = Router::new().route("/healthz", get("ok"));
        if let Some(pages) = self.pages.clone() {
            router = router.merge(pages.router());
        }
        for (name, backend) in &self.backends {
            let path = format!("/{name}");
            let called = any(answer)
                .layer(TokenValidatorLayer::new(backend.validator.clone()))
                .with_state((self.clone(), Arc::from(&**name)));
            router = router.route(&path, called);
            if let Some(metadata) = backend.validator.resource_metadata() {
                router = router.route_service(metadata.path(), metadata.clone());
            }
        }
        router
    }

    /// Forwards the request of an authenticated caller, in the session that it names or in a new one.
    ///
    /// `shows_urls` is set to what the session's client can do.
    async fn forward(
        &self,
        name: Arc<str>,
        request: http::Request<Message>,
        message: &[u8],
        shows_urls: &mut Option<bool>,
    ) -> Result<Response, BoxError> {
        let Some(backend) = self.backends.get(&*name) else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        let Some(id) = request.headers().get(SESSION_ID) else {
            let session = backend.open(&request, message)?;
            let request = forward_mcp(request, backend.url.clone());
            let response = session.service.clone().oneshot(request).await?;
            if let Some(id) = response.headers().get(SESSION_ID) {
                self.sessions.insert((name, id.clone()), session);
            }
            return backend.relayed(response.map(Body::new));
        };
        let key = (name, id.clone());
        let Some(session) = self.sessions.get(&key) else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        *shows_urls = Some(session.shows_urls);
        let closes = request.method() == Method::DELETE;
        let response = session
            .service
            .oneshot(forward_mcp(request, backend.url.clone()))
            .await?;
        let is_gone = response.status() == StatusCode::NOT_FOUND;
        if is_gone || (closes && response.status().is_success()) {
            self.sessions.invalidate(&key);
        }
        backend.relayed(response.map(Body::new))
    }

    /// Tells the backends that the sessions have ended. These requests carry no identity, so the fallback fills the gap.
    async fn close_sessions(&self) {
        let closing = self.sessions.iter().filter_map(|(key, session)| {
            let (name, id) = &*key;
            let mut request = http::Request::new(Message::default());
            *request.method_mut() = Method::DELETE;
            *request.uri_mut() = self.backends.get(&**name)?.url.clone();
            request.headers_mut().insert(SESSION_ID, id.clone());
            Some(time::timeout(GRACE, session.service.oneshot(request)))
        });
        join_all(closing).await;
        self.sessions.invalidate_all();
    }
}

/// Whether a backend can have this name, as a path that no page has.
fn is_free(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let taken = ["accounts", "healthz", "login", "logout"];
    !name.is_empty() && name.bytes().all(is_plain) && !taken.contains(&name)
}

fn origin_of(url: &Uri) -> Result<Origin, BoxError> {
    let mut parts = url.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    Ok(Origin::try_from(Uri::from_parts(parts)?)?)
}

impl Backend {
    /// A session with the identity of the request that opens it.
    fn open(&self, request: &http::Request<Message>, message: &[u8]) -> Result<Session, AuthError> {
        let Some(identity) = request.extensions().get::<Identity>() else {
            let fault = "a session needs a user, and nobody validated the caller";
            return Err(AuthError::new(AuthErrorKind::MissingIdentity, fault));
        };
        let captured = IdentityLayer::new(identity.clone())
            .fallback(FallbackPolicy::teardown())
            .follow_requests();
        let bound = BindSubject::to(identity.clone());
        Ok(Session {
            service: captured.layer(bound.layer(self.client.clone())),
            shows_urls: McpRequest::read(message).is_some_and(|call| call.shows_urls()),
        })
    }

    /// Tells the caller who can help where a credential was refused.
    fn relayed(&self, response: Response) -> Result<Response, BoxError> {
        if response.status() != StatusCode::UNAUTHORIZED {
            return relayed(response);
        }
        Err(match &self.credential {
            Credential::Login => return relayed(response),
            Credential::Gateway => {
                let fault = "the backend refused a request without a credential of the user; check `outgoingAuth`";
                AuthError::new(AuthErrorKind::Configuration, fault)
            }
            Credential::Linked { provider, url } => {
                let fault = "the backend refused the token of the linked account; have the user link it again";
                AuthError::new(AuthErrorKind::Rejected, fault)
                    .with_provider(provider)
                    .with_interaction(Interaction::link_account(provider, url.as_deref()))
            }
        }
        .into())
    }
}

impl Credential {
    fn of(auth: &BackendAuthConfig, pages: Option<&Pages>) -> Self {
        match auth {
            BackendAuthConfig::Unauthenticated
            | BackendAuthConfig::HeaderInjection(_)
            | BackendAuthConfig::ClientCredentials(_)
            | BackendAuthConfig::ClaimInjection(_)
            | BackendAuthConfig::SignedIdentity(_) => Self::Gateway,
            BackendAuthConfig::UpstreamInject(inject) => Self::linked(&inject.provider_name, pages),
            BackendAuthConfig::TokenExchange(TokenExchangeConfig {
                subject_provider_name: Some(provider),
                ..
            })
            | BackendAuthConfig::CrossAppAccess(CrossAppAccessConfig {
                subject_provider_name: Some(provider),
                ..
            }) => Self::linked(provider, pages),
            BackendAuthConfig::Both(both) => {
                let parts = [&both.first, &both.second].into_iter().flatten();
                let mut parts = parts.map(|part| Self::of(part, pages));
                let of_user = parts.find(|part| !matches!(part, Self::Gateway));
                of_user.unwrap_or(Self::Gateway)
            }
            _ => Self::Login,
        }
    }

    fn linked(provider: &str, pages: Option<&Pages>) -> Self {
        Self::Linked {
            provider: provider.to_owned(),
            url: pages.and_then(|pages| pages.link_url(provider)),
        }
    }
}

/// Answers the caller. An error goes to the log, and the answer shows nothing of it but what the user must do, as MCP says
/// it. `TokenValidatorLayer` adds to a refusal where the caller can log in.
async fn answer(
    State((gateway, backend)): State<(Arc<Gateway>, Arc<str>)>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(message) = to_bytes(body, MAX_MESSAGE).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let request = http::Request::from_parts(head, Message::new(message.clone()));
    let mut shows_urls = None;
    let forwarded = gateway.forward(backend, request, &message, &mut shows_urls);
    forwarded.await.unwrap_or_else(|error| {
        tracing::info!(error = &*error as &dyn Error, "a request failed");
        let Some(error) = AuthError::find_in(&*error) else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        // Only now, because most calls succeed.
        match (McpRequest::read(&message), shows_urls) {
            (Some(call), Some(shows_urls)) => call.in_session(shows_urls).answer(error),
            (Some(call), None) => call.answer(error),
            (None, _) => error.to_response(),
        }
    })
}

/// Turns the backend's response into the answer for the caller. Statements about credentials stay at the gateway.
pub(crate) fn relayed(response: Response) -> Result<Response, BoxError> {
    let (backend, body) = response.into_parts();
    if backend.status == StatusCode::UNAUTHORIZED {
        let fault = "the backend refused the user's credential; have the user log in again";
        return Err(AuthError::new(AuthErrorKind::Rejected, fault).into());
    }
    if backend.status.is_redirection() {
        return Err("the backend redirects a request that cannot be sent again".into());
    }
    let mut response = Response::new(body);
    *response.status_mut() = backend.status;
    copy(&backend.headers, response.headers_mut());
    Ok(response)
}

/// Copies the headers of a response that MCP needs.
fn copy(from: &HeaderMap, to: &mut HeaderMap) {
    let needed = "cache-control content-length content-type retry-after";
    for (name, value) in from {
        if name.as_str().starts_with("mcp-") || needed.split(' ').any(|needed| needed == name) {
            to.append(name.clone(), value.clone());
        }
    }
}
