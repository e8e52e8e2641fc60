//! What the crate offers for tests of others: an issuer, a backend, and one clock for all of them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::json;
use tokio::net::TcpListener;
use tower::{BoxError, Layer, ServiceExt, service_fn};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, ClientAuth, ClientCredentials, CrossAppAccess,
    DefaultClock, Identity, IntrospectionEndpoint, ManualClock, OnBehalfOf, Secret, Strategy,
    TokenEndpoint, TokenExchange, TokenValidator, UpstreamInject,
    oauth::{Lifetime, PrivateKeyJwt, SigningAlgorithm, TokenRequest},
    testing::{Answer, TestBackend, TestIssuer, TestNetwork, identity},
};

const GATEWAY: &str = "https://gateway.example.com";
const API: &str = "https://api.example.com";
const HOUR: Duration = Duration::from_secs(3600);

fn clock() -> (Arc<ManualClock>, DefaultClock) {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let default = DefaultClock::set(clock.clone());
    (clock, default)
}

fn validator(issuer: &TestIssuer) -> TokenValidator {
    TokenValidator::builder(issuer.url(), issuer.clone())
        .audience(GATEWAY)
        .build()
        .unwrap()
}

fn endpoint(issuer: &TestIssuer) -> TokenEndpoint {
    let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
    TokenEndpoint::builder(issuer.token_endpoint(), issuer.clone())
        .client_auth(ClientAuth::basic("gateway", secret))
        .build()
        .unwrap()
}

fn request(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).unwrap()
}

fn kind(error: &BoxError) -> AuthErrorKind {
    AuthError::find_in(&**error).unwrap().kind()
}

#[tokio::test]
async fn a_token_with_any_claims_is_validated_until_it_expires() {
    let (clock, _default) = clock();
    let issuer = TestIssuer::new("https://idp.example.com/tenant");
    let validator = validator(&issuer);
    let token = issuer.token("alice").audience(GATEWAY).scope("read");
    let token = token.claim("groups", json!(["admins"])).sign();
    let alice = validator.validate(&token).await.unwrap();
    assert_eq!(
        (alice.subject(), alice.issuer()),
        ("alice", Some(issuer.url()))
    );
    assert_eq!(alice.claims()["groups"], json!(["admins"]));
    clock.advance(HOUR + Duration::from_secs(120));
    let refused = validator.validate(&token).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Expired);
}

#[tokio::test]
async fn a_token_that_is_wrong_in_any_way_is_refused() {
    let (_clock, _default) = clock();
    let issuer = TestIssuer::new("https://idp.example.com");
    let other = TestIssuer::new("https://idp.example.com");
    let validator = validator(&issuer);
    let token = || issuer.token("alice").audience(GATEWAY);
    validator.validate(&token().sign()).await.unwrap();
    for wrong in [
        token().audience(API).sign(),
        token().claim("aud", json!(null)).sign(),
        token().claim("sub", json!(null)).sign(),
        token().claim("iss", "https://other.example.com").sign(),
        token()
            .expires_in(Duration::ZERO)
            .claim("nbf", u32::MAX)
            .sign(),
        token()
            .header("typ", "JWT")
            .claim("nonce", "of an ID token")
            .sign()
            + "x",
    ] {
        let refused = validator.validate(&wrong).await.unwrap_err();
        assert_eq!(refused.kind(), AuthErrorKind::Rejected, "{refused}");
    }
    let expired = validator.validate(&token().claim("exp", 1).sign()).await;
    assert_eq!(expired.unwrap_err().kind(), AuthErrorKind::Expired);
    let of_an_unknown_key = other.token("alice").audience(GATEWAY).sign();
    assert_eq!(issuer.claims(&of_an_unknown_key), None);
    validator.validate(&of_an_unknown_key).await.unwrap_err();
}

