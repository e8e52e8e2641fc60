//! The world of the gateway example, of programs that nobody here wrote: npm's oidc-provider as the issuer of callers' tokens
//! and as the provider of linked accounts, and rmcp's servers as backends.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::{
    HeaderValue, Method, Request, Response,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower_identity::{Clock, TokenValidator, client::hyper::https_client};

use super::{
    mcp_backend::McpBackend,
    oidc_provider::{CALLBACK, OidcProvider},
};

/// The gateway's secret at both providers.
pub(crate) const SECRET: &str = "the-gateways-secret";
/// How the issuer and the provider of linked accounts know the same person.
pub(crate) const ALICE: [&str; 2] = ["alice", "alice-at-github"];
const GITHUB_API: &str = "https://github.example.com/";
const TICKETS_API: &str = "https://tickets.example.com/";
const MAX_STEPS: usize = 30;

pub(crate) struct World {
    pub(crate) gateway: String,
    pub(crate) issuer: OidcProvider,
    pub(crate) github: OidcProvider,
    backends: [(&'static str, McpBackend); 2],
}

impl World {
    /// Starts what a gateway at this URL needs. `None`, loudly, where a peer is not installed.
    pub(crate) async fn start(gateway: &str) -> Option<Self> {
        Self::start_with(gateway, 3600).await
    }

    /// … with access tokens of linked accounts that live for so many seconds.
    pub(crate) async fn start_with(gateway: &str, ttl: u64) -> Option<Self> {
        let client = |redirect_uri: &str| {
            json!({
                "client_id": "gateway",
                "client_secret": SECRET,
                "redirect_uris": [format!("{gateway}{redirect_uri}")],
            })
        };
        let issuer = json!({
            "pages": true,
            "registration": true,
            "scopes": ["mcp"],
            "clients": [
                client("/login/callback"),
                { "client_id": "caller", "token_endpoint_auth_method": "none" },
            ],
            "resources": {
                format!("{gateway}/github"): { "scope": "mcp" },
                format!("{gateway}/tickets"): { "scope": "mcp" },
                TICKETS_API: { "audience": "tickets" },
            },
        });
        // Another host, because cookies do not tell ports apart.
        let github = json!({
            "host": "127.0.0.2",
            "pages": true,
            "clients": [client("/accounts/link/callback/github")],
            "resources": { GITHUB_API: { "audience": "github", "scope": "repo", "ttl": ttl } },
        });
        let issuer = OidcProvider::start(issuer).await?;
        let github = OidcProvider::start(github).await?;
        let mut backends = Vec::new();
        for name in ["github", "tickets"] {
            let backend = McpBackend::start().await;
            backend.accept_anyone();
            backends.push((name, backend));
        }
        Some(Self {
            gateway: gateway.to_owned(),
            issuer,
            github,
            backends: backends.try_into().ok()?,
        })
    }

    /// The file of the gateway example, for this world.
    pub(crate) fn file(&self) -> String {
        let [github, tickets] = self.backends.each_ref().map(|(_, backend)| backend.url());
        let issuer = self.issuer.issuer();
        include_str!("../../examples/gateway/gateway.yaml")
            .replace(
                "url: https://gateway.example.com",
                &format!("url: {}", self.gateway),
            )
            .replace("https://idp.example.com", issuer)
            .replace(
                "    authorizationUrl: https://github.example.com/authorize\n",
                &format!("    issuer: {}\n", self.github.issuer()),
            )
            .replace(
                "    tokenUrl: https://github.example.com/token\n",
                &format!("    scopes: [repo]\n    resource: {GITHUB_API}\n"),
            )
            .replace("https://mcp-github.example.com/mcp", &github)
            .replace("https://mcp-tickets.example.com/mcp", &tickets)
    }

    pub(crate) fn backend(&self, name: &str) -> &McpBackend {
        let mut backends = self.backends.iter();
        let found = backends.find(|(backend, _)| *backend == name);
        &found.unwrap().1
    }

    /// The user of a token that arrived at this backend. The token must be for the backend, and good at the moment.
    pub(crate) async fn owner(&self, backend: &str, token: &str, clock: Arc<dyn Clock>) -> String {
        let issuer = match backend {
            "github" => &self.github,
            _ => &self.issuer,
        };
        let client = https_client::<Full<Bytes>>().unwrap();
        let validator = TokenValidator::builder(issuer.issuer(), client)
            .audience(backend)
            .clock(clock)
            .build()
            .unwrap();
        let identity = validator.validate(token).await;
        let identity = identity.unwrap_or_else(|error| panic!("{backend} got {token}: {error}"));
        identity.subject().to_owned()
    }

    /// Sets the clocks of the providers.
    pub(crate) async fn be_ahead(&self, seconds: u64) {
        for provider in [&self.issuer, &self.github] {
            provider.set(json!({ "ahead": seconds })).await;
        }
    }

    /// Alice, with a browser.
    pub(crate) fn alice(&self) -> Person {
        self.person(ALICE)
    }

    /// A person with these names at the issuer and at the provider of linked accounts.
    pub(crate) fn person(&self, names: [&str; 2]) -> Person {
        let issuers = [&self.issuer, &self.github].map(|provider| provider.issuer().to_owned());
        Person {
            names: issuers.into_iter().zip(names.map(str::to_owned)).collect(),
            cookies: BTreeMap::new(),
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }
}

/// A program that calls a backend through the gateway, with the token of a person.
pub(crate) struct Caller {
    url: String,
    token: String,
    session: Option<HeaderValue>,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Caller {
    /// Gets a token for the backend, as the person who is logged in with this browser.
    pub(crate) async fn log_in(world: &World, backend: &str, person: &mut Person) -> Self {
        let url = format!("{}/{backend}", world.gateway);
        let verifier = "a-verifier-that-is-at-least-43-characters-long";
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        let query = Serializer::new(String::new())
            .append_pair("client_id", "caller")
            .append_pair("response_type", "code")
            .append_pair("redirect_uri", CALLBACK)
            .append_pair("scope", "mcp")
            .append_pair("resource", &url)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256")
            .finish();
        let back = person
            .open(&world.issuer.uri(&format!("/auth?{query}")))
            .await;
        let (_, query) = back.split_once('?').unwrap();
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let (_, code) = pairs.find(|(name, _)| name == "code").unwrap();
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", "caller"),
            ("redirect_uri", CALLBACK),
            ("code", &code),
            ("code_verifier", verifier),
        ];
        let (_, said) = world.issuer.token(&form).await;
        Self {
            token: said["access_token"].as_str().unwrap().to_owned(),
            url,
            session: None,
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// The same token at another backend.
    pub(crate) fn at(&self, world: &World, backend: &str) -> Self {
        Self {
            url: format!("{}/{backend}", world.gateway),
            token: self.token.clone(),
            session: None,
            http: self.http.clone(),
        }
    }

    /// Calls the tool `whoami`, in a session. The answer is the text of the result, or all that the refusal says.
    pub(crate) async fn call(&mut self) -> Result<String, String> {
        if self.session.is_none() {
            let client = json!({ "name": "caller", "version": "1" });
            let initialize = json!({
                "protocolVersion": "2025-11-25", "clientInfo": client,
                "capabilities": { "elicitation": { "url": {} } },
            });
            let opened = self.send("initialize", Some(1), initialize).await?;
            self.session = opened.headers().get("mcp-session-id").cloned();
            if self.session.is_none() {
                return Err(text(opened).await);
            }
            self.send("notifications/initialized", None, json!({}))
                .await?;
        }
        let call = json!({ "name": "whoami", "arguments": {} });
        let answer = self.send("tools/call", Some(2), call).await?;
        let answer = text(answer).await;
        let Some((_, answer)) = answer.split_once(r#""text":""#) else {
            return Err(answer);
        };
        Ok(answer.split('"').next().unwrap().to_owned())
    }

    async fn send(
        &self,
        method: &str,
        id: Option<u32>,
        parameters: Value,
    ) -> Result<Response<Incoming>, String> {
        let mut message = json!({ "jsonrpc": "2.0", "method": method, "params": parameters });
        if let Some(id) = id {
            message["id"] = json!(id);
        }
        let mut request = Request::post(&self.url)
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(message.to_string()))
            .unwrap();
        if let Some(session) = &self.session {
            let headers = request.headers_mut();
            headers.insert("mcp-session-id", session.clone());
        }
        let response = self.http.request(request).await.unwrap();
        if response.status().is_success() {
            return Ok(response);
        }
        let said = format!("{} {:?}", response.status(), response.headers());
        Err(format!("{said} {}", text(response).await))
    }
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// A browser, and somebody who agrees to everything.
pub(crate) struct Person {
    /// The name by which each issuer knows the person.
    names: BTreeMap<String, String>,
    /// By host.
    cookies: BTreeMap<String, BTreeMap<String, String>>,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Person {
    /// The value of this cookie, in the browser.
    pub(crate) fn cookie(&self, url: &str, name: &str) -> String {
        self.cookies[url.trim_start_matches("http://")][name].clone()
    }

    /// Sends a request with these headers alone, and follows nothing.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).unwrap();
        self.http.request(request).await.unwrap()
    }

    /// Opens a page, logs in and consents where a provider asks for it, and returns the page that this leads to, or the
    /// URL of it if nobody serves that.
    pub(crate) async fn open(&mut self, url: &str) -> String {
        self.open_until(url, CALLBACK).await
    }

    /// … or the URL that begins so, before it is opened.
    pub(crate) async fn open_until(&mut self, url: &str, end: &str) -> String {
        let mut request = Request::get(url).body(Full::default()).unwrap();
        for _ in 0..MAX_STEPS {
            let url = request.uri().to_string();
            let authority = request.uri().authority().unwrap().to_string();
            let cookies = self.cookies.entry(authority.clone()).or_default();
            let pairs = cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            let pairs = pairs.collect::<Vec<_>>().join("; ");
            let pairs = HeaderValue::try_from(pairs).unwrap();
            request.headers_mut().insert(COOKIE, pairs);
            let response = self.http.request(request).await.unwrap();
            for cookie in response.headers().get_all(SET_COOKIE) {
                let pair = cookie.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                cookies.insert(name.to_owned(), value.to_owned());
            }
            if let Some(location) = response.headers().get(LOCATION) {
                let mut location = location.to_str().unwrap().to_owned();
                if location.starts_with('/') {
                    location.insert_str(0, &format!("http://{authority}"));
                }
                if location.starts_with(end) {
                    return location;
                }
                request = Request::get(location).body(Full::default()).unwrap();
                continue;
            }
            let page = text(response).await;
            let provider = self.names.get(&format!("http://{authority}"));
            let Some(name) = provider else {
                return page;
            };
            let (_, action) = page.split_once("action=\"").unwrap_or_else(|| {
                panic!("{url} is no form: {page}");
            });
            let (action, _) = action.split_once('"').unwrap();
            let form = match page.contains(r#"name="prompt" value="login""#) {
                true => Serializer::new(String::new())
                    .extend_pairs([("prompt", "login"), ("login", name), ("password", "x")])
                    .finish(),
                false => "prompt=consent".to_owned(),
            };
            request = Request::post(action)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::from(form))
                .unwrap();
        }
        panic!("{url} leads nowhere");
    }
}
