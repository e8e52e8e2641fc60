//! npm's oidc-provider as a peer: see `tests/peers/oidc-provider/provider.mjs` for what it can do.

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};
use tower::{BoxError, ServiceExt, util::BoxCloneSyncService};
use tower_identity::{AccessToken, Secret, UpstreamToken, upstream::ProviderTokens};

use super::peers;

pub(crate) const CALLBACK: &str = "http://127.0.0.1/callback";
pub(crate) const VERIFIER: &str = "a-verifier-that-is-at-least-43-characters-long";
const START_LIMIT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;

/// A running provider. It ends when it is dropped.
pub(crate) struct OidcProvider {
    issuer: String,
    /// The URL that stands before the paths of `mtls_endpoint_aliases`.
    alias: Option<String>,
    process: Child,
    client: BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, BoxError>,
}

/// What a log-in brought.
#[derive(Clone, Debug)]
pub(crate) struct LoggedIn {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) id_token: Option<String>,
    pub(crate) expires_in: u64,
}

impl LoggedIn {
    /// As a store keeps them.
    pub(crate) fn tokens(&self, issued_at: SystemTime) -> ProviderTokens {
        let access_token = AccessToken::new(&*self.access_token).unwrap();
        let mut token = UpstreamToken::new(access_token)
            .with_expires_at(issued_at + Duration::from_secs(self.expires_in));
        if let Some(id_token) = &self.id_token {
            token = token.with_id_token(Secret::new(&**id_token).unwrap());
        }
        ProviderTokens::new(token, issued_at)
            .with_refresh_token(Secret::new(&*self.refresh_token).unwrap())
    }
}

impl OidcProvider {
    /// Starts a provider with these options. `None`, loudly, where it is not installed.
    ///
    /// # Panics
    ///
    /// Where it is not installed and `CI` is set.
    pub(crate) async fn start(options: Value) -> Option<Self> {
        let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
        let client = BoxCloneSyncService::new(client.map_err(Into::into));
        Self::start_for(options, client).await
    }

    /// As [`start`](Self::start), over https, for a client that trusts its certificate.
    #[cfg(feature = "hyper")]
    pub(crate) async fn start_tls(
        options: Value,
        client: tower_identity::client::hyper::HttpsClient<Full<Bytes>>,
    ) -> Option<Self> {
        let client = BoxCloneSyncService::new(client.map_err(Into::into));
        Self::start_for(options, client).await
    }

