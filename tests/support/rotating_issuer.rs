//! An issuer on 127.0.0.1 that rotates refresh tokens and detects reuse: one that comes twice kills its whole family, as
//! RFC 9700 §4.14.2 has it. It is a resource server too, and knows which access tokens are good.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;
use tokio::sync::Semaphore;
use tower_identity::{
    AccessToken, ClientAuth, Clock, Secret, TokenEndpoint, UpstreamToken,
    upstream::{Provider, ProviderBuilder, ProviderTokens, RefreshTokenGrant},
};

use super::http_server::{HttpServer, ServerBody, server_body};

/// How far a resource server's clock may be off.
const LEEWAY: Duration = Duration::from_secs(1);

pub(crate) struct RotatingIssuer {
    server: HttpServer,
    state: Arc<State>,
}

struct State {
    clock: Arc<dyn Clock>,
    grants: Mutex<Grants>,
    arrived: AtomicUsize,
    is_down: AtomicBool,
    gate: Mutex<Option<Arc<Semaphore>>>,
    delay: Mutex<Duration>,
    served: AtomicUsize,
    troubles: Mutex<Vec<String>>,
}

struct Grants {
    lifetime: Duration,
    id_token_lifetime: Option<Duration>,
    refresh_renews_id_token: bool,
    minted: usize,
    refresh_tokens: HashMap<String, RefreshToken>,
    access_tokens: HashMap<String, (String, SystemTime)>,
    killed: HashSet<String>,
    dead_clients: HashSet<String>,
    presented_again: usize,
}

struct RefreshToken {
    user: String,
    spent_by: Option<String>,
}

struct Issued {
    access_token: String,
    refresh_token: String,
    id_token: Option<String>,
}

impl RotatingIssuer {
    pub(crate) async fn start(clock: Arc<dyn Clock>, lifetime: Duration) -> Self {
        let state = Arc::new(State {
            clock,
            grants: Mutex::new(Grants {
                lifetime,
                id_token_lifetime: None,
                refresh_renews_id_token: true,
                minted: 0,
                refresh_tokens: HashMap::new(),
                access_tokens: HashMap::new(),
                killed: HashSet::new(),
                dead_clients: HashSet::new(),
                presented_again: 0,
            }),
            arrived: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
            gate: Mutex::new(None),
            delay: Mutex::default(),
            served: AtomicUsize::new(0),
            troubles: Mutex::default(),
        });
        let server = HttpServer::start({
            let state = state.clone();
            move |request| answer(state.clone(), request)
        })
        .await;
        Self { server, state }
    }

    /// The URL of its token endpoint.
    pub(crate) fn url(&self) -> String {
        self.server.uri("/token")
    }

    /// It as a provider of that name, for a client of that id.
    pub(crate) fn provider(&self, name: &str, client_id: &str) -> ProviderBuilder {
        provider(name, &self.url(), client_id)
    }

    /// Sets for how long what is issued from now on is good.
    pub(crate) fn set_lifetime(&self, lifetime: Duration) {
        self.grants().lifetime = lifetime;
    }

    /// Issues ID tokens too, good for so long; a refresh renews them or not.
    pub(crate) fn issue_id_tokens(&self, lifetime: Duration, refresh_renews_them: bool) {
        let mut grants = self.grants();
        grants.id_token_lifetime = Some(lifetime);
        grants.refresh_renews_id_token = refresh_renews_them;
    }

    /// What a log-in of the user brings.
    pub(crate) fn log_in(&self, user: &str) -> ProviderTokens {
        let now = self.state.clock.now();
        let mut grants = self.grants();
        grants.killed.remove(user);
        let issued = grants.issue(user, now, true);
        let mut token = UpstreamToken::new(AccessToken::new(issued.access_token).unwrap())
            .with_expires_at(now + grants.lifetime);
        if let Some(id_token) = issued.id_token {
            token = token.with_id_token(Secret::new(id_token).unwrap());
        }
        ProviderTokens::new(token, now)
            .with_refresh_token(Secret::new(issued.refresh_token).unwrap())
    }

    /// Revokes what the user was issued.
    pub(crate) fn revoke(&self, user: &str) {
        self.grants().kill(user);
    }

    /// The user whose access token it is, if it is good now.
    pub(crate) fn user_of(&self, access_token: &str) -> Option<String> {
        self.state.user_of(access_token)
    }

    /// How many refreshes were asked for, whatever the answer.
    pub(crate) fn refreshes(&self) -> usize {
        self.state.arrived.load(SeqCst)
    }

    /// The users who lost all their tokens.
    pub(crate) fn killed(&self) -> HashSet<String> {
        self.grants().killed.clone()
    }

    /// Lets refresh tokens that this client has spent be presented once more: it did not get, or lost, the answer.
    pub(crate) fn forgive(&self, client_id: &str) {
        self.grants().dead_clients.insert(client_id.into());
    }

    /// How many refresh tokens were presented again by leave.
    pub(crate) fn presented_again(&self) -> usize {
        self.grants().presented_again
    }

    /// Answers 503 from now on, or no more; nothing is spent.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.state.is_down.store(is_down, SeqCst);
    }

    /// Takes so long for each answer, after it spent what came.
    pub(crate) fn answer_after(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// The URL of a resource. It takes the user who is meant as its query.
    pub(crate) fn resource_url(&self) -> String {
        self.server.uri("/resource")
    }

    /// How many requests for the resource came with the right user's good token.
    pub(crate) fn served(&self) -> usize {
        self.state.served.load(SeqCst)
    }

    /// What else came to the resource, and what was posted to `/trouble`.
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.state.troubles.lock().unwrap().clone()
    }

    /// The URL that trouble is posted to.
    pub(crate) fn trouble_url(&self) -> String {
        self.server.uri("/trouble")
    }

    /// Spends what comes, and holds each answer back until there is a permit for it.
    pub(crate) fn hold_answers(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.state.gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    /// Answers at once again, except what is held back already.
    pub(crate) fn hold_no_more(&self) {
        *self.state.gate.lock().unwrap() = None;
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.state.grants.lock().unwrap()
    }
}

