//! Cross-app access with the identity providers that exist: which tokens are exchanged for an assertion, what an assertion
//! must say, and how often an identity provider is asked.
#![cfg(feature = "incoming")]

mod support;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use support::{
    key_pair::P256,
    owner,
    token_stack::{Backend, Body, at, clock, jwt, seconds, secret, send, user, user_with_id_token},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_identity::{
    AccessToken, AuthErrorKind, AuthLayer, ClientAuth, CrossAppAccess, Identity, KeySet,
    ManualClock, MemoryStore, Origin, Subject, TokenEndpoint, TokenValidator, UpstreamToken,
    UpstreamTokenStore, UpstreamTokens,
    oauth::TokenType,
    strategy::CrossAppAccessBuilder,
    upstream::{Provider, ProviderTokens, RefreshTokenGrant},
};

const IDP: &str = "https://idp.example.com";
const AS: &str = "https://as.example.com";
const ID_JAG: &str = "urn:ietf:params:oauth:token-type:id-jag";

type Form = BTreeMap<String, String>;
type Answer = Result<Value, (u16, Value)>;

/// A token endpoint in this process, which remembers what it was sent.
#[derive(Clone)]
struct Endpoint {
    requests: Arc<Mutex<Vec<Form>>>,
    endpoint: TokenEndpoint,
}

impl Endpoint {
    fn new<R>(
        clock: &Arc<ManualClock>,
        answer: impl Fn(Form) -> R + Clone + Send + Sync + 'static,
    ) -> Self
    where
        R: Future<Output = Answer> + Send,
    {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = requests.clone();
        let client = service_fn(move |request: Request<Body>| {
            let (received, answer) = (received.clone(), answer.clone());
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let form: Form = form_urlencoded::parse(&body).into_owned().collect();
                received.lock().unwrap().push(form.clone());
                let (status, answer) = match answer(form).await {
                    Ok(answer) => (200, answer),
                    Err(refusal) => refusal,
                };
                let response = Response::builder()
                    .status(status)
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from(answer.to_string())));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        let endpoint = TokenEndpoint::builder("https://token.example.com", client)
            .client_auth(ClientAuth::basic("gateway", secret("client-secret-1")))
            .clock(clock.clone())
            .build()
            .unwrap();
        Self { requests, endpoint }
    }

