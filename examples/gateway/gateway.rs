//! The gateway itself, from the top: what its file says, what is made of it, and the way of a request.

use std::{collections::BTreeMap, error::Error, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
    serve::ListenerExt,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, uri::PathAndQuery};
use http_body_util::Full;
use moka::sync::Cache;
use serde::Deserialize;
use tokio::{net::TcpListener, sync::oneshot, time};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::{FollowRedirect, FollowRedirectLayer};
use tower_identity::{
    AccountLinking, AuthError, AuthErrorKind, BindSubject, ClientAuth, Clock, FallbackPolicy,
    Identity, IdentityLayer, Origin, OutgoingAuthConfig, Secret, Strategy, TokenValidator,
    TokenValidatorLayer, UpstreamTokenStore, UpstreamTokens,
    client::hyper::{HttpsClient, https_client},
    config::Resources,
    incoming::BindSubjectService,
    outgoing::{AuthService, forward_mcp},
    upstream::{OAuthProvider, ProviderSettings, linking::CodeFlow},
};

use super::pages::Pages;

/// The content of the YAML file. See `gateway.yaml`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Config {
    issuer: String,
    audience: String,
    /// Pages on which users link accounts. Without them, another application stores their tokens.
    accounts: Option<AccountsConfig>,
    /// Where upstream tokens are kept, for several replicas. By default in this process.
    pub(crate) redis: Option<String>,
    #[serde(default)]
    providers: BTreeMap<String, ProviderConfig>,
    backends: BTreeMap<String, String>,
    outgoing_auth: OutgoingAuthConfig,
}

impl Config {
    pub(crate) fn from_yaml(text: &str) -> Result<Self, serde_saphyr::Error> {
        // Without snippets: an error would quote the lines around it, with secrets.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AccountsConfig {
    /// The gateway's URL, as browsers see it.
    url: String,
    client_id: String,
    client_secret_env: String,
}

/// A provider by its name (`kind`), by its issuer's metadata, or by its two URLs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProviderConfig {
    kind: Option<String>,
    issuer: Option<String>,
    authorization_url: Option<String>,
    token_url: Option<String>,
    client_id: String,
    client_secret_env: String,
    #[serde(default)]
    scopes: Vec<String>,
    resource: Option<String>,
}

impl ProviderConfig {
    fn settings(&self) -> Result<ProviderSettings, BoxError> {
        let urls = self.authorization_url.as_ref().zip(self.token_url.as_ref());
        let settings = match (self.kind.as_deref(), &self.issuer, urls) {
            (Some("github"), None, None) => ProviderSettings::github(),
            (Some("google"), None, None) => ProviderSettings::google(),
            (Some("microsoft"), None, None) => ProviderSettings::microsoft("common"),
            (Some("slack"), None, None) => ProviderSettings::slack(),
            (Some("atlassian"), None, None) => ProviderSettings::atlassian(),
            (Some("linkedin"), None, None) => ProviderSettings::linkedin(),
            (Some("okta"), Some(issuer), None) => ProviderSettings::okta(issuer),
            (None, Some(issuer), None) => ProviderSettings::discovered(issuer),
            (None, None, Some((authorization, token))) => {
                ProviderSettings::new(authorization, token)
            }
            _ => return Err("a provider has a known `kind`, an `issuer`, or both URLs".into()),
        };
        let settings = settings.scopes(self.scopes.iter().cloned());
        Ok(match &self.resource {
            Some(resource) => settings.resource(resource),
            None => settings,
        })
    }
}

/// The inputs of a gateway besides its file, which a test can replace.
pub(crate) struct Surroundings {
    pub(crate) environment: fn(&str) -> Option<String>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The store for the tokens of the accounts that users link.
    pub(crate) store: Arc<dyn UpstreamTokenStore>,
}

pub(crate) struct Gateway {
    validator: TokenValidator,
    pages: Option<Pages>,
    backends: BTreeMap<String, Backend>,
    sessions: Cache<SessionKey, Session>,
}

struct Backend {
    url: Uri,
    client: BackendClient,
}

/// One for each backend. A redirect is followed, but [`AuthService`] beneath refuses to follow it to another origin.
type BackendClient = FollowRedirect<AuthService<HttpsClient<Body>, Arc<dyn Strategy<Body>>>>;

/// One for each session: bound to the user who opened it, and with their identity for what the gateway sends by itself.
type Session = tower_identity::outgoing::IdentityService<BindSubjectService<BackendClient>>;

/// The name of the backend, and the `Mcp-Session-Id` that it gave.
type SessionKey = (String, HeaderValue);

