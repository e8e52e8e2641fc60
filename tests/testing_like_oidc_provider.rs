//! The issuer that the crate offers for tests answers as an OpenID provider that nobody here wrote: npm's oidc-provider.
//!
//! Both are sent the same requests. `tests/peers/install` installs the other one.

mod support;

use std::collections::BTreeSet;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Map, Value, json};
use support::{
    key_pair::{ED25519, P256},
    oidc_provider::{CALLBACK, OidcProvider},
};
use tower::ServiceExt;
use tower_identity::{
    ClientAuth, Secret,
    oauth::{PrivateKeyJwt, SigningAlgorithm},
    testing::TestIssuer,
};

const API: &str = "https://api.example.com/";
const CONFIDENTIAL: &str = "client:1";
const SECRET: &str = "a b+c%d:/?&=";
const VERIFIER: &str = "a-verifier-that-is-at-least-43-characters-long";
const CHALLENGE: &str = "dsLNLYLTCP5JlDh2AVhLpKcqTB0r0M5Ldsg6K-qs1dA";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// One of the two that are compared.
#[allow(clippy::large_enum_variant, reason = "there are two of them")]
enum Side {
    Ours(TestIssuer),
    Theirs(OidcProvider, Client<HttpConnector, Full<Bytes>>),
}

#[derive(Debug)]
struct Said {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn text(&self, member: &str) -> String {
        let said = self.json();
        let text = said[member].as_str();
        text.unwrap_or_else(|| panic!("no {member}: {self:?}"))
            .to_owned()
    }

    /// All that a client can act on, and nothing that differs from one answer to the next.
    fn shape(&self) -> Value {
        let json = self.json();
        let header = |name| {
            let value = self.headers.get(name);
            value.map(|value: &http::HeaderValue| value.to_str().unwrap().to_owned())
        };
        let media_type = header(CONTENT_TYPE);
        let is_page = media_type.as_deref() == Some("text/html; charset=utf-8");
        let challenge = header(WWW_AUTHENTICATE).map(|challenge| {
            let (scheme, parameters) = challenge.split_once(' ').unwrap();
            let names = parameters.split(", ").map(|one| one.split('=').next());
            json!([scheme, names.collect::<Vec<_>>()])
        });
        json!({
            "status": self.status.as_u16(),
            "media_type": media_type.filter(|_| !is_page),
            "cache": header(CACHE_CONTROL).filter(|_| !is_page),
            "challenge": challenge,
            "has_nonce": self.headers.contains_key("dpop-nonce"),
            "error": json["error"],
            "members": members(&json),
            "token_type": json["token_type"],
            "issued_token_type": json["issued_token_type"],
            "expires_in": json["expires_in"],
            "scope": json["scope"],
            "active": json["active"],
            "access_token": json["access_token"].as_str().map(form_of),
            "id_token": json["id_token"].as_str().map(form_of),
        })
    }
}

fn members(value: &Value) -> BTreeSet<String> {
    let members = value.as_object().cloned().unwrap_or_default();
    members.into_iter().map(|(name, _)| name).collect()
}

/// Whether it is a JWT, and what is in it.
fn form_of(token: &str) -> Value {
    let parts: Vec<_> = token.split('.').collect();
    let [header, claims, _] = parts[..] else {
        return json!("opaque");
    };
    let read = |part| -> Value {
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part);
        serde_json::from_slice(&json.unwrap()).unwrap()
    };
    let (header, claims) = (read(header), read(claims));
    // What else an ID token tells is the provider's choice.
    let extra = ["at_hash", "sid", "auth_time", "acr", "amr"];
    let mut names = members(&claims);
    names.retain(|name| !extra.contains(&&**name));
    json!({
        "typ": header["typ"], "header": members(&header), "claims": names,
        "aud": claims["aud"], "sub": claims["sub"], "scope": claims["scope"],
        "client_id": claims["client_id"], "act": claims["act"],
    })
}

impl Side {
    fn issuer(&self) -> &str {
        match self {
            Self::Ours(issuer) => issuer.url(),
            Self::Theirs(provider, _) => provider.issuer(),
        }
    }