    fn requests(&self) -> Vec<Form> {
        self.requests.lock().unwrap().clone()
    }
}

/// An answer with an assertion that has these claims beside what it needs.
fn assertion(typ: &str, exp: u64, claims: Value) -> String {
    let mut all = json!({ "iss": IDP, "aud": AS, "sub": "alice", "exp": exp });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    jwt(&json!({ "typ": typ }), &all)
}

fn issued(assertion: String, token_type: &str) -> Value {
    json!({ "access_token": assertion, "token_type": "N_A", "issued_token_type": token_type })
}

/// An identity provider that issues what `answer` makes.
fn identity_provider(
    clock: &Arc<ManualClock>,
    answer: impl Fn(Form) -> Answer + Clone + Send + Sync + 'static,
) -> Endpoint {
    Endpoint::new(clock, move |form| {
        let answer = answer(form);
        async { answer }
    })
}

/// An authorization server that issues a token for 60 s for whatever it is sent.
fn authorization_server(clock: &Arc<ManualClock>) -> Endpoint {
    Endpoint::new(clock, async |form| {
        let assertion = form["assertion"].len();
        Ok(json!({
            "access_token": format!("token-for-{assertion}"),
            "token_type": "Bearer",
            "expires_in": 60,
        }))
    })
}

fn strategy(
    clock: &Arc<ManualClock>,
    identity_provider: &Endpoint,
    authorization_server: &Endpoint,
) -> CrossAppAccessBuilder {
    CrossAppAccess::builder(
        "idp",
        identity_provider.endpoint.clone(),
        authorization_server.endpoint.clone(),
    )
    .audience(AS)
    .clock(clock.clone())
}

fn alice() -> Identity {
    let claims = json!({ "iss": IDP, "sub": "alice", "exp": 1_000_000 });
    user_with_id_token("alice", &jwt(&json!({}), &claims))
}

#[tokio::test]
async fn f61_an_assertion_need_not_name_the_resource_unless_that_is_demanded_and_names_no_other() {
    let resource = "https://mcp.example.com";
    let cases = [
        (json!({}), true, false),
        (json!({ "resource": null }), true, false),
        (json!({ "resource": resource }), true, true),
        (json!({ "resource": [resource] }), true, true),
        (json!({ "resource": [] }), false, false),
        (
            json!({ "resource": "https://other.example.com" }),
            false,
            false,
        ),
        (
            json!({ "resource": [resource, "https://other.example.com"] }),
            false,
            false,
        ),
        (json!({ "resource": 7 }), false, false),
    ];
    for (claims, is_passed_on, is_passed_on_if_demanded) in cases {
        for demanded in [false, true] {
            let (clock, backend) = (clock(), Backend::start().await);
            let made = assertion("oauth-id-jag+jwt", 300, claims.clone());
            let idp = identity_provider(&clock, move |_| Ok(issued(made.clone(), ID_JAG)));
            let server = authorization_server(&clock);
            let mut strategy = strategy(&clock, &idp, &server).resource(resource);
            if demanded {
                strategy = strategy.require_resource();
            }
            let client = backend.client(strategy.build().unwrap());
            let outcome = send(&client, backend.request(alice())).await;
            let expected = match demanded {
                true => is_passed_on_if_demanded,
                false => is_passed_on,
            };
            assert_eq!(outcome.is_ok(), expected, "{claims} {demanded}");
            assert_eq!(server.requests().len(), usize::from(expected));
            if let Err(error) = outcome {
                assert_eq!(error.kind(), AuthErrorKind::Unavailable);
            }
        }
    }
}

#[tokio::test]
async fn an_assertion_for_another_client_is_not_passed_on() {
    for (claims, is_passed_on) in [
        (json!({ "client_id": "gateway" }), true),
        (json!({}), true),
        (json!({ "client_id": "another" }), false),
        (json!({ "client_id": ["gateway", "another"] }), false),
        (json!({ "client_id": 7 }), false),
    ] {
        let (clock, backend) = (clock(), Backend::start().await);
        let made = assertion("oauth-id-jag+jwt", 300, claims.clone());
        let idp = identity_provider(&clock, move |_| Ok(issued(made.clone(), ID_JAG)));
        let server = authorization_server(&clock);
        let client = backend.client(strategy(&clock, &idp, &server).build().unwrap());
        let outcome = send(&client, backend.request(alice())).await;
        assert_eq!(outcome.is_ok(), is_passed_on, "{claims}");
    }
}

#[tokio::test]
async fn f62_any_of_the_users_tokens_may_be_exchanged_under_its_type() {
    let own = || user("alice", "own-token");
    let with_upstream = || {
        let token = UpstreamToken::new(AccessToken::new("upstream-token").unwrap());
        let identity = Identity::builder("alice").upstream("idp", token);
        identity.build().unwrap()
    };
    let urn = "urn:example:token-type:badge";
    for (identity, subject, token, token_type) in [
        (
            own(),
            Subject::own_token(),
            "own-token",
            TokenType::AccessToken.urn().to_owned(),
        ),
        (
            with_upstream(),
            Subject::upstream("idp"),
            "upstream-token",
            "urn:ietf:params:oauth:token-type:access_token".to_owned(),
        ),
        (
            with_upstream(),
            Subject::upstream("idp").as_type(TokenType::Saml2),
            "upstream-token",
            "urn:ietf:params:oauth:token-type:saml2".to_owned(),
        ),
        (
            own(),
            Subject::own_token().as_type(TokenType::of_urn(urn)),
            "own-token",
            urn.to_owned(),
        ),
    ] {
        let (clock, backend) = (clock(), Backend::start().await);
        let made = assertion("oauth-id-jag+jwt", 300, json!({}));
        let idp = identity_provider(&clock, move |_| Ok(issued(made.clone(), ID_JAG)));
        let server = authorization_server(&clock);
        let strategy = strategy(&clock, &idp, &server).subject(subject).issuer(IDP);
        let client = backend.client(strategy.build().unwrap());
        send(&client, backend.request(identity)).await.unwrap();
        let sent = idp.requests().remove(0);
        assert_eq!(sent["subject_token"], token);
        assert_eq!(sent["subject_token_type"], token_type);
        assert_eq!(sent["requested_token_type"], ID_JAG);
    }
}

#[tokio::test]
async fn an_assertion_may_be_any_jwt_for_the_authorization_server_if_that_is_set() {
    let (clock, backend) = (clock(), Backend::start().await);
    let jwt_type = TokenType::Jwt.urn().to_owned();
    let made = assertion("JWT", 300, json!({}));
    let issue = move |form: Form| Ok(issued(made.clone(), &form["requested_token_type"]));
    let idp = identity_provider(&clock, issue);
    let server = authorization_server(&clock);
    let chained = strategy(&clock, &idp, &server).assertion_type(TokenType::Jwt);
    let client = backend.client(chained.build().unwrap());
    send(&client, backend.request(alice())).await.unwrap();
    assert_eq!(idp.requests()[0]["requested_token_type"], jwt_type);

    let id_jag = backend.client(strategy(&clock, &idp, &server).build().unwrap());
    let refused = send(&id_jag, backend.request(alice())).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Unavailable);
}