/// The provider at a token endpoint, for another process.
pub(crate) fn provider(name: &str, url: &str, client_id: &str) -> ProviderBuilder {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let endpoint = TokenEndpoint::builder(url, client)
        .client_auth(ClientAuth::none(client_id))
        .build()
        .unwrap();
    Provider::builder(name, RefreshTokenGrant::new(endpoint))
}

impl State {
    fn user_of(&self, access_token: &str) -> Option<String> {
        let now = self.clock.now();
        let grants = self.grants.lock().unwrap();
        let (user, expires_at) = grants.access_tokens.get(access_token)?;
        (now < *expires_at + LEEWAY).then(|| user.clone())
    }
}

impl Grants {
    fn issue(&mut self, user: &str, now: SystemTime, is_log_in: bool) -> Issued {
        self.minted += 1;
        let number = self.minted;
        let access_token = format!("access-{user}-{number}");
        let refresh_token = format!("refresh-{user}-{number}");
        self.access_tokens
            .insert(access_token.clone(), (user.into(), now + self.lifetime));
        self.refresh_tokens.insert(
            refresh_token.clone(),
            RefreshToken {
                user: user.into(),
                spent_by: None,
            },
        );
        let has_id_token = is_log_in || self.refresh_renews_id_token;
        let id_token = self
            .id_token_lifetime
            .filter(|_| has_id_token)
            .map(|lifetime| {
                let end = (now + lifetime).duration_since(SystemTime::UNIX_EPOCH);
                let claims = json!({ "sub": user, "exp": end.unwrap().as_secs(), "jti": number });
                let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
                format!("e30.{claims}.c2ln")
            });
        Issued {
            access_token,
            refresh_token,
            id_token,
        }
    }

    fn refresh(&mut self, presented: &str, client: &str, now: SystemTime) -> Option<Issued> {
        let token = self.refresh_tokens.get_mut(presented)?;
        let user = token.user.clone();
        if self.killed.contains(&user) {
            return None;
        }
        if let Some(first) = &token.spent_by {
            if !self.dead_clients.contains(first) {
                self.kill(&user);
                return None;
            }
            self.presented_again += 1;
        }
        token.spent_by = Some(client.into());
        Some(self.issue(&user, now, false))
    }

    fn kill(&mut self, user: &str) {
        self.killed.insert(user.into());
        self.access_tokens.retain(|_, (owner, _)| owner != user);
        self.refresh_tokens.retain(|_, token| token.user != user);
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<ServerBody> {
    match request.uri().path() {
        "/token" => {}
        "/trouble" => {
            let trouble = request.into_body().collect().await.unwrap().to_bytes();
            let trouble = String::from_utf8_lossy(&trouble).into_owned();
            state.troubles.lock().unwrap().push(trouble);
            return respond(StatusCode::OK, String::new());
        }
        _ => return serve(&state, &request),
    }
    let form = request.into_body().collect().await.unwrap().to_bytes();
    let form: HashMap<String, String> = form_urlencoded::parse(&form).into_owned().collect();
    assert_eq!(form["grant_type"], "refresh_token");
    if state.is_down.load(SeqCst) {
        state.arrived.fetch_add(1, SeqCst);
        return respond(StatusCode::SERVICE_UNAVAILABLE, "{}".into());
    }
    let (issued, lifetime) = {
        let mut grants = state.grants.lock().unwrap();
        let client = form.get("client_id").map_or("", String::as_str);
        let issued = grants.refresh(&form["refresh_token"], client, state.clock.now());
        (issued, grants.lifetime)
    };
    let gate = state.gate.lock().unwrap().clone();
    state.arrived.fetch_add(1, SeqCst);
    if let Some(gate) = gate {
        gate.acquire().await.unwrap().forget();
    }
    let delay = *state.delay.lock().unwrap();
    tokio::time::sleep(delay).await;
    let Some(issued) = issued else {
        let refusal = json!({ "error": "invalid_grant" });
        return respond(StatusCode::BAD_REQUEST, refusal.to_string());
    };
    let mut answer = json!({
        "token_type": "Bearer",
        "access_token": issued.access_token,
        "refresh_token": issued.refresh_token,
        "expires_in": lifetime.as_secs(),
    });
    if let Some(id_token) = issued.id_token {
        answer["id_token"] = json!(id_token);
    }
    respond(StatusCode::OK, answer.to_string())
}

fn serve(state: &State, request: &Request<Incoming>) -> Response<ServerBody> {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let token = authorization.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let user = token.and_then(|token| state.user_of(token));
    if user.is_some() && user.as_deref() == request.uri().query() {
        state.served.fetch_add(1, SeqCst);
        return respond(StatusCode::OK, String::new());
    }
    let trouble = format!("{} with {token:?}, a token of {user:?}", request.uri());
    state.troubles.lock().unwrap().push(trouble);
    respond(StatusCode::UNAUTHORIZED, String::new())
}

fn respond(status: StatusCode, body: String) -> Response<ServerBody> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(server_body(Full::from(body)))
        .unwrap()
}