    async fn send(&self, mut request: Request<Full<Bytes>>) -> Said {
        let uri = format!("{}{}", self.issuer(), request.uri());
        *request.uri_mut() = uri.parse().unwrap();
        let (head, body) = match self {
            Self::Ours(issuer) => {
                let response = issuer.clone().oneshot(request).await.unwrap();
                let (head, body) = response.into_parts();
                (head, body.collect().await.unwrap().to_bytes())
            }
            Self::Theirs(_, client) => {
                let response: Response<_> = client.request(request).await.unwrap();
                let (head, body) = response.into_parts();
                (head, body.collect().await.unwrap().to_bytes())
            }
        };
        Said {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    async fn get(&self, path: &str) -> Said {
        self.send(Request::get(path).body(Full::default()).unwrap())
            .await
    }

    async fn post(&self, path: &str, client: &As<'_>, parameters: &[(&str, &str)]) -> Said {
        self.post_with(path, client, parameters, None).await
    }

    async fn post_with(
        &self,
        path: &str,
        client: &As<'_>,
        parameters: &[(&str, &str)],
        proof: Option<String>,
    ) -> Said {
        let mut request = Request::post(path).header(CONTENT_TYPE, FORM);
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        let mut parameters = parameters.to_vec();
        let assertion;
        match client {
            As::Nobody => {}
            As::Basic(id, secret) => {
                let encode = |text: &str| {
                    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
                };
                let pair = STANDARD.encode(format!("{}:{}", encode(id), encode(secret)));
                request = request.header(AUTHORIZATION, format!("Basic {pair}"));
            }
            As::Header(value) => request = request.header(AUTHORIZATION, *value),
            As::Public(id) => parameters.push(("client_id", id)),
            As::Post(id, secret) => {
                parameters.extend([("client_id", *id), ("client_secret", *secret)]);
            }
            As::Signed(key, change) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let mut claims = json!({
                    "iss": P256.id, "sub": P256.id, "aud": self.issuer(),
                    "jti": format!("{:?}", std::time::Instant::now()),
                    "iat": now.as_ref().unwrap().as_secs(), "exp": now.unwrap().as_secs() + 60,
                });
                let changes = change.as_object().unwrap().clone();
                claims.as_object_mut().unwrap().extend(changes);
                let algorithm = key.header()["alg"].clone();
                let header = json!({ "alg": algorithm, "kid": P256.id, "typ": "JWT" });
                assertion = key.sign(&header, &claims);
                parameters.extend([
                    ("client_id", P256.id),
                    ("client_assertion_type", JWT_BEARER),
                    ("client_assertion", &assertion),
                ]);
            }
        }
        let body = encoded(&parameters);
        self.send(request.body(Full::from(body)).unwrap()).await
    }

    async fn token(&self, client: &As<'_>, parameters: &[(&str, &str)]) -> Said {
        self.post("/token", client, parameters).await
    }

    /// Follows an authorization request to where the user is sent back to.
    async fn browse(&self, parameters: &[(&str, &str)]) -> Vec<(String, String)> {
        let query = encoded(parameters);
        let back = match self {
            Self::Ours(_) => {
                let said = self.get(&format!("/auth?{query}")).await;
                assert_eq!(said.status, StatusCode::SEE_OTHER);
                said.headers[LOCATION].to_str().unwrap().to_owned()
            }
            Self::Theirs(provider, _) => {
                provider
                    .browse(&provider.uri(&format!("/auth?{query}")))
                    .await
            }
        };
        let (to, query) = back.split_once('?').unwrap();
        assert_eq!(to, CALLBACK);
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
        pairs
            .filter(|(name, _)| name != "error_description")
            .collect()
    }

    async fn code(&self, scope: &str, resource: &str) -> String {
        let back = self.browse(&authorization(scope, resource)).await;
        let code = back.iter().find(|(name, _)| name == "code");
        code.unwrap_or_else(|| panic!("{back:?}")).1.clone()
    }

    /// The answer to the code of a new login.
    async fn log_in(&self, scope: &str, resource: &str) -> Said {
        let code = self.code(scope, resource).await;
        self.redeem(&code, CALLBACK, VERIFIER, "browser").await
    }

    async fn redeem(&self, code: &str, callback: &str, verifier: &str, client: &str) -> Said {
        let parameters = [
            ("grant_type", "authorization_code"),
            ("redirect_uri", callback),
            ("code", code),
            ("code_verifier", verifier),
        ];
        self.token(&As::Public(client), &parameters).await
    }

    async fn refresh(&self, client: &As<'_>, token: &str, scope: &str) -> Said {
        let parameters = [
            ("grant_type", "refresh_token"),
            ("refresh_token", token),
            ("scope", scope),
        ];
        self.token(client, &parameters).await
    }

    async fn exchange(&self, subject: &str, more: &[(&str, &str)]) -> Said {
        let mut parameters = vec![("grant_type", EXCHANGE), ("subject_token", subject)];
        parameters.extend(more);
        self.token(&CLIENT, &parameters).await
    }
}

const FORM: &str = "application/x-www-form-urlencoded";
const ACCESS_TOKEN: (&str, &str) = (
    "subject_token_type",
    "urn:ietf:params:oauth:token-type:access_token",
);
const ID_TOKEN: (&str, &str) = (
    "subject_token_type",
    "urn:ietf:params:oauth:token-type:id_token",
);

enum As<'a> {
    Nobody,
    Public(&'a str),
    Basic(&'a str, &'a str),
    Post(&'a str, &'a str),
    Header(&'a str),
    Signed(support::key_pair::KeyPair, Value),
}

const CLIENT: As<'static> = As::Basic(CONFIDENTIAL, SECRET);

fn encoded(parameters: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(parameters).finish()
}

fn authorization<'a>(scope: &'a str, resource: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut parameters = vec![
        ("client_id", "browser"),
        ("response_type", "code"),
        ("redirect_uri", CALLBACK),
        ("scope", scope),
        ("state", "a state"),
        ("nonce", "a nonce"),
        ("login_hint", "alice"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    if !resource.is_empty() {
        parameters.push(("resource", resource));
    }
    parameters
}

/// Both, with the same clients and the same resource. `None`, loudly, where oidc-provider is not installed.
async fn both() -> Option<[Side; 2]> {
    let algorithms = ["ES256", "ES384", "EdDSA", "RS256", "PS256"];
    both_with(json!({ "nonces": false, "algorithms": algorithms })).await
}

async fn both_with(dpop: Value) -> Option<[Side; 2]> {
    let theirs = OidcProvider::start(json!({
        "dpop": dpop,
        "clients": [
            { "client_id": "browser", "token_endpoint_auth_method": "none" },
            { "client_id": CONFIDENTIAL, "client_secret": SECRET },
            {
                "client_id": P256.id,
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": "ES256",
                "jwks": { "keys": [P256.public()] },
            },
        ],
        "resources": { API: { "alg": "ES256" } },
    }))
    .await?;
    let ours = TestIssuer::new("https://idp.example.com");
    ours.register_resource(API);
    ours.register_client(&ClientAuth::none("browser"));
    ours.register_client(&ClientAuth::basic(
        CONFIDENTIAL,
        Secret::new(SECRET).unwrap(),
    ));
    let pem = Secret::new(include_str!("support/keys/p256.pem")).unwrap();
    let key = PrivateKeyJwt::builder(SigningAlgorithm::Es256, &pem).key_id(P256.id);
    ours.register_client(&ClientAuth::private_key_jwt(P256.id, key.build().unwrap()));
    let client = Client::builder(TokioExecutor::new()).build_http();
    Some([Side::Ours(ours), Side::Theirs(theirs, client)])
}

/// Asks both the same, and fails where the answers are not of one shape.
async fn same(sides: &[Side; 2], what: &str, ask: impl AsyncFn(&Side) -> Said) -> [Said; 2] {
    let [ours, theirs] = [ask(&sides[0]).await, ask(&sides[1]).await];
    assert_eq!(
        ours.shape(),
        theirs.shape(),
        "{what}\nours: {}\ntheirs: {}",
        String::from_utf8_lossy(&ours.body),
        String::from_utf8_lossy(&theirs.body)
    );
    [ours, theirs]
}

#[tokio::test]
async fn it_admits_and_refuses_the_same_clients_in_the_same_words() {
    let Some(sides) = both().await else {
        return;
    };
    let signed = |change: Value| As::Signed(P256, change);
    let cases = [
        ("nobody", As::Nobody, 400),
        ("a client that is not registered", As::Public("nobody"), 401),
        ("the secret in the header", CLIENT, 200),
        (
            "the secret in the form",
            As::Post(CONFIDENTIAL, SECRET),
            200,
        ),
        (
            "a wrong secret in the header",
            As::Basic(CONFIDENTIAL, "wrong"),
            401,
        ),
        (
            "a wrong secret in the form",
            As::Post(CONFIDENTIAL, "wrong"),
            401,
        ),
        ("no secret", As::Public(CONFIDENTIAL), 401),
        ("the secret of nobody", As::Basic("nobody", SECRET), 401),
        ("a header that is not base64", As::Header("Basic %%%"), 400),
        (
            "a header of another scheme",
            As::Header("Bearer token"),
            400,
        ),
        ("an assertion", signed(json!({})), 200),
        (
            "an assertion of another key",
            As::Signed(ED25519, json!({})),
            401,
        ),
        (
            "an assertion for another issuer",
            signed(json!({ "aud": "https://other.example.com" })),
            401,
        ),
        ("an expired assertion", signed(json!({ "exp": 1 })), 401),
        (
            "an assertion without an end",
            signed(json!({ "exp": null })),
            401,
        ),
        (
            "an assertion of another client",
            signed(json!({ "iss": "other", "sub": "other" })),
            400,
        ),
    ];
    for (what, client, status) in cases {
        let parameters = [("grant_type", "client_credentials")];
        let ask = async |side: &Side| side.token(&client, &parameters).await;
        let [ours, _] = same(&sides, what, ask).await;
        assert_eq!(ours.status, status, "{what}");
    }
    let twice = async |side: &Side| {
        let parameters = [
            ("grant_type", "client_credentials"),
            ("client_secret", SECRET),
        ];
        side.token(&CLIENT, &parameters).await
    };
    same(&sides, "the secret in both", twice).await;
}

#[tokio::test]
async fn it_refuses_the_same_requests_with_the_same_codes() {
    let Some(sides) = both().await else {
        return;
    };
    let exchange = |more: &[(&'static str, &'static str)]| {
        let mut parameters = vec![("grant_type", EXCHANGE)];
        parameters.extend(more);
        parameters
    };
    for parameters in [
        vec![],
        vec![("unknown", "parameter")],
        vec![("grant_type", "")],
        vec![
            ("grant_type", "password"),
            ("username", "alice"),
            ("password", "x"),
        ],
        vec![("grant_type", "client_credentials"); 2],
        vec![("grant_type", "client_credentials")],
        vec![("grant_type", "client_credentials"), ("scope", "")],
        vec![("grant_type", "client_credentials"), ("scope", "read")],
        vec![
            ("grant_type", "client_credentials"),
            ("scope", "read"),
            ("resource", API),
        ],
        vec![("grant_type", "client_credentials"), ("resource", API)],
        vec![
            ("grant_type", "client_credentials"),
            ("resource", "https://other.example.com/"),
        ],
        vec![("grant_type", "refresh_token")],
        vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", "unknown"),
        ],
        vec![("grant_type", "authorization_code")],
        vec![("grant_type", "authorization_code"), ("code", "unknown")],
        exchange(&[]),
        exchange(&[("subject_token", "unknown"), ACCESS_TOKEN]),
        exchange(&[("subject_token", "unknown")]),
    ] {
        let ask = async |side: &Side| side.token(&CLIENT, &parameters).await;
        same(&sides, &format!("{parameters:?}"), ask).await;
    }
    for path in [
        "/token",
        "/token/introspection",
        "/token/revocation",
        "/nothing",
    ] {
        same(&sides, path, async |side: &Side| side.get(path).await).await;
    }
    let json = async |side: &Side| {
        let request = Request::post("/token").header(CONTENT_TYPE, "application/json");
        side.send(request.body(Full::from("{}")).unwrap()).await
    };
    same(&sides, "a body in JSON", json).await;
}

#[tokio::test]
async fn it_publishes_metadata_and_keys_of_the_same_form() {
    let Some(sides) = both().await else {
        return;
    };
    for path in [
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
    ] {
        let [ours, theirs] = [sides[0].get(path).await, sides[1].get(path).await];
        let (ours, theirs) = (ours.json(), theirs.json());
        let paths = |metadata: &Value, side: &Side| -> Map<String, Value> {
            let metadata = metadata.to_string().replace(side.issuer(), "");
            serde_json::from_str(&metadata).unwrap()
        };
        let (ours, theirs) = (paths(&ours, &sides[0]), paths(&theirs, &sides[1]));
        for (name, value) in &ours {
            match value {
                // It supports less, except for one grant.
                Value::Array(values) => {
                    let more: Vec<_> = values
                        .iter()
                        .filter(|value| !theirs[name].as_array().unwrap().contains(value))
                        .collect();
                    let jwt_bearer = json!("urn:ietf:params:oauth:grant-type:jwt-bearer");
                    assert!(
                        more.iter().all(|one| **one == jwt_bearer),
                        "{name}: {more:?}"
                    );
                }
                value => assert_eq!(Some(value), theirs.get(name), "{name}"),
            }
        }
        // OIDC Discovery §3.
        for name in [
            "issuer",
            "authorization_endpoint",
            "token_endpoint",
            "jwks_uri",
            "response_types_supported",
            "subject_types_supported",
            "id_token_signing_alg_values_supported",
        ] {
            assert!(ours.contains_key(name), "{name}");
        }
    }
    let [ours, theirs] = same_keys(&sides).await;
    assert_eq!(ours, theirs);
}

/// The media type, and the members of a key for ES256.
async fn same_keys(sides: &[Side; 2]) -> [(String, BTreeSet<String>); 2] {
    let mut found = Vec::new();
    for side in sides {
        let said = side.get("/jwks").await;
        let media_type = said.headers[CONTENT_TYPE].to_str().unwrap().to_owned();
        let said = said.json();
        let keys = said["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["alg"] == "ES256").unwrap();
        found.push((media_type, members(key)));
    }
    found.try_into().unwrap()
}

#[tokio::test]
async fn a_browser_is_sent_back_with_the_same_parameters() {
    let Some(sides) = both().await else {
        return;
    };
    let all = authorization("openid read", API);
    let without = |name: &str| {
        let mut parameters = all.clone();
        parameters.retain(|(other, _)| *other != name);
        parameters
    };
    let mut plain = without("code_challenge_method");
    plain.push(("code_challenge_method", "plain"));
    for (what, parameters) in [
        ("a user who agrees", all.clone()),
        ("without a state", without("state")),
        ("a user who refuses", without("login_hint")),
        ("without PKCE", without("code_challenge")),
        ("with PKCE that is not hashed", plain),
        ("without a response type", without("response_type")),
    ] {
        let mut seen = Vec::new();
        for side in &sides {
            let mut back = side.browse(&parameters).await;
            for (name, value) in &mut back {
                match &**name {
                    "code" => *value = "a code".to_owned(),
                    "iss" => assert_eq!(value, side.issuer()),
                    _ => continue,
                }
                if name == "iss" {
                    *value = "the issuer".to_owned();
                }
            }
            seen.push(back);
        }
        assert_eq!(seen[0], seen[1], "{what}");
    }
    for parameters in [
        without("client_id"),
        [("client_id", "nobody")]
            .into_iter()
            .chain(without("client_id"))
            .collect(),
    ] {
        let path = format!("/auth?{}", encoded(&parameters));
        let ask = async |side: &Side| side.get(&path).await;
        let [ours, theirs] = [ask(&sides[0]).await, ask(&sides[1]).await];
        assert_eq!(ours.status, theirs.status, "{path}");
        assert_eq!(ours.status, 400, "{path}");
    }
}

#[tokio::test]
async fn a_login_brings_the_same_tokens_and_a_refresh_renews_the_same_ones() {
    let Some(sides) = both().await else {
        return;
    };
    for (scope, resource) in [("openid read", API), ("openid", API), ("openid", "")] {
        let what = format!("{scope} for {resource:?}");
        let first = same(&sides, &what, async |side: &Side| {
            side.log_in(scope, resource).await
        })
        .await;
        let tokens = first.map(|said| said.text("refresh_token"));
        let of = |side: &Side| &tokens[usize::from(matches!(side, Side::Theirs(..)))];
        let refresh = async |side: &Side| side.refresh(&As::Public("browser"), of(side), "").await;
        let of_another = async |side: &Side| side.refresh(&CLIENT, of(side), "").await;
        let wider = async |side: &Side| {
            side.refresh(&As::Public("browser"), of(side), "openid read write")
                .await
        };
        same(&sides, &format!("{what}, as another client"), of_another).await;
        same(&sides, &format!("{what}, with more scope"), wider).await;
        let second = same(&sides, &format!("{what}, refreshed"), refresh).await;
        // The old one, presented again, kills all of them.
        same(&sides, &format!("{what}, refreshed twice"), refresh).await;
        let tokens = second.map(|said| said.text("refresh_token"));
        let of = |side: &Side| &tokens[usize::from(matches!(side, Side::Theirs(..)))];
        let newest = async |side: &Side| side.refresh(&As::Public("browser"), of(side), "").await;
        let [ours, _] = same(&sides, &format!("{what}, killed"), newest).await;
        assert_eq!(ours.json()["error"], "invalid_grant");
    }
}

#[tokio::test]
async fn a_code_is_good_once_for_its_client_and_its_callback_with_its_verifier() {
    let Some(sides) = both().await else {
        return;
    };
    for (what, callback, verifier, client) in [
        (
            "another callback",
            "http://127.0.0.1/other",
            VERIFIER,
            "browser",
        ),
        (
            "another verifier",
            CALLBACK,
            "another-verifier-that-is-at-least-43-characters",
            "browser",
        ),
        ("no verifier", CALLBACK, "", "browser"),
    ] {
        let ask = async |side: &Side| {
            let code = side.code("openid", API).await;
            side.redeem(&code, callback, verifier, client).await
        };
        let [ours, _] = same(&sides, what, ask).await;
        assert_eq!(ours.json()["error"], "invalid_grant", "{what}");
    }
    let by_another = async |side: &Side| {
        let code = side.code("openid", API).await;
        let parameters = [
            ("grant_type", "authorization_code"),
            ("redirect_uri", CALLBACK),
            ("code", &code),
            ("code_verifier", VERIFIER),
        ];
        side.token(&CLIENT, &parameters).await
    };
    same(&sides, "another client", by_another).await;
    let twice = async |side: &Side| {
        let code = side.code("openid", API).await;
        let first = side.redeem(&code, CALLBACK, VERIFIER, "browser").await;
        assert_eq!(first.status, StatusCode::OK);
        let again = side.redeem(&code, CALLBACK, VERIFIER, "browser").await;
        assert_eq!(again.json()["error"], "invalid_grant");
        let token = first.text("refresh_token");
        side.refresh(&As::Public("browser"), &token, "").await
    };
    same(&sides, "a refresh after a code came twice", twice).await;
}

#[tokio::test]
async fn a_token_is_exchanged_for_the_same_one() {
    let Some(sides) = both().await else {
        return;
    };
    let access = async |side: &Side| side.log_in("openid read", API).await.text("access_token");
    let opaque = async |side: &Side| side.log_in("openid", "").await.text("access_token");
    let id_token = async |side: &Side| side.log_in("openid", API).await.text("id_token");
    for more in [
        vec![ACCESS_TOKEN],
        vec![ACCESS_TOKEN, ("scope", "read")],
        vec![ACCESS_TOKEN, ("resource", API)],
        vec![ACCESS_TOKEN, ("audience", API), ("scope", "read")],
        vec![ACCESS_TOKEN, ("audience", API), ("resource", API)],
        vec![ACCESS_TOKEN, ("resource", "https://other.example.com/")],
        vec![ACCESS_TOKEN, ("audience", "other"), ("resource", API)],
        vec![ID_TOKEN, ("resource", API)],
        vec![("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")],
        vec![(
            "subject_token_type",
            "urn:ietf:params:oauth:token-type:saml2",
        )],
        vec![
            ACCESS_TOKEN,
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:jwt",
            ),
            ("resource", API),
        ],
        vec![
            ACCESS_TOKEN,
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:saml2",
            ),
        ],
        vec![
            ACCESS_TOKEN,
            ("actor_token", "unknown"),
            ("actor_token_type", ACCESS_TOKEN.1),
        ],
        vec![ACCESS_TOKEN, ("actor_token", "unknown")],
    ] {
        let ask = async |side: &Side| side.exchange(&access(side).await, &more).await;
        same(&sides, &format!("{more:?}"), ask).await;
    }
    let ask = async |side: &Side| side.exchange(&opaque(side).await, &[ACCESS_TOKEN]).await;
    same(&sides, "an opaque token", ask).await;
    let ask = async |side: &Side| side.exchange(&id_token(side).await, &[ID_TOKEN]).await;
    same(&sides, "the ID token of another client", ask).await;
    let ask = async |side: &Side| {
        let actor = access(side).await;
        let more = [
            ACCESS_TOKEN,
            ("resource", API),
            ("actor_token", &actor),
            ("actor_token_type", ACCESS_TOKEN.1),
        ];
        let first = side.exchange(&access(side).await, &more).await;
        let subject = first.text("access_token");
        side.exchange(&subject, &more).await
    };
    same(&sides, "a chain of actors", ask).await;
}

#[tokio::test]
async fn introspection_and_revocation_say_the_same_of_the_same_tokens() {
    let Some(sides) = both().await else {
        return;
    };
    let endpoint = "/token/introspection";
    for (what, client, parameters) in [
        ("nobody asks", As::Nobody, vec![("token", "unknown")]),
        (
            "a wrong secret",
            As::Basic(CONFIDENTIAL, "wrong"),
            vec![("token", "unknown")],
        ),
        ("no token", CLIENT, vec![]),
        ("an unknown token", CLIENT, vec![("token", "unknown")]),
    ] {
        for endpoint in [endpoint, "/token/revocation"] {
            let ask = async |side: &Side| side.post(endpoint, &client, &parameters).await;
            same(&sides, &format!("{endpoint}: {what}"), ask).await;
        }
    }
    for (member, resource) in [
        ("access_token", ""),
        ("access_token", API),
        ("refresh_token", ""),
    ] {
        let introspect = async |side: &Side, token: &str| {
            side.post(endpoint, &CLIENT, &[("token", token)]).await
        };
        let ask = async |side: &Side| {
            let token = side.log_in("openid", resource).await.text(member);
            introspect(side, &token).await
        };
        same(&sides, &format!("{member} for {resource:?}"), ask).await;
        let ask = async |side: &Side| {
            let token = side.log_in("openid", resource).await.text(member);
            let parameters = [("token", &*token)];
            let browser = As::Public("browser");
            let revoked = side.post("/token/revocation", &browser, &parameters).await;
            if !revoked.status.is_success() {
                return revoked;
            }
            introspect(side, &token).await
        };
        same(&sides, &format!("revoked {member} for {resource:?}"), ask).await;
    }
    let ask = async |side: &Side| {
        let said = side.log_in("openid", "").await;
        let parameters = [("token", &*said.text("refresh_token"))];
        side.post("/token/revocation", &As::Public("browser"), &parameters)
            .await;
        introspect_at(side, &said.text("access_token")).await
    };
    same(&sides, "the access token of a login that was revoked", ask).await;
    let ask = async |side: &Side| {
        let token = side.log_in("openid", "").await.text("refresh_token");
        let parameters = [("token", &*token)];
        side.post("/token/revocation", &CLIENT, &parameters).await;
        side.refresh(&As::Public("browser"), &token, "").await
    };
    same(&sides, "a refresh token that another client revoked", ask).await;
    let ask = async |side: &Side| {
        let token = side.log_in("openid", "").await.text("refresh_token");
        side.post("/token/revocation", &CLIENT, &[("token", &token)])
            .await
    };
    same(&sides, "the revocation of another client's token", ask).await;
}

async fn introspect_at(side: &Side, token: &str) -> Said {
    side.post("/token/introspection", &CLIENT, &[("token", token)])
        .await
}

/// What is changed in a good DPoP proof for the token endpoint.
#[cfg(feature = "dpop")]
struct Proof {
    key: support::key_pair::KeyPair,
    header: Value,
    claims: Value,
    id: String,
}

#[cfg(feature = "dpop")]
impl Proof {
    fn of(key: support::key_pair::KeyPair) -> Self {
        let id = format!("{:?}", std::time::Instant::now());
        let (header, claims) = (json!({}), json!({}));
        Self {
            key,
            header,
            claims,
            id,
        }
    }