#[tokio::test]
async fn an_assertion_is_used_until_its_own_end_and_the_identity_provider_is_not_asked_before() {
    let (clock, backend) = (clock(), Backend::start().await);
    let told = clock.clone();
    let idp = identity_provider(&clock, move |_| {
        let now = tower_identity::Clock::now(&*told).duration_since(at(0));
        let end = now.unwrap().as_secs() + 300;
        Ok(issued(
            assertion("oauth-id-jag+jwt", end, json!({})),
            ID_JAG,
        ))
    });
    let server = authorization_server(&clock);
    let client = backend.client(strategy(&clock, &idp, &server).build().unwrap());
    for renewal in 0..5 {
        send(&client, backend.request(alice())).await.unwrap();
        assert_eq!(server.requests().len(), renewal + 1);
        assert_eq!(idp.requests().len(), 1);
        clock.advance(seconds(60));
    }
    send(&client, backend.request(alice())).await.unwrap();
    assert_eq!(idp.requests().len(), 2);
}

#[tokio::test]
async fn more_scope_needs_another_assertion_and_goes_to_whom_scopes_are_sent() {
    let clock = clock();
    for (target_scopes, at_server) in [
        (&[][..], [None, None]),
        (
            &["chat.read"][..],
            [Some("chat.read"), Some("chat.read chat.write")],
        ),
    ] {
        let made = assertion("oauth-id-jag+jwt", 300, json!({}));
        let idp = identity_provider(&clock, move |_| Ok(issued(made.clone(), ID_JAG)));
        let count = Arc::new(Mutex::new(0));
        let server = Endpoint::new(&clock, move |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            let token = json!({
                "access_token": format!("token-{count}"), "token_type": "Bearer", "expires_in": 60,
            });
            std::future::ready(Ok(token))
        });
        let strategy = strategy(&clock, &idp, &server)
            .scopes(["chat.read"])
            .authorization_server_scopes(target_scopes)
            .build()
            .unwrap();
        let backend = service_fn(async |request: Request<Body>| {
            let mut response = Response::new(Body::default());
            if request.headers()["authorization"] == "Bearer token-1" {
                *response.status_mut() = http::StatusCode::FORBIDDEN;
                let challenge = r#"Bearer error="insufficient_scope", scope="chat.write""#;
                let challenge = challenge.parse().unwrap();
                response.headers_mut().insert("www-authenticate", challenge);
            }
            Ok::<_, Infallible>(response)
        });
        let origin = Origin::try_from("https://mcp.example.com").unwrap();
        let layer = AuthLayer::new(origin, strategy).retry_rejected();
        let client = layer.step_up(["chat.write"]).layer(backend);
        for _ in 0..2 {
            let mut request = Request::post("https://mcp.example.com/mcp");
            request.extensions_mut().unwrap().insert(alice());
            let request = request.body(Body::default()).unwrap();
            let response = client.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), http::StatusCode::OK);
        }
        let scopes = |endpoint: &Endpoint| {
            let requests = endpoint.requests().into_iter();
            let scopes = requests.map(|form| form.get("scope").cloned());
            scopes.collect::<Vec<_>>()
        };
        let at_idp = [Some("chat.read"), Some("chat.read chat.write")];
        assert_eq!(scopes(&idp), at_idp.map(|scope| scope.map(str::to_owned)));
        assert_eq!(
            scopes(&server),
            at_server.map(|scope| scope.map(str::to_owned))
        );
    }
}

