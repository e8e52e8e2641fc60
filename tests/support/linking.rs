//! A browser before a gateway that links accounts, and a provider that does what a test wants.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, COOKIE, LOCATION, SET_COOKIE},
};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::{ServiceExt, util::BoxCloneSyncService};
use tower_identity::{
    AccountLinking, ClientAuth, Identity, ManualClock, MemoryStore, Secret, UpstreamTokenStore,
    UpstreamTokens,
    upstream::{OAuthProvider, ProviderSettings, TokenOwner},
};

use super::key_pair::{KeyPair, P256};

pub(crate) const GATEWAY: &str = "https://gateway.example.com";
pub(crate) const BASE: &str = "https://gateway.example.com/accounts";
pub(crate) const ISSUER: &str = "https://idp.example.com";
pub(crate) const USERS: &str = "https://users.example.com";
pub(crate) const CLIENT: &str = "gateway";
pub(crate) const SECRET: &str = "7Fjfp0ZBr1KtDRbnfVdmIw";

pub(crate) fn user(subject: &str) -> Identity {
    Identity::builder(subject).issuer(USERS).build().unwrap()
}

pub(crate) fn owner(subject: &str) -> TokenOwner {
    TokenOwner::of(&user(subject)).unwrap()
}

pub(crate) fn query(url: &str) -> HashMap<String, String> {
    let (_, query) = url.split_once('?').unwrap_or((url, ""));
    let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
    pairs.collect()
}

/// A response as a browser sees it.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn location(&self) -> &str {
        let location = self.headers.get(LOCATION);
        let location = location.unwrap_or_else(|| panic!("no redirect: {self:?}"));
        location.to_str().unwrap()
    }
}

/// Keeps the cookies of the gateway, and is logged in as somebody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Browser {
    pub(crate) user: Option<Identity>,
    pub(crate) cookies: BTreeMap<String, String>,
}

impl Browser {
    pub(crate) fn of(subject: &str) -> Self {
        Self {
            user: Some(user(subject)),
            ..Self::default()
        }
    }

    pub(crate) async fn get(&mut self, linking: &AccountLinking, url: &str) -> Page {
        self.send(linking, Method::GET, url, &[]).await
    }