    fn with(key: support::key_pair::KeyPair, header: Value, claims: Value) -> Self {
        Self {
            header,
            claims,
            ..Self::of(key)
        }
    }

    fn sign(&self, side: &Side) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mut jwk = self.key.public();
        for name in ["kid", "use", "alg"] {
            jwk.as_object_mut().unwrap().remove(name);
        }
        let mut header = json!({ "typ": "dpop+jwt", "alg": self.key.header()["alg"], "jwk": jwk });
        let mut claims = json!({
            "jti": self.id, "htm": "POST", "htu": format!("{}/token", side.issuer()),
            "iat": now.unwrap().as_secs(),
        });
        for (part, changes) in [(&mut header, &self.header), (&mut claims, &self.claims)] {
            let part = part.as_object_mut().unwrap();
            part.extend(changes.as_object().unwrap().clone());
            part.retain(|_, value| !value.is_null());
        }
        self.key.sign(&header, &claims)
    }
}

#[cfg(feature = "dpop")]
#[tokio::test]
async fn a_proof_binds_the_same_tokens_and_is_refused_for_the_same_reasons() {
    let Some(sides) = both().await else {
        return;
    };
    for resource in [API, ""] {
        let parameters = [("grant_type", "client_credentials"), ("resource", resource)];
        let ask = async |side: &Side| {
            let proof = Proof::of(P256).sign(side);
            side.post_with("/token", &CLIENT, &parameters, Some(proof))
                .await
        };
        let answers = same(&sides, &format!("a token for {resource:?}"), ask).await;
        assert_eq!(answers[0].json()["token_type"], "DPoP");
        if resource.is_empty() {
            let tokens = answers.map(|said| said.text("access_token"));
            let of = |side: &Side| &tokens[usize::from(matches!(side, Side::Theirs(..)))];
            let ask = async |side: &Side| {
                let parameters = [("token", of(side).as_str())];
                side.post("/token/introspection", &CLIENT, &parameters)
                    .await
            };
            let [ours, theirs] = same(&sides, "introspection", ask).await;
            assert_eq!(ours.json()["cnf"], theirs.json()["cnf"]);
            assert_eq!(ours.json()["token_type"], "DPoP");
        }
    }
    let header = |header: Value| Proof::with(P256, header, json!({}));
    let claims = |claims: Value| Proof::with(P256, json!({}), claims);
    for (what, proof) in [
        ("another type", header(json!({ "typ": "JWT" }))),
        ("no key", header(json!({ "jwk": null }))),
        ("another's key", header(json!({ "jwk": ED25519.public() }))),
        ("another method", claims(json!({ "htm": "GET" }))),
        (
            "another address",
            claims(json!({ "htu": "https://a.example.com/token" })),
        ),
        ("no address", claims(json!({ "htu": null }))),
        ("no id", claims(json!({ "jti": null }))),
        ("no time", claims(json!({ "iat": null }))),
        ("another time", claims(json!({ "iat": 1_700_000_000 }))),
        ("a nonce that is no text", claims(json!({ "nonce": 1 }))),
    ] {
        let parameters = [("grant_type", "client_credentials")];
        let ask = async |side: &Side| {
            let proof = Some(proof.sign(side));
            side.post_with("/token", &CLIENT, &parameters, proof).await
        };
        let [ours, _] = same(&sides, what, ask).await;
        assert_eq!(ours.json()["error"], "invalid_dpop_proof", "{what}");
    }
    let twice = async |side: &Side| {
        let parameters = [("grant_type", "client_credentials")];
        let proof = Proof::of(P256).sign(side);
        side.post_with("/token", &CLIENT, &parameters, Some(proof.clone()))
            .await;
        side.post_with("/token", &CLIENT, &parameters, Some(proof))
            .await
    };
    let [ours, _] = same(&sides, "the same proof twice", twice).await;
    assert_eq!(ours.json()["error"], "invalid_grant");
}