#[tokio::test]
async fn an_assertion_that_is_refused_when_it_is_used_again_is_replaced_once() {
    let (clock, backend) = (clock(), Backend::start().await);
    let count = Arc::new(Mutex::new(0));
    let idp = identity_provider(&clock, move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        let claims = json!({ "jti": *count });
        Ok(issued(assertion("oauth-id-jag+jwt", 300, claims), ID_JAG))
    });
    // It takes each assertion once.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let refuses_all = Arc::new(Mutex::new(false));
    let is_closed = refuses_all.clone();
    let server = Endpoint::new(&clock, move |form| {
        let mut seen = seen.lock().unwrap();
        let is_replayed = seen.contains(&form["assertion"]) || *is_closed.lock().unwrap();
        seen.push(form["assertion"].clone());
        let answer = match is_replayed {
            true => Err((400, json!({ "error": "invalid_grant" }))),
            false => Ok(json!({
                "access_token": format!("token-{}", seen.len()),
                "token_type": "Bearer",
                "expires_in": 60,
            })),
        };
        async { answer }
    });
    let client = backend.client(strategy(&clock, &idp, &server).build().unwrap());
    send(&client, backend.request(alice())).await.unwrap();
    clock.advance(seconds(60));
    send(&client, backend.request(alice())).await.unwrap();
    assert_eq!((idp.requests().len(), server.requests().len()), (2, 3));

    *refuses_all.lock().unwrap() = true;
    clock.advance(seconds(60));
    let refused = send(&client, backend.request(alice())).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Rejected);
    assert_eq!((idp.requests().len(), server.requests().len()), (3, 5));
}

/// An identity provider that issues an assertion for a refresh token, and a successor of it where `rotates` says so. A
/// refresh token that was used before is refused.
fn rotating(clock: &Arc<ManualClock>, rotates: bool) -> Endpoint {
    let used = Arc::new(Mutex::new(0));
    Endpoint::new(clock, move |form| {
        let used = used.clone();
        async move {
            tokio::task::yield_now().await;
            let mut used = used.lock().unwrap();
            if form["subject_token"] != format!("refresh-{used}") {
                return Err((400, json!({ "error": "invalid_grant" })));
            }
            let mut answer = issued(assertion("oauth-id-jag+jwt", 300, json!({})), ID_JAG);
            if rotates {
                *used += 1;
                answer["refresh_token"] = json!(format!("refresh-{used}"));
            }
            Ok(answer)
        }
    })
}

async fn store_with_tokens() -> MemoryStore {
    let store = MemoryStore::new();
    let token = UpstreamToken::new(AccessToken::new("idp-access-token").unwrap());
    let tokens = ProviderTokens::new(token, at(0)).with_refresh_token(secret("refresh-0"));
    store.put(&owner("alice"), "idp", &tokens).await.unwrap();
    store
}

async fn refresh_token_in(store: &MemoryStore) -> Option<String> {
    let stored = store.load(&owner("alice")).await.unwrap();
    let refresh_token = stored.get("idp")?.tokens().refresh_token()?;
    Some(refresh_token.expose().to_owned())
}

fn upstream(store: &MemoryStore, idp: &Endpoint, clock: &Arc<ManualClock>) -> UpstreamTokens {
    let provider = Provider::builder("idp", RefreshTokenGrant::new(idp.endpoint.clone()));
    UpstreamTokens::new(store.clone(), [provider.build().unwrap()]).clock(clock.clone())
}

/// Presents the user's refresh token from this store.
fn of_refresh_token(
    clock: &Arc<ManualClock>,
    idp: &Endpoint,
    server: &Endpoint,
    store: &MemoryStore,
) -> CrossAppAccess {
    strategy(clock, idp, server)
        .refresh_token_of(upstream(store, idp, clock))
        .issuer(IDP)
        .build()
        .unwrap()
}

/// Alice, as a validator makes her: with the tokens that were loaded for her.
fn loaded_alice(id: &str) -> Identity {
    let token = UpstreamToken::new(AccessToken::new("idp-access-token").unwrap());
    Identity::builder(id)
        .issuer("https://issuer.example.com")
        .upstream("idp", token)
        .build()
        .unwrap()
}

