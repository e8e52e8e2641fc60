//! An issuer of tokens on 127.0.0.1: metadata, keys that it rotates, introspection, and outages.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::http_server::{HttpServer, Received, ServerBody, server_body};

pub(crate) use super::key_pair::*;

pub(crate) const AUDIENCE: &str = "https://gateway.example.com";
pub(crate) const OPENID: &str = "/.well-known/openid-configuration";
pub(crate) const OAUTH: &str = "/.well-known/oauth-authorization-server";
pub(crate) const KEYS: &str = "/keys";
pub(crate) const INTROSPECT: &str = "/introspect";

/// A running issuer. It stops when it is dropped.
pub(crate) struct IdentityProvider {
    server: HttpServer,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    keys: Vec<Value>,
    cache_control: Option<&'static str>,
    is_down: bool,
    scripted: HashMap<String, (StatusCode, Bytes)>,
    gate: Option<Arc<Semaphore>>,
    introspected: HashMap<String, Value>,
}

impl IdentityProvider {
    /// Starts an issuer with OIDC metadata that publishes this key.
    pub(crate) async fn start(key: KeyPair) -> Self {
        let state = Arc::new(Mutex::new(State {
            keys: vec![key.public()],
            ..State::default()
        }));
        let server = HttpServer::start({
            let state = state.clone();
            move |request| answer(state.clone(), request)
        })
        .await;
        Self { server, state }
    }

    /// Its identifier, which is its URL.
    pub(crate) fn issuer(&self) -> String {
        self.server.uri("")
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        self.server.uri(path)
    }

    /// Publishes these keys instead of those before.
    pub(crate) fn publish(&self, keys: impl IntoIterator<Item = Value>) -> &Self {
        self.state().keys = keys.into_iter().collect();
        self
    }

    /// Says for how long its keys may be kept.
    pub(crate) fn cache_control(&self, value: &'static str) -> &Self {
        self.state().cache_control = Some(value);
        self
    }

    /// Answers 503 to everything, or no longer does.
    pub(crate) fn is_down(&self, is_down: bool) -> &Self {
        self.state().is_down = is_down;
        self
    }

    /// Answers this at a path, whatever it is.
    pub(crate) fn script(&self, path: &str, status: u16, body: impl Into<Bytes>) -> &Self {
        let answer = (StatusCode::from_u16(status).unwrap(), body.into());
        self.state().scripted.insert(path.to_owned(), answer);
        self
    }

    /// Lets each answer wait for a permit from now on.
    pub(crate) fn hold(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.state().gate = Some(gate.clone());
        gate
    }

    /// Says this of an opaque token.
    pub(crate) fn introspects(&self, token: &str, answer: Value) -> &Self {
        self.state().introspected.insert(token.to_owned(), answer);
        self
    }

    /// How often its keys were fetched.
    pub(crate) fn key_fetches(&self) -> usize {
        self.fetches(KEYS)
    }

    pub(crate) fn fetches(&self, path: &str) -> usize {
        let requests = self.requests();
        let at = |request: &&Received| request.uri.path() == path;
        requests.iter().filter(at).count()
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.server.requests()
    }

    /// The claims of a good token for `subject`, at `now`.
    pub(crate) fn claims(&self, subject: &str, now: SystemTime) -> Value {
        let now = now.duration_since(UNIX_EPOCH).unwrap().as_secs();
        json!({
            "iss": self.issuer(),
            "aud": AUDIENCE,
            "sub": subject,
            "iat": now,
            "exp": now + 600,
        })
    }

    /// A good token for `subject`, signed with `key`.
    pub(crate) fn token(&self, key: KeyPair, subject: &str, now: SystemTime) -> String {
        key.sign(&key.header(), &self.claims(subject, now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Response<ServerBody> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let gate = state.lock().unwrap().gate.clone();
    if let Some(gate) = gate {
        gate.acquire().await.unwrap().forget();
    }
    let state = state.lock().unwrap();
    if state.is_down {
        return json_response(StatusCode::SERVICE_UNAVAILABLE, "{}");
    }
    if let Some((status, body)) = state.scripted.get(head.uri.path()) {
        let mut response = json_response(*status, body.clone());
        if status.is_redirection() {
            let location = HeaderValue::from_static("/elsewhere");
            response.headers_mut().insert(header::LOCATION, location);
        }
        return response;
    }
    let issuer = format!("http://{}", head.headers[header::HOST].to_str().unwrap());
    match head.uri.path() {
        OPENID => {
            let metadata = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}{KEYS}") });
            json_response(StatusCode::OK, metadata.to_string())
        }
        KEYS => {
            let keys = json!({ "keys": state.keys }).to_string();
            let mut response = json_response(StatusCode::OK, keys);
            if let Some(value) = state.cache_control {
                let value = HeaderValue::from_static(value);
                response.headers_mut().insert(header::CACHE_CONTROL, value);
            }
            response
        }
        INTROSPECT => {
            let mut form = form_urlencoded::parse(&body);
            let token = form.find(|(name, _)| name == "token").unwrap().1;
            let said = state.introspected.get(&*token);
            let said = said.cloned().unwrap_or(json!({ "active": false }));
            json_response(StatusCode::OK, said.to_string())
        }
        _ => json_response(StatusCode::NOT_FOUND, "{}"),
    }
}

fn json_response(status: StatusCode, body: impl Into<Bytes>) -> Response<ServerBody> {
    let mut response = Response::new(server_body(Full::new(body.into())));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// A client that follows no redirects.
pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A time in the middle of nowhere: no test depends on today.
pub(crate) fn some_day() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}