    async fn start_for(
        options: Value,
        client: BoxCloneSyncService<Request<Full<Bytes>>, Response<Incoming>, BoxError>,
    ) -> Option<Self> {
        let mut command = peers::required(peers::OIDC_PROVIDER)?;
        command.arg(options.to_string());
        let mut process = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = timeout(START_LIMIT, lines.next_line()).await;
        let line = line.expect("oidc-provider does not start").unwrap();
        let said: Value = serde_json::from_str(&line.expect("oidc-provider ended")).unwrap();
        Some(Self {
            issuer: said["issuer"].as_str().unwrap().to_owned(),
            process,
            alias: said["alias"].as_str().map(str::to_owned),
            client,
        })
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(crate) fn alias(&self, path: &str) -> String {
        format!("{}{path}", self.alias.as_ref().unwrap())
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    pub(crate) fn token_endpoint(&self) -> String {
        self.uri("/token")
    }

    pub(crate) fn introspection_endpoint(&self) -> String {
        self.uri("/token/introspection")
    }

    /// Signs with new keys from now on, and publishes the old ones too if they are kept.
    pub(crate) async fn rotate_keys(&self, keep: bool) {
        self.control("/control/rotate", json!({ "keep": keep }))
            .await;
    }

    /// Overrides options from now on.
    pub(crate) async fn set(&self, options: Value) {
        self.control("/control/options", options).await;
    }

    /// Revokes all tokens of all users.
    pub(crate) async fn revoke_all(&self) {
        self.control("/control/forget", json!({})).await;
    }

    /// How often this event was seen for this grant.
    pub(crate) async fn count(&self, event: &str, grant: &str) -> usize {
        let events = self.control("/control/events", Value::Null).await;
        let same = |seen: &&Value| seen["event"] == event && seen["grant"] == grant;
        events.as_array().unwrap().iter().filter(same).count()
    }

    /// Each refresh token that was spent, as often as it was: `{ refreshToken, client, by }`.
    pub(crate) async fn spent(&self) -> Vec<Value> {
        let spent = self.control("/control/spent", Value::Null).await;
        spent.as_array().unwrap().clone()
    }

    /// Follows an authorization request as the browser of a user who agrees, up to the redirect away from the provider.
    pub(crate) async fn browse(&self, authorization: &str) -> String {
        let mut cookies = BTreeMap::new();
        let mut location = authorization.to_owned();
        for _ in 0..MAX_REDIRECTS {
            if location.starts_with('/') {
                location = self.uri(&location);
            }
            if !location.starts_with(&self.issuer) {
                return location;
            }
            let pairs = cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            let cookie = pairs.collect::<Vec<_>>().join("; ");
            let request = Request::get(&location).header(COOKIE, cookie);
            let request = request.body(Full::default()).unwrap();
            let response = self.send(request).await;
            remember(&mut cookies, response.headers());
            let Some(next) = response.headers().get(LOCATION) else {
                panic!("no redirect: {}", text(response).await);
            };
            location = next.to_str().unwrap().to_owned();
        }
        panic!("too many redirects");
    }

    /// The code that an authorization request with these parameters brings. It is exchanged with [`VERIFIER`] and
    /// [`CALLBACK`].
    pub(crate) async fn code(&self, parameters: &[(&str, &str)]) -> String {
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
        let always = [
            ("response_type", "code"),
            ("redirect_uri", CALLBACK),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let query = form(&[&always, parameters].concat());
        let callback = self.browse(&self.uri(&format!("/auth?{query}"))).await;
        let (_, query) = callback.split_once('?').unwrap();
        let code = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "code");
        let Some((_, code)) = code else {
            panic!("no code: {query}");
        };
        code.into_owned()
    }

    /// How often this error was answered to this grant.
    pub(crate) async fn errors(&self, error: &str, grant: &str) -> usize {
        let events = self.control("/control/events", Value::Null).await;
        let same = |seen: &&Value| {
            seen["event"] == "grant.error" && seen["grant"] == grant && seen["error"] == error
        };
        events.as_array().unwrap().iter().filter(same).count()
    }

    /// Logs a user in by authorization code with PKCE, as a public client.
    pub(crate) async fn log_in(
        &self,
        client_id: &str,
        user: &str,
        scope: &str,
        resource: &str,
    ) -> LoggedIn {
        let parameters = [
            ("client_id", client_id),
            ("scope", scope),
            ("resource", resource),
            ("login_hint", user),
        ];
        let code = self.code(&parameters).await;
        let (status, said) = self
            .token(&[
                ("grant_type", "authorization_code"),
                ("client_id", client_id),
                ("redirect_uri", CALLBACK),
                ("code", &code),
                ("code_verifier", VERIFIER),
            ])
            .await;
        assert_eq!(status, StatusCode::OK, "{said}");
        let member = |name: &str| said[name].as_str().map(str::to_owned);
        LoggedIn {
            access_token: member("access_token").unwrap(),
            refresh_token: member("refresh_token").unwrap(),
            id_token: member("id_token"),
            expires_in: said["expires_in"].as_u64().unwrap(),
        }
    }

    /// Revokes a token as the client that it was issued to (RFC 7009).
    pub(crate) async fn revoke(&self, client_id: &str, token: &str) {
        let parameters = [("client_id", client_id), ("token", token)];
        let (status, said) = self.post("/token/revocation", &parameters).await;
        assert_eq!(status, StatusCode::OK, "{said}");
    }

    /// What the token endpoint says to this form, without our client in between.
    pub(crate) async fn token(&self, parameters: &[(&str, &str)]) -> (StatusCode, Value) {
        let (status, said) = self.post("/token", parameters).await;
        (status, serde_json::from_str(&said).unwrap())
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        self.client.clone().oneshot(request).await.unwrap()
    }

    async fn post(&self, path: &str, parameters: &[(&str, &str)]) -> (StatusCode, String) {
        let request = Request::post(self.uri(path))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::from(form(parameters)))
            .unwrap();
        let response = self.send(request).await;
        (response.status(), text(response).await)
    }

    async fn control(&self, path: &str, body: Value) -> Value {
        let body = Full::from(if body.is_null() {
            String::new()
        } else {
            body.to_string()
        });
        let request = Request::post(self.uri(path)).body(body).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        serde_json::from_str(&text(response).await).unwrap()
    }
}

fn form(parameters: &[(&str, &str)]) -> String {
    Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish()
}

fn remember(cookies: &mut BTreeMap<String, String>, headers: &HeaderMap) {
    for cookie in headers.get_all(SET_COOKIE) {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        cookies.insert(name.to_owned(), value.to_owned());
    }
}

async fn text(response: Response<hyper::body::Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}