pub(crate) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const MAX_SESSIONS: u64 = 16_384;
const CACHED_TOKENS: usize = 16_384;
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
        let client = https_client::<Body>()?;
        let mut backends = BTreeMap::new();
        for (name, url) in &config.backends {
            let url = url.parse::<Uri>()?;
            let origin = origin_of(&url)?;
            let client = ServiceBuilder::new()
                .layer(FollowRedirectLayer::new())
                .layer(config.outgoing_auth.layer_for(name, origin, &resources)?)
                .service(client.clone());
            backends.insert(name.clone(), Backend { url, client });
        }

        let mut providers = Vec::new();
        for (name, provider) in &config.providers {
            let variable = &provider.client_secret_env;
            let secret = environment(variable).ok_or_else(|| format!("{variable} is not set"))?;
            let secret = Secret::new(secret)?;
            // GitHub reads them of the form.
            let client_auth = match provider.kind.as_deref() {
                Some("github") => ClientAuth::post(&provider.client_id, secret),
                _ => ClientAuth::basic(&provider.client_id, secret),
            };
            let client =
                OAuthProvider::builder(provider.settings()?, client_auth, token_client.clone())
                    .clock(clock.clone())
                    .build()?;
            providers.push(client.provider(name).optional().build()?);
        }
        let store = surroundings.store;
        let mut upstream = UpstreamTokens::new(store.clone(), providers).clock(clock.clone());
        let mut pages = None;
        if let Some(accounts) = &config.accounts {
            let url = accounts.url.trim_end_matches('/');
            let variable = &accounts.client_secret_env;
            let secret = environment(variable).ok_or_else(|| format!("{variable} is not set"))?;
            let client_auth = ClientAuth::basic(&accounts.client_id, Secret::new(secret)?);
            let settings = ProviderSettings::discovered(&config.issuer).scopes(["openid"]);
            let issuer = OAuthProvider::builder(settings, client_auth, token_client.clone())
                .clock(clock.clone())
                .build()?;
            let callback = format!("{url}/login/callback");
            let login = CodeFlow::new(issuer, callback, store.clone())?.clock(clock.clone());
            let linking = AccountLinking::builder(format!("{url}/accounts"), upstream).build()?;
            upstream = linking.upstream_tokens();
            let names = config.providers.keys().cloned().collect();
            pages = Some(Pages::new(url, login, linking, names, store, clock.clone()));
        }
        let validator = TokenValidator::builder(&config.issuer, token_client)
            .audience(&config.audience)
            .resource(&config.audience)
            .cache_tokens(CACHED_TOKENS)
            .upstream_tokens(upstream)
            .clock(clock)
            .build()?;
        Ok(Self {
            validator,
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
        let grace = async move {
            let _ = stopped.await;
            gateway.close_sessions().await;
            time::sleep(GRACE).await;
        };
        tokio::select! {
            served = server => served,
            () = grace => Ok(()),
        }
    }

    fn router(self: Arc<Self>) -> Router {
        let validator = TokenValidatorLayer::new(self.validator.clone());
        let metadata = self.validator.resource_metadata();
        let pages = self.pages.clone();
        let mut router = Router::new()
            .route("/{backend}", any(answer))
            .layer(validator)
            .route("/healthz", get("ok"))
            .with_state(self);
        if let Some(pages) = pages {
            router = router.merge(pages.router());
        }
        match metadata {
            Some(metadata) => router.route_service(metadata.path(), metadata.clone()),
            None => router,
        }
    }

    /// Forwards the request of an authenticated caller, in the session that it names or in a new one.
    async fn forward(&self, name: &str, request: Request) -> Result<Response, BoxError> {
        let Some(backend) = self.backends.get(name) else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        let Some(id) = request.headers().get(SESSION_ID) else {
            let session = backend.open(&request)?;
            let request = forward_mcp(request, backend.url.clone());
            let response = session.clone().oneshot(request).await?;
            if let Some(id) = response.headers().get(SESSION_ID) {
                self.sessions.insert((name.to_owned(), id.clone()), session);
            }
            return relayed(response.map(Body::new));
        };
        let key = (name.to_owned(), id.clone());
        let Some(session) = self.sessions.get(&key) else {
            return Ok(StatusCode::NOT_FOUND.into_response());
        };
        let closes = request.method() == Method::DELETE;
        let response = session
            .oneshot(forward_mcp(request, backend.url.clone()))
            .await?;
        let is_gone = response.status() == StatusCode::NOT_FOUND;
        if is_gone || (closes && response.status().is_success()) {
            self.sessions.invalidate(&key);
        }
        relayed(response.map(Body::new))
    }

    /// Tells the backends that the sessions have ended. These requests are nobody's: the fallback fills the gap.
    async fn close_sessions(&self) {
        let closing = self.sessions.iter().filter_map(|(key, session)| {
            let (name, id) = &*key;
            let mut request = Request::new(Body::empty());
            *request.method_mut() = Method::DELETE;
            *request.uri_mut() = self.backends.get(name)?.url.clone();
            request.headers_mut().insert(SESSION_ID, id.clone());
            Some(time::timeout(GRACE, session.oneshot(request)))
        });
        join_all(closing).await;
        self.sessions.invalidate_all();
    }
}

fn origin_of(url: &Uri) -> Result<Origin, BoxError> {
    let mut parts = url.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    Ok(Origin::try_from(Uri::from_parts(parts)?)?)
}

impl Backend {
    /// A session with the identity of the request that opens it.
    fn open(&self, request: &Request) -> Result<Session, AuthError> {
        let Some(identity) = request.extensions().get::<Identity>() else {
            let fault = "a session needs a user, and nobody validated the caller";
            return Err(AuthError::new(AuthErrorKind::MissingIdentity, fault));
        };
        let captured = IdentityLayer::new(identity.clone())
            .fallback(FallbackPolicy::teardown())
            .follow_requests();
        let bound = BindSubject::to(identity.clone());
        Ok(captured.layer(bound.layer(self.client.clone())))
    }
}

/// Answers the caller. An error goes to the log, and the answer shows nothing of it. `TokenValidatorLayer` adds to a
/// refusal where the caller can log in.
async fn answer(
    State(gateway): State<Arc<Gateway>>,
    Path(backend): Path<String>,
    request: Request,
) -> Response {
    gateway
        .forward(&backend, request)
        .await
        .unwrap_or_else(|error| {
            tracing::info!(error = &*error as &dyn Error, "a request failed");
            match AuthError::find_in(&*error) {
                Some(error) => error.to_response(),
                None => StatusCode::BAD_GATEWAY.into_response(),
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