#[tokio::test]
async fn f62_a_refresh_token_is_exchanged_and_its_successor_is_stored_before_the_assertion_is_used()
{
    let (clock, backend) = (clock(), Backend::start().await);
    let idp = rotating(&clock, true);
    let store = store_with_tokens().await;
    let looked = store.clone();
    let server = Endpoint::new(&clock, move |_| {
        let looked = looked.clone();
        async move {
            let stored = refresh_token_in(&looked).await;
            assert_eq!(stored.as_deref(), Some("refresh-1"));
            Ok(json!({ "access_token": "issued-1", "token_type": "Bearer", "expires_in": 60 }))
        }
    });
    let client = backend.client(of_refresh_token(&clock, &idp, &server, &store));
    for _ in 0..3 {
        send(&client, backend.request(loaded_alice("alice")))
            .await
            .unwrap();
    }
    let sent = idp.requests().remove(0);
    assert_eq!(idp.requests().len(), 1);
    assert_eq!(sent["subject_token"], "refresh-0");
    assert_eq!(
        sent["subject_token_type"],
        "urn:ietf:params:oauth:token-type:refresh_token"
    );
    let other = loaded_alice("bob");
    let refused = send(&client, backend.request(other)).await.unwrap_err();
    assert_eq!(
        refused.kind(),
        AuthErrorKind::Rejected,
        "Bob has no refresh token"
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn f62_replicas_that_exchange_a_refresh_token_at_once_each_present_the_newest() {
    for rotates in [true, false] {
        let (clock, backend) = (clock(), Backend::start().await);
        let idp = rotating(&clock, rotates);
        let server = authorization_server(&clock);
        let store = store_with_tokens().await;
        let clients = (0..5).map(|_| {
            let strategy = strategy(&clock, &idp, &server)
                .refresh_token_of(upstream(&store, &idp, &clock))
                .issuer(IDP);
            backend.client(strategy.build().unwrap())
        });
        let clients: Vec<_> = clients.collect();
        let sent = clients
            .iter()
            .map(|client| send(client, backend.request(loaded_alice("alice"))));
        for outcome in join_all(sent).await {
            outcome.unwrap();
        }
        assert_eq!(idp.requests().len(), 5);
        let last = if rotates { "refresh-5" } else { "refresh-0" };
        assert_eq!(refresh_token_in(&store).await.as_deref(), Some(last));
    }
}

/// The refresh token of each session is another one, and a validator leaves the session out of the claims.
#[tokio::test]
async fn f62_the_refresh_token_of_a_session_is_found_by_the_session_that_the_user_came_with() {
    let (clock, backend) = (clock(), Backend::start().await);
    let issuer = "https://issuer.example.com";
    let idp = identity_provider(&clock, |form| {
        let session = form["subject_token"].clone();
        Ok(issued(
            assertion("oauth-id-jag+jwt", 300, json!({ "sid": session })),
            ID_JAG,
        ))
    });
    let server = Endpoint::new(&clock, async |form| {
        let jwt = form["assertion"].split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jwt).unwrap()).unwrap();
        let session = claims["sid"].as_str().unwrap();
        Ok(
            json!({ "access_token": format!("for-{session}"), "token_type": "Bearer", "expires_in": 60 }),
        )
    });
    let store = MemoryStore::new();
    for session in ["laptop", "phone"] {
        let token = UpstreamToken::new(AccessToken::new("idp-access-token").unwrap());
        let tokens = ProviderTokens::new(token, at(0))
            .with_refresh_token(secret(&format!("refresh-{session}")));
        let owner = owner("alice").with_session(session);
        store.put(&owner, "idp", &tokens).await.unwrap();
    }
    let upstream = upstream(&store, &idp, &clock).session_claim("sid");
    let validator = TokenValidator::builder_with_keys(
        issuer,
        KeySet::from_json(json!({ "keys": [P256.public()] }).to_string()).unwrap(),
    )
    .audience("gateway")
    .upstream_tokens(upstream.clone())
    .clock(clock.clone())
    .build()
    .unwrap();
    let client = strategy(&clock, &idp, &server)
        .refresh_token_of(upstream)
        .issuer(IDP)
        .build()
        .unwrap();
    let client = backend.client(client);
    let came_with = |session: Option<&str>| {
        let mut claims = json!({ "iss": issuer, "sub": "alice", "aud": "gateway", "exp": 3600 });
        if let Some(session) = session {
            claims["sid"] = json!(session);
        }
        P256.sign(&P256.header(), &claims)
    };
    for session in ["laptop", "phone", "laptop"] {
        let identity = validator.validate(&came_with(Some(session))).await.unwrap();
        assert_eq!(identity.claims().get("sid"), None);
        send(&client, backend.request(identity)).await.unwrap();
        let sent = backend.authorizations().pop().unwrap();
        assert_eq!(sent, [format!("Bearer for-refresh-{session}")]);
    }
    // An application that validates tokens itself leaves the claim where it is.
    let token = UpstreamToken::new(AccessToken::new("idp-access-token").unwrap());
    let own = |claims: Value| {
        Identity::builder("alice")
            .issuer(issuer)
            .claims(claims.as_object().unwrap().clone())
            .upstream("idp", token.clone())
            .build()
            .unwrap()
    };
    send(&client, backend.request(own(json!({ "sid": "phone" }))))
        .await
        .unwrap();
    assert_eq!(
        backend.authorizations().pop().unwrap(),
        ["Bearer for-refresh-phone"]
    );
    assert_eq!(idp.requests().len(), 2, "each session has one assertion");

    let sent = backend.authorizations().len();
    for claims in [
        json!({}),
        json!({ "sid": " " }),
        json!({ "sid": 7 }),
        json!({ "sid": ["phone"] }),
    ] {
        let refused = send(&client, backend.request(own(claims)))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::MissingToken);
    }
    let refused = send(&client, backend.request(own(json!({ "sid": "stolen" })))).await;
    assert_eq!(refused.unwrap_err().kind(), AuthErrorKind::Rejected);
    assert_eq!(backend.authorizations().len(), sent);
}