/// The thumbprint of the key of the tests.
#[cfg(feature = "dpop")]
fn thumbprint() -> String {
    let pem = Secret::new(P256.pem).unwrap();
    let key = tower_identity::oauth::DpopKey::from_pem(SigningAlgorithm::Es256, &pem);
    key.unwrap().thumbprint().to_owned()
}

#[cfg(feature = "dpop")]
#[tokio::test]
async fn a_code_and_a_refresh_token_are_bound_to_the_same_keys() {
    let Some(sides) = both().await else {
        return;
    };
    let keys = [None, Some(P256), Some(ED25519)];
    for bound_code in [false, true] {
        for redeemed_with in keys {
            let thumbprint = thumbprint();
            let log_in = async |side: &Side| {
                let mut asked = authorization("openid read", API);
                if bound_code {
                    asked.push(("dpop_jkt", &thumbprint));
                }
                let back = side.browse(&asked).await;
                let (_, code) = back.iter().find(|(name, _)| name == "code").unwrap();
                let parameters = [
                    ("grant_type", "authorization_code"),
                    ("redirect_uri", CALLBACK),
                    ("code", code),
                    ("code_verifier", VERIFIER),
                ];
                let proof = redeemed_with.map(|key| Proof::of(key).sign(side));
                let client = As::Public("browser");
                side.post_with("/token", &client, &parameters, proof).await
            };
            let what = format!("a code, bound: {bound_code}, with {redeemed_with:?}");
            let answers = same(&sides, &what, log_in).await;
            let is_good = !bound_code || redeemed_with == Some(P256);
            assert_eq!(answers[0].status == StatusCode::OK, is_good, "{what}");
            if !is_good {
                continue;
            }
            let mut tokens = answers.map(|said| said.text("refresh_token"));
            // The good one last, because the old token is spent then.
            let mut order = keys.to_vec();
            order.sort_by_key(|key| *key == redeemed_with);
            for refreshed_with in order {
                let of = |side: &Side| &tokens[usize::from(matches!(side, Side::Theirs(..)))];
                let refresh = async |side: &Side| {
                    let parameters = [("grant_type", "refresh_token"), ("refresh_token", of(side))];
                    let proof = refreshed_with.map(|key| Proof::of(key).sign(side));
                    let client = As::Public("browser");
                    side.post_with("/token", &client, &parameters, proof).await
                };
                let what = format!("{what}, refreshed with {refreshed_with:?}");
                let answers = same(&sides, &what, refresh).await;
                let is_good = redeemed_with.is_none() || refreshed_with == redeemed_with;
                assert_eq!(answers[0].status == StatusCode::OK, is_good, "{what}");
                if is_good {
                    tokens = answers.map(|said| said.text("refresh_token"));
                }
                if redeemed_with.is_none() {
                    break;
                }
            }
        }
    }
}