    pub(crate) async fn send(
        &mut self,
        linking: &AccountLinking,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Page {
        let mut request = Request::builder().method(method).uri(url);
        let pairs = self.cookies.iter();
        let pairs: Vec<_> = pairs
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !pairs.is_empty() {
            request = request.header(COOKIE, pairs.join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Full::<Bytes>::default()).unwrap();
        if let Some(user) = &self.user {
            request.extensions_mut().insert(user.clone());
        }
        let response = linking.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        for cookie in head.headers.get_all(SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        let body = body.collect().await.unwrap().to_bytes();
        Page {
            status: head.status,
            headers: head.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }
}

/// An OpenID provider that issues what it is told to. It checks the code verifier, as it has to.
#[derive(Clone)]
pub(crate) struct FakeProvider {
    pub(crate) clock: Arc<ManualClock>,
    script: Arc<Mutex<Script>>,
}

struct Script {
    key: KeyPair,
    metadata: Value,
    /// Changes the claims of the next ID tokens.
    id_token: Value,
    id_token_header: Value,
    has_id_token: bool,
    challenges: HashMap<String, (String, String)>,
    answer: Option<(StatusCode, &'static str, String)>,
    requests: Vec<(String, HashMap<String, String>)>,
    codes: usize,
}

impl FakeProvider {
    pub(crate) fn new() -> Self {
        let some_day = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Self {
            clock: Arc::new(ManualClock::new(some_day)),
            script: Arc::new(Mutex::new(Script {
                key: P256,
                metadata: json!({
                    "issuer": ISSUER,
                    "authorization_endpoint": format!("{ISSUER}/authorize"),
                    "token_endpoint": format!("{ISSUER}/token"),
                    "jwks_uri": format!("{ISSUER}/keys"),
                    "authorization_response_iss_parameter_supported": true,
                }),
                id_token: json!({}),
                id_token_header: json!({}),
                has_id_token: true,
                challenges: HashMap::new(),
                answer: None,
                requests: Vec::new(),
                codes: 0,
            })),
        }
    }

    pub(crate) fn client(
        &self,
    ) -> BoxCloneSyncService<Request<Full<Bytes>>, Response<Full<Bytes>>, Infallible> {
        let this = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Full<Bytes>>| {
            let this = this.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let form = form_urlencoded::parse(&body).into_owned().collect();
                Ok(this.answer(&head.uri.to_string(), form))
            }
        }))
    }

    pub(crate) fn provider(&self, settings: ProviderSettings) -> OAuthProvider {
        let client_auth = ClientAuth::post(CLIENT, Secret::new(SECRET).unwrap());
        OAuthProvider::builder(settings, client_auth, self.client())
            .clock(self.clock.clone())
            .build()
            .unwrap()
    }

    pub(crate) fn store(&self) -> MemoryStore {
        let store = MemoryStore::builder().clock(self.clock.clone());
        store.build().unwrap()
    }

    /// Links `idp`, which is this provider, and `other`, which is one without an issuer.
    pub(crate) fn linking<S>(&self, store: S) -> AccountLinking
    where
        S: UpstreamTokenStore + 'static,
    {
        let idp = ProviderSettings::discovered(ISSUER).scopes(["openid"]);
        let other = ProviderSettings::new(
            "https://other.example.com/authorize",
            "https://other.example.com/token",
        );
        self.linking_of(store, [("idp", idp), ("other", other)])
    }

    pub(crate) fn linking_of<S, const N: usize>(
        &self,
        store: S,
        providers: [(&str, ProviderSettings); N],
    ) -> AccountLinking
    where
        S: UpstreamTokenStore + 'static,
    {
        let upstream = self.upstream(store, providers);
        AccountLinking::builder(BASE, upstream).build().unwrap()
    }

    pub(crate) fn upstream<S, const N: usize>(
        &self,
        store: S,
        providers: [(&str, ProviderSettings); N],
    ) -> UpstreamTokens
    where
        S: UpstreamTokenStore + 'static,
    {
        let providers = providers.map(|(name, settings)| {
            let provider = self.provider(settings).provider(name);
            provider.optional().build().unwrap()
        });
        UpstreamTokens::new(store, providers).clock(self.clock.clone())
    }

    /// The redirect back of a user who agreed, with a code for this authorization request.
    pub(crate) fn agree(&self, authorization: &str) -> String {
        let asked = query(authorization);
        let code = self.code_for(&asked);
        let issuer = if authorization.starts_with(ISSUER) {
            format!("&iss={}", encoded(ISSUER))
        } else {
            String::new()
        };
        format!(
            "{}?code={code}&state={}{issuer}",
            asked["redirect_uri"],
            encoded(&asked["state"])
        )
    }

    pub(crate) fn code_for(&self, asked: &HashMap<String, String>) -> String {
        let mut script = self.script.lock().unwrap();
        script.codes += 1;
        let code = format!("code-{}", script.codes);
        let nonce = asked.get("nonce").cloned().unwrap_or_default();
        let challenge = asked["code_challenge"].clone();
        script.challenges.insert(code.clone(), (challenge, nonce));
        code
    }

    pub(crate) fn metadata(&self, name: &str, value: Value) {
        self.script.lock().unwrap().metadata[name] = value;
    }

    /// Overrides claims of the ID tokens from now on. `null` leaves one out.
    pub(crate) fn id_token(&self, claims: Value) {
        self.script.lock().unwrap().id_token = claims;
    }

    pub(crate) fn id_token_header(&self, header: Value) {
        self.script.lock().unwrap().id_token_header = header;
    }

    pub(crate) fn sign_with(&self, key: KeyPair) {
        self.script.lock().unwrap().key = key;
    }

    pub(crate) fn issue_no_id_token(&self) {
        self.script.lock().unwrap().has_id_token = false;
    }

    /// Answers so from the token endpoint from now on.
    pub(crate) fn answer_with(&self, status: StatusCode, content_type: &'static str, body: &str) {
        let answer = (status, content_type, body.to_owned());
        self.script.lock().unwrap().answer = Some(answer);
    }

    /// The forms that the token endpoint got.
    pub(crate) fn token_requests(&self) -> Vec<HashMap<String, String>> {
        let script = self.script.lock().unwrap();
        let requests = script.requests.iter();
        let token = requests.filter(|(_, form)| form.contains_key("grant_type"));
        token.map(|(_, form)| form.clone()).collect()
    }

    fn answer(&self, url: &str, form: HashMap<String, String>) -> Response<Full<Bytes>> {
        let mut script = self.script.lock().unwrap();
        script.requests.push((url.to_owned(), form.clone()));
        let json = |status, body: &Value| response(status, "application/json", &body.to_string());
        if url.ends_with("/.well-known/openid-configuration") {
            return json(StatusCode::OK, &script.metadata);
        }
        if url.ends_with("/keys") {
            return json(StatusCode::OK, &json!({ "keys": [P256.public()] }));
        }
        if let Some((status, content_type, body)) = &script.answer {
            return response(*status, content_type, body);
        }
        let invalid = json!({ "error": "invalid_grant" });
        match form.get("grant_type").map(String::as_str) {
            Some("authorization_code") => {
                let (challenge, nonce) =
                    script.challenges.remove(&form["code"]).unwrap_or_default();
                let verifier = form.get("code_verifier").cloned().unwrap_or_default();
                if URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)) != challenge {
                    return json(StatusCode::BAD_REQUEST, &invalid);
                }
                let mut answer = json!({
                    "access_token": format!("access-of-{}", form["code"]), "token_type": "Bearer",
                    "refresh_token": "refresh-1-7Fjfp0ZBr1Kt", "expires_in": 3600,
                });
                if script.has_id_token && url.starts_with(ISSUER) {
                    let id_token = self.sign_id_token(&script, &nonce);
                    answer["id_token"] = json!(id_token);
                }
                json(StatusCode::OK, &answer)
            }
            Some("refresh_token") => json(
                StatusCode::OK,
                &json!({ "access_token": "refreshed", "token_type": "Bearer", "expires_in": 3600 }),
            ),
            _ => json(StatusCode::BAD_REQUEST, &invalid),
        }
    }

    fn sign_id_token(&self, script: &Script, nonce: &str) -> String {
        let now = tower_identity::Clock::now(&*self.clock);
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let mut claims = json!({
            "iss": ISSUER, "sub": "alice-at-idp", "aud": CLIENT, "nonce": nonce, "iat": now,
            "exp": now + 600,
        });
        let mut header = script.key.header();
        header["typ"] = json!("JWT");
        for (place, changes) in [
            (&mut claims, &script.id_token),
            (&mut header, &script.id_token_header),
        ] {
            for (name, value) in changes.as_object().unwrap() {
                match value {
                    Value::Null => drop(place.as_object_mut().unwrap().remove(name)),
                    value => place[name] = value.clone(),
                }
            }
        }
        script.key.sign(&header, &claims)
    }
}

pub(crate) fn response(
    status: StatusCode,
    content_type: &str,
    body: &str,
) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status);
    let response = response.header(CONTENT_TYPE, content_type);
    response.body(Full::from(body.to_owned())).unwrap()
}

pub(crate) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

pub(crate) fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}
