//! The world around the gateway, on loopback: an issuer, MCP servers, and a stranger.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Form, Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{any, get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http_body_util::{BodyExt, Full};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use rmcp::{
    ServerHandler,
    model::{ServerCapabilities, ServerConfig},
    tool, tool_handler, tool_router,
    transport::{
        StreamableHttpService, streamable_http_server::session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tower::BoxError;
use tower_identity::{AccessToken, Clock, Secret, UpstreamToken, upstream::ProviderTokens};

pub(crate) const CLIENT_SECRET: &str = "the-gateways-secret";
pub(crate) const AUDIENCE: &str = "https://gateway.example.com";

const HOUR: Duration = Duration::from_secs(3600);

async fn start(router: Router) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { axum::serve(listener, router).await });
    Ok(address)
}

/// Issues what callers come to the gateway with, refreshes upstream tokens, and exchanges tokens. All but the first live
/// for an hour.
#[derive(Clone)]
pub(crate) struct Issuer {
    pub(crate) address: SocketAddr,
    inner: Arc<IssuerInner>,
}

struct IssuerInner {
    clock: Arc<dyn Clock>,
    key: KeyPair,
    issued: Mutex<Issued>,
}

#[derive(Default)]
struct Issued {
    /// When each access token ends.
    ends: HashMap<String, SystemTime>,
    refresh_token: Option<String>,
    counts: HashMap<String, u32>,
    /// The user and the authorization request of each code.
    codes: HashMap<String, (String, HashMap<String, String>)>,
}

impl Issuer {
    pub(crate) async fn start(clock: Arc<dyn Clock>) -> Result<Self, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let issuer = Self {
            address: listener.local_addr()?,
            inner: Arc::new(IssuerInner {
                clock,
                key: KeyPair::generate_for(&PKCS_ED25519)?,
                issued: Mutex::default(),
            }),
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/keys", get(keys))
            .route("/token", post(token))
            .route("/authorize", get(ask).post(authorize))
            .with_state(issuer.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(issuer)
    }

    /// The token that a user comes to the gateway with. It lives for a day.
    pub(crate) fn callers_token(&self, user: &str) -> Result<String, BoxError> {
        let now = self.inner.clock.now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "iss": self.url(), "sub": user, "aud": AUDIENCE, "iat": now, "exp": now + 24 * 3600,
        });
        self.sign("at+jwt", &claims)
    }

    fn sign(&self, kind: &str, claims: &Value) -> Result<String, BoxError> {
        let header = json!({ "alg": "EdDSA", "kid": "1", "typ": kind });
        let [header, claims] =
            [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signature = self
            .inner
            .key
            .sign(format!("{header}.{claims}").as_bytes())?;
        Ok(format!(
            "{header}.{claims}.{}",
            URL_SAFE_NO_PAD.encode(signature)
        ))
    }

    /// Returns the tokens that GitHub issues when the user logs in.
    #[allow(dead_code, reason = "for the benchmark, which has no browser")]
    pub(crate) fn log_in(&self) -> Result<ProviderTokens, BoxError> {
        let now = self.inner.clock.now();
        let mut issued = lock(&self.inner.issued);
        let access = UpstreamToken::new(AccessToken::new(issued.issue("github", now + HOUR))?)
            .with_expires_at(now + HOUR);
        let tokens = ProviderTokens::new(access, now);
        Ok(tokens.with_refresh_token(Secret::new(issued.rotate())?))
    }

    pub(crate) fn revoke_refresh_token(&self) {
        lock(&self.inner.issued).refresh_token = None;
    }

    /// Whether the token is one of those for `service`, and has not expired.
    fn accepts(&self, token: &str, service: &str) -> bool {
        let ends = lock(&self.inner.issued).ends.get(token).copied();
        token.starts_with(service) && ends.is_some_and(|end| self.inner.clock.now() < end)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn answer(&self, form: &HashMap<String, String>) -> Option<Value> {
        let now = self.inner.clock.now();
        let mut issued = lock(&self.inner.issued);
        match form.get("grant_type")?.as_str() {
            "authorization_code" => {
                let (user, asked) = issued.codes.remove(form.get("code")?)?;
                let challenge = Sha256::digest(form.get("code_verifier")?);
                if URL_SAFE_NO_PAD.encode(challenge) != *asked.get("code_challenge")? {
                    return None;
                }
                let Some(nonce) = asked.get("nonce") else {
                    return Some(json!({
                        "access_token": issued.issue("github", now + HOUR), "token_type": "Bearer", "expires_in": 3600,
                        "refresh_token": issued.rotate(),
                    }));
                };
                let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
                let claims = json!({
                    "iss": self.url(), "sub": user, "aud": asked.get("client_id")?, "nonce": nonce, "iat": now,
                    "exp": now + 600,
                });
                Some(json!({
                    "access_token": issued.next("login"), "token_type": "Bearer", "expires_in": 600,
                    "id_token": self.sign("JWT", &claims).ok()?,
                }))
            }
            "refresh_token" => {
                if issued.refresh_token.as_ref() != form.get("refresh_token") {
                    return None;
                }
                Some(json!({
                    "access_token": issued.issue("github", now + HOUR), "token_type": "Bearer", "expires_in": 3600,
                    "refresh_token": issued.rotate(),
                }))
            }
            _ => Some(json!({
                "access_token": issued.issue(form.get("audience")?, now + HOUR), "token_type": "Bearer",
                "expires_in": 3600, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            })),
        }
    }
}

impl Issued {
    fn issue(&mut self, service: &str, end: SystemTime) -> String {
        let token = self.next(service);
        self.ends.insert(token.clone(), end);
        token
    }

    /// A refresh token is good for one refresh.
    fn rotate(&mut self) -> String {
        let token = self.next("refresh");
        self.refresh_token = Some(token.clone());
        token
    }

    fn next(&mut self, name: &str) -> String {
        let count = self.counts.entry(name.to_owned()).or_default();
        *count += 1;
        format!("{name}-{count}")
    }
}

async fn metadata(State(issuer): State<Issuer>) -> Json<Value> {
    let url = issuer.url();
    Json(json!({
        "issuer": url, "jwks_uri": format!("{url}/keys"), "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
    }))
}

/// The page of the issuer: whoever gives a name is that user, without a password.
async fn ask(Form(asked): Form<HashMap<String, String>>) -> Html<String> {
    let is_login = asked.contains_key("nonce");
    let title = if is_login {
        "Log in"
    } else {
        "Link your account"
    };
    let hidden: String = asked
        .iter()
        .map(|(name, value)| {
            format!(
                r#"<input type="hidden" name="{}" value="{}">"#,
                escaped(name),
                escaped(value)
            )
        })
        .collect();
    Html(format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="color-scheme" content="light dark"></head><body><h1>{title}</h1><p>This is the identity provider of the demo.</p>
<form method="post">{hidden}<p><label>Name <input name="user" value="alice" required></label></p>
<p><button name="answer" value="yes">{title}</button> <button name="answer" value="no">Refuse</button></p></form></body></html>"#
    ))
}