#[tokio::test]
async fn an_opaque_token_is_admitted_by_introspection_until_it_is_revoked() {
    let issuer = TestIssuer::new("https://idp.example.com");
    let secret = Secret::new("7Fjfp0ZBr1KtDRbnfVdmIw").unwrap();
    let gateway = ClientAuth::post("gateway", secret);
    issuer.register_client(&gateway);
    let introspection =
        IntrospectionEndpoint::builder(issuer.introspection_endpoint(), issuer.clone())
            .client_auth(gateway);
    let validator = TokenValidator::builder(issuer.url(), issuer.clone())
        .audience(GATEWAY)
        .introspection(introspection.build().unwrap())
        .build()
        .unwrap();
    let token = issuer.token("alice").audience(GATEWAY).opaque();
    assert_eq!(validator.validate(&token).await.unwrap().subject(), "alice");
    issuer.revoke(&token);
    let refused = validator.validate(&token).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::Rejected);
}

#[tokio::test]
async fn keys_are_rotated_and_withdrawn() {
    let (clock, _default) = clock();
    let issuer = TestIssuer::new("https://idp.example.com");
    let validator = validator(&issuer);
    let token = || issuer.token("alice").audience(GATEWAY).sign();
    let first = token();
    validator.validate(&first).await.unwrap();
    issuer.rotate_keys();
    clock.advance(Duration::from_secs(60));
    validator.validate(&token()).await.unwrap();
    validator.validate(&first).await.unwrap();
    issuer.withdraw_old_keys();
    assert_eq!(issuer.claims(&first), None);
    assert!(issuer.claims(&token()).is_some());
}