#[cfg(feature = "dpop")]
#[tokio::test]
async fn a_nonce_is_asked_for_in_the_same_way() {
    let Some(sides) = both_with(json!({ "nonce": true })).await else {
        return;
    };
    if let Side::Ours(issuer) = &sides[0] {
        issuer.require_dpop_nonce();
    }
    let parameters = [("grant_type", "client_credentials"), ("resource", API)];
    let ask = async |side: &Side, nonce: Value| {
        let proof = Proof::with(P256, json!({}), json!({ "nonce": nonce })).sign(side);
        side.post_with("/token", &CLIENT, &parameters, Some(proof))
            .await
    };
    let without = async |side: &Side| ask(side, Value::Null).await;
    let answers = same(&sides, "no nonce", without).await;
    assert_eq!(answers[0].json()["error"], "use_dpop_nonce");
    let wrong = async |side: &Side| ask(side, json!("wrong")).await;
    same(&sides, "a wrong nonce", wrong).await;
    let nonces = answers.map(|said| said.headers["dpop-nonce"].to_str().unwrap().to_owned());
    let of = |side: &Side| &nonces[usize::from(matches!(side, Side::Theirs(..)))];
    let right = async |side: &Side| ask(side, json!(of(side))).await;
    let [ours, _] = same(&sides, "the nonce", right).await;
    assert_eq!(ours.json()["token_type"], "DPoP");
}