async fn authorize(
    State(issuer): State<Issuer>,
    Form(mut asked): Form<HashMap<String, String>>,
) -> Response {
    let (user, answer) = (asked.remove("user"), asked.remove("answer"));
    let (Some(back), Some(state)) = (asked.get("redirect_uri"), asked.get("state")) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("state", state);
    match (user, answer.as_deref()) {
        (Some(user), Some("yes")) if !user.trim().is_empty() => {
            let mut issued = lock(&issuer.inner.issued);
            let code = format!("{:032x}", fastrand::u128(..));
            query.append_pair("code", &code);
            issued.codes.insert(code, (user, asked.clone()));
        }
        _ => drop(query.append_pair("error", "access_denied")),
    }
    Redirect::to(&format!("{back}?{}", query.finish())).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

async fn keys(State(issuer): State<Issuer>) -> Json<Value> {
    let x = URL_SAFE_NO_PAD.encode(issuer.inner.key.public_key_raw());
    Json(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "1", "use": "sig", "x": x }] }))
}

async fn token(
    State(issuer): State<Issuer>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let client = format!(
        "Basic {}",
        STANDARD.encode(format!("gateway:{CLIENT_SECRET}"))
    );
    let refusal = |status, error| (status, Json(json!({ "error": error }))).into_response();
    if headers
        .get(AUTHORIZATION)
        .is_none_or(|value| *value != client)
    {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    match issuer.answer(&form) {
        Some(answer) => Json(answer).into_response(),
        None => refusal(StatusCode::BAD_REQUEST, "invalid_grant"),
    }
}

/// A real MCP server that accepts the issuer's tokens for its service, and keeps what arrives.
#[derive(Clone)]
pub(crate) struct McpServer {
    service: &'static str,
    issuer: Issuer,
    arrivals: Arrivals,
    /// Where the next tool call is redirected to.
    redirect: Arc<Mutex<Option<String>>>,
    mcp: StreamableHttpService<Tools, LocalSessionManager>,
}

/// The requests that arrived, in order, with their credentials.
pub(crate) type Arrivals = Arc<Mutex<Vec<String>>>;

impl McpServer {
    pub(crate) async fn start(
        service: &'static str,
        issuer: &Issuer,
        arrivals: &Arrivals,
    ) -> Result<(Self, SocketAddr), BoxError> {
        let server = Self {
            service,
            issuer: issuer.clone(),
            arrivals: arrivals.clone(),
            redirect: Arc::default(),
            mcp: StreamableHttpService::new(|| Ok(Tools), Arc::default(), Default::default()),
        };
        let router = Router::new()
            .route("/mcp", any(answer))
            .with_state(server.clone());
        Ok((server, start(router).await?))
    }

    pub(crate) fn redirect_next_call(&self, to: String) {
        *lock(&self.redirect) = Some(to);
    }
}

async fn answer(State(server): State<McpServer>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap_or_default().to_bytes();
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let method = message["method"].as_str().unwrap_or(head.method.as_str());
    let token = head
        .headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = token
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or("nothing");
    // When the client opens its event stream and says that it is initialized is up to the client.
    if !["GET", "notifications/initialized"].contains(&method) {
        lock(&server.arrivals).push(format!("{method} with {token}"));
    }
    if !server.issuer.accepts(token, server.service) {
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")]).into_response();
    }
    if method == "tools/call"
        && let Some(location) = lock(&server.redirect).take()
    {
        return Redirect::to(&location).into_response();
    }
    let request = Request::from_parts(head, Full::new(body));
    server.mcp.handle(request).await.map(Body::new)
}

#[derive(Clone)]
struct Tools;

#[tool_router]
impl Tools {
    #[tool(description = "Answers pong")]
    async fn ping(&self) -> String {
        "pong".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }
}

/// A server that no request should reach. It counts those that do.
pub(crate) async fn stranger() -> Result<(Arc<AtomicUsize>, SocketAddr), BoxError> {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    let router = Router::new().fallback(async move || {
        counting.fetch_add(1, Ordering::SeqCst);
    });
    Ok((count, start(router).await?))
}

pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