/// The answer to a request of `user` that leaves through `strategy`.
async fn send<A>(strategy: A, user: &Identity, backend: &TestBackend) -> StatusCode
where
    A: Strategy<Full<Bytes>> + Clone + Send + Sync + 'static,
{
    let client = AuthLayer::new(backend.origin(), strategy).layer(backend.clone());
    let mut request = request(API);
    request.extensions_mut().insert(user.clone());
    client.oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn every_strategy_with_issued_tokens_gets_one_that_a_protected_backend_admits() {
    let issuer = TestIssuer::new("https://idp.example.com");
    let backend = TestBackend::new(API).protected_by(&issuer, API);
    let alice = issuer.identity("alice", GATEWAY);
    let exchange = TokenExchange::builder(endpoint(&issuer)).audience(API);
    let status = send(exchange.build().unwrap(), &alice, &backend).await;
    assert_eq!(status, StatusCode::OK);
    let claims = issuer.claims(backend.request().bearer_token().unwrap());
    let claims = claims.unwrap();
    assert_eq!(
        (&claims["sub"], &claims["aud"]),
        (&json!("alice"), &json!(API))
    );

    let own = ClientCredentials::builder(endpoint(&issuer)).resource(API);
    let status = send(own.build().unwrap(), &alice, &backend).await;
    assert_eq!(status, StatusCode::OK);
    let claims = issuer.claims(backend.request().bearer_token().unwrap());
    assert_eq!(claims.unwrap()["sub"], "gateway");

    let on_behalf = OnBehalfOf::builder(endpoint(&issuer)).scopes(["api://backend/.default"]);
    let status = send(on_behalf.build().unwrap(), &alice, &backend).await;
    assert_eq!(status, StatusCode::OK);
    let claims = issuer.claims(backend.request().bearer_token().unwrap());
    assert_eq!(claims.unwrap()["sub"], "alice");

    let server = TestIssuer::new("https://auth.chat.example");
    server.trust(&issuer);
    let chat = TestBackend::new(API).protected_by(&server, API);
    let alice = Identity::builder("alice")
        .upstream("idp", issuer.log_in("alice", None).token().clone())
        .build()
        .unwrap();
    let cross = CrossAppAccess::builder("idp", endpoint(&issuer), endpoint(&server))
        .audience(server.url())
        .resource(API)
        .scopes(["chat.read"]);
    let status = send(cross.build().unwrap(), &alice, &chat).await;
    assert_eq!(status, StatusCode::OK);
    let claims = server.claims(chat.request().bearer_token().unwrap());
    let claims = claims.unwrap();
    assert_eq!(
        (&claims["sub"], &claims["scope"]),
        (&json!("alice"), &json!("chat.read"))
    );
}

#[tokio::test]
async fn a_client_is_admitted_by_its_own_secret_or_key_and_no_other() {
    let issuer = TestIssuer::new("https://idp.example.com");
    let key = |algorithm: SigningAlgorithm| {
        let pem = match algorithm {
            SigningAlgorithm::Es256 => include_str!("support/keys/p256.pem"),
            _ => include_str!("support/keys/ed25519.pem"),
        };
        let key = PrivateKeyJwt::builder(algorithm, &Secret::new(pem).unwrap());
        key.key_id("key").build().unwrap()
    };
    let (pem, other) = (SigningAlgorithm::Es256, SigningAlgorithm::EdDsa);
    let secret = |text: &str| Secret::new(text).unwrap();
    let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ3b3JrbG9hZCJ9.c2ln";
    for client in [
        ClientAuth::private_key_jwt("signing", key(pem)),
        ClientAuth::basic("basic", secret("7Fjfp0ZBr1Kt")),
        ClientAuth::assertion("workload", secret(jwt)),
    ] {
        issuer.register_client(&client);
    }
    for (client, is_admitted) in [
        (ClientAuth::private_key_jwt("signing", key(pem)), true),
        (ClientAuth::private_key_jwt("signing", key(other)), false),
        (ClientAuth::private_key_jwt("basic", key(pem)), false),
        (ClientAuth::basic("basic", secret("7Fjfp0ZBr1Kt")), true),
        (ClientAuth::post("basic", secret("7Fjfp0ZBr1Kt")), true),
        (ClientAuth::basic("basic", secret("wrong")), false),
        (ClientAuth::basic("signing", secret("7Fjfp0ZBr1Kt")), false),
        (ClientAuth::assertion("workload", secret(jwt)), true),
        (
            ClientAuth::assertion("workload", secret(&format!("{jwt}x"))),
            false,
        ),
    ] {
        let shown = format!("{client:?}");
        let endpoint = TokenEndpoint::builder(issuer.token_endpoint(), issuer.clone())
            .client_auth(client)
            .build()
            .unwrap();
        let answer = endpoint
            .request_token(TokenRequest::client_credentials())
            .await;
        assert_eq!(answer.is_ok(), is_admitted, "{shown}");
    }
}

#[tokio::test]
async fn a_refresh_token_is_good_once_and_until_the_login_is_revoked() {
    let (_clock, _default) = clock();
    let issuer = TestIssuer::new("https://idp.example.com");
    issuer.set_token_lifetime(Duration::from_secs(60));
    let refresh = async |token: &str| {
        let answer = endpoint(&issuer)
            .request_token(TokenRequest::refresh_token(token))
            .await;
        answer.map_err(|error| error.kind())
    };
    let login = issuer.log_in("alice", API);
    let first = login.refresh_token().unwrap().expose();
    let answer = refresh(first).await.unwrap();
    assert_eq!(answer.lifetime(), Lifetime::For(Duration::from_secs(60)));
    let claims = issuer.claims(answer.token().expose()).unwrap();
    assert_eq!(
        (&claims["sub"], &claims["aud"]),
        (&json!("alice"), &json!(API))
    );
    let second = answer.refresh_token().unwrap().expose();
    issuer.revoke_logins("bob");
    issuer.revoke_logins("alice");
    assert_eq!(refresh(second).await.unwrap_err(), AuthErrorKind::Rejected);
    let again = issuer.log_in("alice", None);
    refresh(again.refresh_token().unwrap().expose())
        .await
        .unwrap();
}

#[cfg(feature = "linking")]
#[tokio::test]
async fn a_user_links_an_account_without_a_browser() {
    use http::header::{COOKIE, LOCATION, SET_COOKIE};
    use tower_identity::{
        AccountLinking, MemoryStore, UpstreamTokens,
        upstream::{OAuthProvider, ProviderSettings, TokenOwner},
    };

    let github = TestIssuer::new("https://github.example.com");
    let network = TestNetwork::new().issuer(&github);
    let settings = ProviderSettings::discovered(github.url()).scopes(["openid"]);
    let client = OAuthProvider::builder(settings, ClientAuth::none("gateway"), network);
    let provider = client.build().unwrap().provider("github").optional();
    let upstream = UpstreamTokens::new(MemoryStore::new(), [provider.build().unwrap()]);
    let linking = AccountLinking::builder("https://gateway.example.com/accounts", upstream.clone());
    let linking = linking.build().unwrap();
    let alice = identity("alice", []);
    let owner = TokenOwner::of(&alice).unwrap();
    for (user, is_linked) in [(None, false), (Some("alice-at-github"), true)] {
        let mut start = request("https://gateway.example.com/accounts/link/github");
        start.extensions_mut().insert(alice.clone());
        let start = linking.clone().oneshot(start).await.unwrap();
        let to = start.headers()[LOCATION].to_str().unwrap();
        let mut back = request(&github.authorize(to, user));
        back.extensions_mut().insert(alice.clone());
        let cookie = start.headers()[SET_COOKIE].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().parse().unwrap();
        back.headers_mut().insert(COOKIE, cookie);
        linking.clone().oneshot(back).await.unwrap();
        let loaded = upstream.load(&owner).await.unwrap();
        let token = loaded.tokens().get("github");
        let claims = token.map(|token| github.claims(token.access_token().expose()).unwrap());
        let linked = claims.map(|claims| claims["sub"].clone());
        assert_eq!(linked, is_linked.then(|| json!("alice-at-github")));
    }
}

#[cfg(all(feature = "dpop", feature = "linking"))]
#[tokio::test]
async fn a_linked_account_is_bound_to_a_key_from_the_link_to_the_backend() {
    use http::header::{COOKIE, LOCATION, SET_COOKIE};
    use tower_identity::{
        AccountLinking, MemoryStore, UpstreamTokens,
        oauth::DpopKeys,
        upstream::{OAuthProvider, ProviderSettings, TokenOwner},
    };

    let (clock, _default) = clock();
    let github = TestIssuer::new("https://github.example.com");
    github.require_dpop_nonce();
    let backend = TestBackend::new(API).protected_by(&github, API);
    let secret = Secret::new("0123456789abcdef0123456789abcdef").unwrap();
    let keys = DpopKeys::per_user(&secret).unwrap();
    let settings = ProviderSettings::discovered(github.url()).resource(API);
    let client = OAuthProvider::builder(settings, ClientAuth::none("gateway"), github.clone());
    let client = client.dpop(keys.clone()).build().unwrap();
    let provider = client.provider("github").build().unwrap();
    let upstream = UpstreamTokens::new(MemoryStore::new(), [provider]);
    let linking = AccountLinking::builder(GATEWAY, upstream.clone());
    let linking = linking.build().unwrap();
    let alice = identity("alice", []);
    let mut start = request("https://gateway.example.com/link/github");
    start.extensions_mut().insert(alice.clone());
    let start = linking.clone().oneshot(start).await.unwrap();
    let to = start.headers()[LOCATION].to_str().unwrap();
    let mut back = request(&github.authorize(to, "alice-at-github"));
    back.extensions_mut().insert(alice.clone());
    let cookie = start.headers()[SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().parse().unwrap();
    back.headers_mut().insert(COOKIE, cookie);
    linking.oneshot(back).await.unwrap();

    let strategy = UpstreamInject::new("github").unwrap().dpop(keys);
    let owner = TokenOwner::of(&alice).unwrap();
    let mut sent = Vec::new();
    for _ in 0..3 {
        let loaded = upstream.load(&owner).await.unwrap();
        let token = loaded.tokens()["github"].clone();
        assert!(token.dpop_thumbprint().is_some());
        let user = Identity::builder("alice").issuer(alice.issuer().unwrap());
        let user = user.upstream("github", token).build().unwrap();
        assert_eq!(
            send(strategy.clone(), &user, &backend).await,
            StatusCode::OK
        );
        let request = backend.request();
        sent.push(request.header("authorization").unwrap().to_owned());
        clock.advance(HOUR);
    }
    sent.dedup();
    assert_eq!(sent.len(), 3, "the tokens were refreshed");
    assert!(sent.iter().all(|sent| sent.starts_with("DPoP ")));
}

#[tokio::test]
async fn a_protected_backend_refuses_what_a_real_one_would() {
    let (clock, _default) = clock();
    let issuer = TestIssuer::new("https://idp.example.com");
    let other = TestIssuer::new("https://other.example.com");
    let backend = TestBackend::new(API).protected_by(&issuer, API);
    let send = async |tokens: &[&str]| {
        let mut request = request(API);
        for token in tokens {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().append("authorization", value);
        }
        let response = backend.clone().oneshot(request).await.unwrap();
        let challenge = response.headers().get("www-authenticate");
        challenge.map(|value| value.to_str().unwrap().to_owned())
    };
    let good = issuer.token("alice").audience(API).sign();
    let revoked = issuer.token("alice").audience(API).sign();
    issuer.revoke(&revoked);
    assert_eq!(send(&[&good]).await, None);
    assert_eq!(send(&[&issuer.token("alice").opaque()]).await, None);
    assert_eq!(send(&[]).await.as_deref(), Some("Bearer"));
    for refused in [
        &[&*revoked][..],
        &[&issuer.token("alice").audience(GATEWAY).sign()],
        &[&other.token("alice").audience(API).sign()],
        &["unknown"],
        &[&good, &good],
    ] {
        let challenge = send(refused).await;
        assert_eq!(
            challenge.as_deref(),
            Some(r#"Bearer error="invalid_token""#)
        );
    }
    clock.advance(HOUR);
    assert!(send(&[&good]).await.is_some());
    // Each of them was kept.
    assert_eq!(backend.requests().len(), 9);
}

#[tokio::test]
async fn scripted_answers_come_once_and_in_order() {
    let issuer = TestIssuer::new("https://idp.example.com");
    let backend = TestBackend::new(API).answering(|request| match request.method {
        Method::GET => Answer::json(200, &json!({ "sent": request.uri.path() })),
        _ => Answer::new(405),
    });
    let strategy = ClientCredentials::builder(endpoint(&issuer)).resource(API);
    let layer = AuthLayer::new(backend.origin(), strategy.build().unwrap()).retry_rejected();
    let client = layer.layer(backend.clone());
    issuer.answer_next(
        "client_credentials",
        Answer::oauth_error("temporarily_unavailable"),
    );
    let refused = client.clone().oneshot(request(API)).await.unwrap_err();
    assert_eq!(kind(&refused), AuthErrorKind::Unavailable);
    assert_eq!(backend.requests().len(), 0);

    backend.answer_next(Answer::new(503).header("retry-after", "7").body("busy"));
    let response = backend.clone().oneshot(request(API)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "7");
    let response = backend.clone().oneshot(request(API)).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, r#"{"sent":"/"}"#);

    backend.answer_next(Answer::connection_lost());
    backend.clone().oneshot(request(API)).await.unwrap_err();
    backend.set_down(true);
    let response = backend.clone().oneshot(request(API)).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_is_waited_for_by_nobody_while_time_is_paused() {
    let issuer = TestIssuer::new("https://idp.example.com");
    let strategy = ClientCredentials::builder(endpoint(&issuer))
        .build()
        .unwrap();
    let backend = TestBackend::new(API);
    let client = AuthLayer::new(backend.origin(), strategy).layer(backend.clone());
    issuer.answer_next("client_credentials", Answer::new(200).after(HOUR));
    let started = std::time::Instant::now();
    let refused = client.oneshot(request(API)).await.unwrap_err();
    assert_eq!(kind(&refused), AuthErrorKind::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_request_for_another_host_reaches_neither_of_them() {
    let issuer = TestIssuer::new("https://idp.example.com:8443");
    let backend = TestBackend::new(API);
    let path = "/.well-known/openid-configuration";
    for elsewhere in ["https://idp.example.com", "https://other.example.com:8443"] {
        let request = request(&format!("{elsewhere}{path}"));
        issuer.clone().oneshot(request).await.unwrap_err();
    }
    let asked = request(&format!("https://idp.example.com:8443{path}"));
    issuer.clone().oneshot(asked).await.unwrap();
    let refused = backend.clone().oneshot(request(GATEWAY)).await.unwrap_err();
    assert!(refused.to_string().contains("another host"), "{refused}");
    backend
        .clone()
        .oneshot(request("https://api.example.com:443/x"))
        .await
        .unwrap();
    assert_eq!((issuer.requests().len(), backend.requests().len()), (1, 1));
}

#[tokio::test]
async fn a_network_leads_to_its_hosts_and_what_does_not_travel_stays_behind() {
    let backend = TestBackend::new(API);
    let seen = Arc::new(std::sync::Mutex::new(None));
    let router = service_fn({
        let seen = seen.clone();
        move |request: Request<Full<Bytes>>| {
            *seen.lock().unwrap() = Some(request.extensions().get::<Identity>().is_some());
            async { Ok::<_, BoxError>(http::Response::new(String::from("streams"))) }
        }
    });
    let network = TestNetwork::new()
        .backend(&backend)
        .host("http://127.0.0.1:8080", router);
    let mut local = request("http://127.0.0.1:8080/x");
    local.extensions_mut().insert(identity("alice", []));
    let response = network.clone().oneshot(local).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        (&*body, *seen.lock().unwrap()),
        (&b"streams"[..], Some(false))
    );
    network.clone().oneshot(request(API)).await.unwrap();
    assert_eq!(backend.requests().len(), 1);
    for elsewhere in [
        "http://api.example.com/",
        "https://api.example.com:8443/",
        "/x",
    ] {
        let refused = network
            .clone()
            .oneshot(request(elsewhere))
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("does not have"), "{refused}");
    }
}

#[tokio::test]
async fn it_is_served_over_a_connection_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = TestIssuer::new(&format!("http://{}", listener.local_addr().unwrap()));
    let service = TowerToHyperService::new(issuer.clone());
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(tcp), service).await;
            });
        }
    });
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let validator = TokenValidator::builder(issuer.url(), client)
        .audience(GATEWAY)
        .build()
        .unwrap();
    let token = issuer.token("alice").audience(GATEWAY).sign();
    assert_eq!(validator.validate(&token).await.unwrap().subject(), "alice");
    issuer.set_down(true);
    assert_eq!(issuer.requests().len(), 2);
}