/// The tokens of an account at the identity provider, with an ID token or without one.
fn account(name: &str, issue: u32, has_id_token: bool) -> ProviderTokens {
    let access_token = AccessToken::new(format!("{name}-{issue}")).unwrap();
    let mut token = UpstreamToken::new(access_token);
    if has_id_token {
        let claims = json!({ "iss": IDP, "sub": name, "iat": issue });
        token = token.with_id_token(secret(&jwt(&json!({}), &claims)));
    }
    ProviderTokens::new(token, at(0)).with_refresh_token(secret(&format!("refresh-{name}")))
}

fn linked_alice(tokens: &ProviderTokens) -> Identity {
    Identity::builder("alice")
        .issuer("https://issuer.example.com")
        .upstream("idp", tokens.token().clone())
        .build()
        .unwrap()
}

/// Issues a token of the account whose refresh token is presented.
fn by_account(clock: &Arc<ManualClock>) -> (Endpoint, Endpoint) {
    let idp = identity_provider(clock, |form| {
        let account = form["subject_token"].clone();
        let made = assertion("oauth-id-jag+jwt", 3600, json!({ "account": account }));
        Ok(issued(made, ID_JAG))
    });
    let server = Endpoint::new(clock, async |form| {
        let jwt = form["assertion"].split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(jwt).unwrap()).unwrap();
        let token = format!("for-{}", claims["account"].as_str().unwrap());
        Ok(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 600 }))
    });
    (idp, server)
}

#[tokio::test]
async fn f91_a_user_who_links_another_account_gets_tokens_of_that_account_at_once() {
    for has_id_token in [true, false] {
        let (clock, backend) = (clock(), Backend::start().await);
        let (idp, server) = by_account(&clock);
        let store = MemoryStore::new();
        let client = backend.client(of_refresh_token(&clock, &idp, &server, &store));
        for name in ["private", "work", "private"] {
            let linked = account(name, 1, has_id_token);
            store.put(&owner("alice"), "idp", &linked).await.unwrap();
            send(&client, backend.request(linked_alice(&linked)))
                .await
                .unwrap();
            let sent = backend.authorizations().pop().unwrap();
            assert_eq!(sent, [format!("Bearer for-refresh-{name}")]);
        }
        assert_eq!(idp.requests().len(), 2, "each account has one assertion");
        // A refresh brings other tokens of the same account.
        let refreshed = linked_alice(&account("private", 2, has_id_token));
        for _ in 0..2 {
            send(&client, backend.request(refreshed.clone()))
                .await
                .unwrap();
        }
        let outlives = "and it outlives a refresh, if it is known whose it is";
        let expected = if has_id_token { 2 } else { 3 };
        assert_eq!(idp.requests().len(), expected, "{outlives}");
    }
}