#[cfg(feature = "dpop")]
#[tokio::test]
async fn a_protected_backend_takes_a_bound_token_with_a_proof_of_its_key_alone() {
    use sha2::{Digest, Sha256};
    use tower_identity::{
        TokenEndpoint,
        oauth::{DpopKey, TokenRequest},
        testing::TestBackend,
    };

    let issuer = TestIssuer::new("https://idp.example.com");
    let backend = TestBackend::new("https://api.example.com").protected_by(&issuer, API);
    let pem = Secret::new(P256.pem).unwrap();
    let endpoint = TokenEndpoint::builder(issuer.token_endpoint(), issuer.clone())
        .client_auth(ClientAuth::none("gateway"))
        .dpop(DpopKey::from_pem(SigningAlgorithm::Es256, &pem).unwrap())
        .build()
        .unwrap();
    let token = async || {
        let request = TokenRequest::client_credentials().resource(API);
        let response = endpoint.request_token(request).await.unwrap();
        response.token().expose().to_owned()
    };
    let side = Side::Ours(issuer.clone());
    let (bound, another) = (token().await, token().await);
    let plain = issuer.token("alice").audience(API).sign();
    let ath = |token: &str| {
        let hash = Sha256::digest(token);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash)
    };
    for (scheme, token, key, method, proven, admitted) in [
        ("DPoP", &bound, Some(P256), "GET", &bound, true),
        ("dpop", &bound, Some(P256), "GET", &bound, true),
        ("DPoP", &bound, Some(ED25519), "GET", &bound, false),
        ("DPoP", &bound, Some(P256), "POST", &bound, false),
        ("DPoP", &bound, Some(P256), "GET", &another, false),
        ("DPoP", &bound, None, "GET", &bound, false),
        ("Bearer", &bound, Some(P256), "GET", &bound, false),
        ("Bearer", &bound, None, "GET", &bound, false),
        ("DPoP", &plain, Some(P256), "GET", &plain, false),
        ("Bearer", &plain, None, "GET", &plain, true),
    ] {
        let claims = json!({
            "htm": method,
            "htu": "https://api.example.com/items",
            "ath": ath(proven),
        });
        let mut request = Request::get("https://api.example.com/items?page=1")
            .header(AUTHORIZATION, format!("{scheme} {token}"));
        if let Some(key) = key {
            let proof = Proof::with(key, json!({}), claims).sign(&side);
            request = request.header("dpop", proof);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = backend.clone().oneshot(request).await.unwrap();
        let what = format!("{scheme}, a proof of {key:?} for {method}");
        assert_eq!(response.status() == StatusCode::OK, admitted, "{what}");
        if !admitted {
            let challenge = &response.headers()[WWW_AUTHENTICATE];
            let challenge = challenge.to_str().unwrap();
            assert!(challenge.starts_with(&format!("{scheme} ")), "{what}");
        }
    }
}