#[tokio::test]
async fn what_arrived_is_shown_without_its_secrets() {
    let backend = TestBackend::new(API);
    let layer = AuthLayer::new(backend.origin(), UpstreamInject::new("github").unwrap());
    let body = Full::<Bytes>::from("a=hush");
    let mut request = Request::post(API).body(body).unwrap();
    request
        .extensions_mut()
        .insert(identity("alice", [("github", "hush")]));
    layer.layer(backend.clone()).oneshot(request).await.unwrap();
    let arrived = backend.request();
    assert_eq!(arrived.bearer_token(), Some("hush"));
    assert_eq!(arrived.parameter("a").as_deref(), Some("hush"));
    let issuer = TestIssuer::new("https://idp.example.com");
    let shown = format!(
        "{arrived:?} {backend:?} {issuer:?} {:?}",
        issuer.log_in("alice", API)
    );
    assert!(!shown.contains("hush") && !shown.contains("eyJ"), "{shown}");
}

#[test]
#[should_panic(expected = "there are several `authorization`")]
fn a_second_credential_is_not_overlooked() {
    let backend = TestBackend::new(API);
    let mut request = request(API);
    for token in ["Bearer one", "Bearer two"] {
        let value = token.parse().unwrap();
        request.headers_mut().append("authorization", value);
    }
    let sent = futures_util::FutureExt::now_or_never(backend.clone().oneshot(request));
    sent.unwrap().unwrap();
    backend.request().bearer_token();
}