#[tokio::test]
async fn f91_a_user_who_links_the_same_account_again_is_not_refused_for_what_failed_before() {
    for refusal in [
        (400, json!({ "error": "invalid_grant" })),
        (503, json!({ "error": "temporarily_unavailable" })),
    ] {
        let (clock, backend) = (clock(), Backend::start().await);
        let idp = identity_provider(&clock, move |form| match &*form["subject_token"] {
            "refresh-work" => Err(refusal.clone()),
            _ => Ok(issued(
                assertion("oauth-id-jag+jwt", 3600, json!({})),
                ID_JAG,
            )),
        });
        let server = authorization_server(&clock);
        let store = MemoryStore::new();
        let client = backend.client(of_refresh_token(&clock, &idp, &server, &store));
        let ended = account("work", 1, true);
        store.put(&owner("alice"), "idp", &ended).await.unwrap();
        for _ in 0..2 {
            let refused = send(&client, backend.request(linked_alice(&ended))).await;
            refused.unwrap_err();
        }
        assert_eq!(idp.requests().len(), 1, "the failure is remembered");
        let again = account("work", 2, true).with_refresh_token(secret("refresh-new"));
        store.put(&owner("alice"), "idp", &again).await.unwrap();
        send(&client, backend.request(linked_alice(&again)))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_request_that_began_before_another_account_was_linked_does_not_leave_with_its_token() {
    let (clock, backend) = (clock(), Backend::start().await);
    let (idp, server) = by_account(&clock);
    let store = MemoryStore::new();
    let client = backend.client(of_refresh_token(&clock, &idp, &server, &store));
    let [private, work] = ["private", "work"].map(|name| account(name, 1, true));
    store.put(&owner("alice"), "idp", &work).await.unwrap();
    let before = linked_alice(&private);
    let refused = send(&client, backend.request(before)).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Unavailable);
    assert!(refused.to_string().contains("another account"), "{refused}");
    assert!(idp.requests().is_empty(), "no refresh token is used up");

    send(&client, backend.request(linked_alice(&work)))
        .await
        .unwrap();
    let sent = backend.authorizations().pop().unwrap();
    assert_eq!(sent, ["Bearer for-refresh-work"]);
}

#[tokio::test]
async fn a_refusal_of_one_access_does_not_end_the_login_and_a_successor_is_stored_in_any_case() {
    let (clock, backend) = (clock(), Backend::start().await);
    let idp = identity_provider(&clock, |form| match &*form["subject_token"] {
        "refresh-0" => {
            let expired = assertion("oauth-id-jag+jwt", 0, json!({}));
            let mut answer = issued(expired, ID_JAG);
            answer["refresh_token"] = json!("refresh-1");
            Ok(answer)
        }
        _ => Err((400, json!({ "error": "invalid_grant" }))),
    });
    let server = authorization_server(&clock);
    let store = store_with_tokens().await;
    let client = backend.client(of_refresh_token(&clock, &idp, &server, &store));
    for kind in [AuthErrorKind::Unavailable, AuthErrorKind::Rejected] {
        let refused = send(&client, backend.request(loaded_alice("alice"))).await;
        assert_eq!(refused.unwrap_err().kind(), kind);
        assert_eq!(refresh_token_in(&store).await.as_deref(), Some("refresh-1"));
        clock.advance(seconds(60));
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_subject_that_does_not_say_who_issued_it_needs_the_issuer() {
    let clock = clock();
    let idp = rotating(&clock, false);
    let server = authorization_server(&clock);
    let upstream = || UpstreamTokens::new(MemoryStore::new(), []);
    let builder = || strategy(&clock, &idp, &server);
    for (builder, setting) in [
        (builder().subject(Subject::own_token()), "issuer"),
        (builder().refresh_token_of(upstream()), "issuer"),
        (
            builder()
                .issuer(IDP)
                .refresh_token_of(upstream())
                .subject(Subject::own_token()),
            "refresh_token_of",
        ),
        (
            builder()
                .issuer(IDP)
                .subject(Subject::own_token().as_type(TokenType::of_urn("badge"))),
            "subject",
        ),
        (
            builder().assertion_type(TokenType::AccessToken),
            "assertion_type",
        ),
    ] {
        let error = builder.build().unwrap_err();
        let settings = error.invalid_settings().iter();
        let settings: Vec<_> = settings.map(|invalid| invalid.setting()).collect();
        assert_eq!(settings, [setting]);
    }
}
