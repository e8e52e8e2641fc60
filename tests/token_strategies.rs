//! The strategies that have tokens issued: for whom, how often, and what comes of an issuer that fails.
#![cfg(feature = "token-exchange")]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response, StatusCode, header::TRAILER};
use http_body_util::Full;
use serde_json::{Value, json};
use support::{
    issuer::{Behaviour, CLIENT_CREDENTIALS, Client, Issuer, JWT_BEARER, TOKEN_EXCHANGE},
    token_stack::{
        Backend, Body, at, clock, endpoint, endpoint_builder, http_client, jwt, seconds, secret,
        send, token_for, user, user_until, user_with_id_token,
    },
};
use tokio::sync::Semaphore;
use tower::{ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer};
use tower_identity::{
    AccessToken, Actor, AuthErrorKind, AuthLayer, ClientAuth, ClientCredentials, CredentialCache,
    CrossAppAccess, Identity, ManualClock, OnBehalfOf, Strategy, Subject, TokenEndpoint,
    TokenExchange, UpstreamToken, oauth::TokenType, strategy::IssuedToken,
};

fn exchange(issuer: &Issuer) -> TokenExchange {
    TokenExchange::builder(endpoint(issuer))
        .audience("mcp-backend")
        .build()
        .unwrap()
}

fn exchange_at(issuer: &Issuer, clock: &Arc<ManualClock>) -> TokenExchange {
    TokenExchange::builder(endpoint(issuer))
        .audience("mcp-backend")
        .clock(clock.clone())
        .build()
        .unwrap()
}

fn gateway(issuer: &Issuer) -> TokenEndpoint {
    endpoint_builder(issuer)
        .client_auth(ClientAuth::basic("gateway", secret("client-secret")))
        .build()
        .unwrap()
}

fn upstream(provider: &str, token: UpstreamToken) -> Identity {
    Identity::builder("user-1")
        .upstream(provider, token)
        .build()
        .unwrap()
}

fn access_token(text: &str) -> UpstreamToken {
    UpstreamToken::new(AccessToken::new(text).unwrap())
}

async fn issuer_that_knows_alice() -> Issuer {
    let issuer = Issuer::start().await;
    issuer.know("token-of-alice", "alice");
    issuer
}

fn alice() -> Identity {
    user("alice", "token-of-alice")
}

// Token exchange: what is sent.

#[tokio::test]
async fn f38_the_backend_gets_the_token_that_was_minted_for_it_and_nothing_else() {
    let issuer = issuer_that_knows_alice().await;
    let backend = Backend::start().await;
    let client = backend.client(exchange(&issuer));
    let mut request = backend.request(alice());
    let callers_own = HeaderValue::from_static("Bearer callers-own");
    request.headers_mut().append("authorization", callers_own);
    assert_eq!(
        send(&client, request).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(
        backend.authorizations(),
        [["Bearer exchanged-for-alice-mcp-backend-1"]]
    );
}

#[tokio::test]
async fn the_exchange_of_rfc_8693_2_3_is_sent_and_its_answer_used() {
    const SUBJECT: &str = "accVkjcJyb4BWCxGsndESCJQbdFMogUC5PbRDqceLTC";
    const ISSUED: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjllciJ9.eyJhdWQiOiJodHRwczovL2JhY2tlbmQuZXhhbXBsZS5jb20iLCJpc3MiOiJodHRwczovL2FzLmV4YW1wbGUuY29tIiwiZXhwIjoxNDQxOTE3NTkzLCJpYXQiOjE0NDE5MTc1MzMsInN1YiI6ImJkY0BleGFtcGxlLmNvbSIsInNjb3BlIjoiYXBpIn0.40y3ZgQedw6rxf59WlwHDD9jryFOr0_Wh3CGozQBihNBhnXEQgU85AI9x3KmsPottVMLPIWvmDCMy5-kdXjwhw";
    let issuer = Issuer::start().await;
    issuer.next(Behaviour::json(
        200,
        &json!({
            "access_token": ISSUED,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 60,
        }),
    ));
    let endpoint = endpoint_builder(&issuer)
        .client_auth(ClientAuth::basic(
            "rs08",
            secret("long-secure-random-secret"),
        ))
        .build()
        .unwrap();
    let strategy = TokenExchange::builder(endpoint)
        .resource("https://backend.example.com/api")
        .requested_token_type(None)
        .build()
        .unwrap();
    assert_eq!(
        token_for(&strategy, user("bdc", SUBJECT)).await.unwrap(),
        ISSUED
    );

    let request = issuer.request();
    assert_eq!(
        request.headers["authorization"],
        "Basic cnMwODpsb25nLXNlY3VyZS1yYW5kb20tc2VjcmV0"
    );
    let mut form = request.form.clone();
    form.sort();
    let expected = [
        ("grant_type", TOKEN_EXCHANGE),
        ("resource", "https://backend.example.com/api"),
        ("subject_token", SUBJECT),
        ("subject_token_type", TokenType::AccessToken.urn()),
    ];
    assert_eq!(
        form,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[tokio::test]
async fn f42_an_access_token_is_asked_for_by_name_unless_it_is_set_otherwise() {
    let issuer = Issuer::start().await;
    issuer.know("token-of-alice", "alice");
    let plain = || TokenExchange::builder(endpoint(&issuer));
    for (strategy, sent) in [
        (plain(), Some(TokenType::AccessToken.urn())),
        (
            plain().requested_token_type(TokenType::Jwt),
            Some(TokenType::Jwt.urn()),
        ),
        (plain().requested_token_type(None), None),
        (
            plain()
                .requested_token_type(TokenType::Jwt)
                .requested_token_type(TokenType::AccessToken),
            Some(TokenType::AccessToken.urn()),
        ),
    ] {
        let strategy = strategy.build().unwrap();
        token_for(&strategy, user("alice", "token-of-alice"))
            .await
            .unwrap();
        let requests = issuer.requests();
        let request = requests.last().unwrap();
        assert_eq!(request.all("requested_token_type"), Vec::from_iter(sent));
    }
}

#[tokio::test]
async fn all_that_is_configured_is_sent() {
    let issuer = Issuer::start().await;
    issuer
        .know("gho-1", "alice")
        .know("gateways-own", "gateway");
    let strategy = TokenExchange::builder(endpoint(&issuer))
        .audience("one")
        .audience("two")
        .resource("https://one.example.com")
        .resource("urn:example:two")
        .scopes(["tools:read", "tools:call"])
        .subject(Subject::upstream("github").as_jwt())
        .actor(Actor::supplied(TokenType::Jwt, || secret("gateways-own")))
        .requested_token_type(TokenType::Jwt)
        .build()
        .unwrap();
    let identity = upstream("github", access_token("gho-1"));
    assert_eq!(
        token_for(&strategy, identity).await.unwrap(),
        "exchanged-for-alice-one+two-1"
    );
    let request = issuer.request();
    assert_eq!(request.all("audience"), ["one", "two"]);
    assert_eq!(
        request.all("resource"),
        ["https://one.example.com", "urn:example:two"]
    );
    assert_eq!(request.one("scope"), Some("tools:read tools:call"));
    assert_eq!(
        request.one("subject_token_type"),
        Some(TokenType::Jwt.urn())
    );
    assert_eq!(request.one("actor_token"), Some("gateways-own"));
    assert_eq!(request.one("actor_token_type"), Some(TokenType::Jwt.urn()));
    assert_eq!(
        request.one("requested_token_type"),
        Some(TokenType::Jwt.urn())
    );
}

#[tokio::test]
async fn an_id_token_is_sent_as_one_and_the_access_token_is_not() {
    let issuer = Issuer::start().await;
    issuer.know("id-token-of-alice", "alice");
    let strategy = TokenExchange::builder(endpoint(&issuer))
        .subject(Subject::upstream_id_token("idp"))
        .build()
        .unwrap();
    token_for(&strategy, user_with_id_token("alice", "id-token-of-alice"))
        .await
        .unwrap();
    let request = issuer.request();
    assert_eq!(request.one("subject_token"), Some("id-token-of-alice"));
    assert_eq!(
        request.one("subject_token_type"),
        Some(TokenType::IdToken.urn())
    );
    assert!(!String::from_utf8_lossy(&request.body).contains("idp-access-token"));
}

#[tokio::test]
async fn a_user_can_be_the_actor_with_another_of_their_tokens() {
    let issuer = issuer_that_knows_alice().await;
    issuer.know("gho-1", "alice-at-github");
    let strategy = TokenExchange::builder(endpoint(&issuer))
        .subject(Subject::upstream("github"))
        .actor(Actor::user(Subject::own_token()))
        .build()
        .unwrap();
    let identity = Identity::builder("alice")
        .token(AccessToken::new("token-of-alice").unwrap())
        .upstream("github", access_token("gho-1"))
        .build()
        .unwrap();
    token_for(&strategy, identity).await.unwrap();
    let request = issuer.request();
    assert_eq!(request.one("subject_token"), Some("gho-1"));
    assert_eq!(request.one("actor_token"), Some("token-of-alice"));
}

// Whose token it is.

#[tokio::test]
async fn f06_users_that_differ_only_in_their_token_never_share_one() {
    let issuer = issuer_that_knows_alice().await;
    issuer.know("token-of-mallory", "mallory");
    let strategy = exchange(&issuer);
    let twin = user("alice", "token-of-mallory");
    for _ in 0..2 {
        assert_eq!(
            token_for(&strategy, alice()).await.unwrap(),
            "exchanged-for-alice-mcp-backend-1"
        );
        assert_eq!(
            token_for(&strategy, twin.clone()).await.unwrap(),
            "exchanged-for-mallory-mcp-backend-2"
        );
    }
}

#[tokio::test]
async fn f07_strategies_that_differ_in_one_setting_never_share_a_token() {
    let issuer = issuer_that_knows_alice().await;
    issuer
        .know("actor-1", "gateway")
        .know("actor-2", "gateway too");
    let other_issuer = issuer_that_knows_alice().await;
    let cache = CredentialCache::<IssuedToken>::builder().build().unwrap();
    let endpoint_as = |client_auth| {
        let endpoint = endpoint_builder(&issuer).client_auth(client_auth);
        endpoint.build().unwrap()
    };
    let on = |endpoint| TokenExchange::builder(endpoint).cache(cache.clone());
    let plain = || on(endpoint(&issuer));
    let actor =
        |token: &'static str| Actor::supplied(TokenType::AccessToken, move || secret(token));
    let builders = [
        plain(),
        on(endpoint(&other_issuer)),
        on(endpoint_as(ClientAuth::none("gateway"))),
        on(endpoint_as(ClientAuth::basic("gateway", secret("1")))),
        on(endpoint_as(ClientAuth::basic("gateway", secret("2")))),
        on(endpoint_as(ClientAuth::basic("gateway-2", secret("1")))),
        on(endpoint_as(ClientAuth::post("gateway", secret("1")))),
        plain().audience("a"),
        plain().audience("b"),
        plain().audience("a").audience("b"),
        plain().resource("https://a.example"),
        plain().resource("https://b.example"),
        plain().scopes(["a"]),
        plain().scopes(["b"]),
        plain().scopes(["a", "b"]),
        plain().requested_token_type(None),
        plain().requested_token_type(TokenType::Jwt),
        plain().subject(Subject::own_token().as_jwt()),
        plain().subject(Subject::upstream("idp")),
        plain().actor(actor("actor-1")),
        plain().actor(actor("actor-2")),
        plain().actor(Actor::supplied(TokenType::Jwt, || secret("actor-1"))),
    ];
    let identity = Identity::builder("alice")
        .token(AccessToken::new("token-of-alice").unwrap())
        .upstream("idp", access_token("token-of-alice"))
        .build()
        .unwrap();
    let strategies: Vec<_> = builders.map(|builder| builder.build().unwrap()).into();
    for (sent, strategy) in strategies.iter().enumerate() {
        token_for(strategy, identity.clone()).await.unwrap();
        let all = issuer.requests().len() + other_issuer.requests().len();
        assert_eq!(all, sent + 1, "{strategy:?}");
    }
    // The same configuration once more is the same entry.
    token_for(&plain().audience("a").build().unwrap(), identity)
        .await
        .unwrap();
    assert_eq!(
        issuer.requests().len() + other_issuer.requests().len(),
        strategies.len()
    );
}

#[tokio::test]
async fn f07_neither_do_the_other_strategies_if_they_differ_in_one_setting() {
    let issuer = issuer_that_knows_alice().await;
    let other_issuer = issuer_that_knows_alice().await;
    let cache = CredentialCache::<IssuedToken>::builder().build().unwrap();
    let with_secret = |issuer: &Issuer, text| {
        let endpoint = endpoint_builder(issuer);
        let endpoint = endpoint.client_auth(ClientAuth::basic("gateway", secret(text)));
        endpoint.build().unwrap()
    };
    let own = |endpoint| ClientCredentials::builder(endpoint).cache(cache.clone());
    let plain_own = || own(with_secret(&issuer, "1"));
    let on_behalf = |endpoint| OnBehalfOf::builder(endpoint).cache(cache.clone());
    let plain_on_behalf = || on_behalf(with_secret(&issuer, "1")).scopes(["a"]);
    let strategies: [Arc<dyn Strategy<Body>>; 11] = [
        Arc::new(plain_own().build().unwrap()),
        Arc::new(own(with_secret(&other_issuer, "1")).build().unwrap()),
        Arc::new(own(with_secret(&issuer, "2")).build().unwrap()),
        Arc::new(plain_own().audience("a").build().unwrap()),
        Arc::new(plain_own().resource("https://a.example").build().unwrap()),
        Arc::new(plain_own().scopes(["a"]).build().unwrap()),
        Arc::new(plain_on_behalf().build().unwrap()),
        // Another tenant is another endpoint.
        Arc::new(
            on_behalf(with_secret(&other_issuer, "1"))
                .scopes(["a"])
                .build()
                .unwrap(),
        ),
        Arc::new(
            on_behalf(with_secret(&issuer, "2"))
                .scopes(["a"])
                .build()
                .unwrap(),
        ),
        Arc::new(
            on_behalf(with_secret(&issuer, "1"))
                .scopes(["b"])
                .build()
                .unwrap(),
        ),
        Arc::new(
            plain_on_behalf()
                .subject(Subject::upstream("idp"))
                .build()
                .unwrap(),
        ),
    ];
    let identity = Identity::builder("alice")
        .token(AccessToken::new("token-of-alice").unwrap())
        .upstream("idp", access_token("token-of-alice"))
        .build()
        .unwrap();
    for (sent, strategy) in strategies.iter().enumerate() {
        for _ in 0..2 {
            token_for(strategy, identity.clone()).await.unwrap();
            let all = issuer.requests().len() + other_issuer.requests().len();
            assert_eq!(all, sent + 1, "number {sent}");
        }
    }
}

#[tokio::test]
async fn f07_nor_does_cross_app_access() {
    let (identity_provider, other_provider) = (Issuer::start().await, Issuer::start().await);
    let (server, other_server) = (Issuer::start().await, Issuer::start().await);
    let clock = clock();
    let cache = CredentialCache::<IssuedToken>::builder().clock(clock.clone());
    let cache = cache.build().unwrap();
    let on = |provider: &str, identity_provider: &Issuer, server: &Issuer| {
        let builder =
            CrossAppAccess::builder(provider, gateway(identity_provider), gateway(server));
        builder.cache(cache.clone()).clock(clock.clone())
    };
    let plain = || {
        let builder = on("idp", &identity_provider, &server);
        builder.audience("https://as.example.com")
    };
    let audience = "https://as.example.com";
    let builders = [
        plain(),
        on("idp", &other_provider, &server).audience(audience),
        on("idp", &identity_provider, &other_server).audience(audience),
        on("okta", &identity_provider, &server).audience(audience),
        on("idp", &identity_provider, &server).audience("https://other.example.com"),
        plain().resource("https://mcp.example.com"),
        plain().scopes(["chat.read"]),
        plain().authorization_server_scopes(["chat.read"]),
        plain().issuer("https://org.example.com"),
    ];
    let id_token = jwt(
        &json!({}),
        &json!({ "iss": "https://idp.example.com", "exp": 3600 }),
    );
    let log_in = || access_token("access").with_id_token(secret(&id_token));
    let identity = Identity::builder("alice")
        .upstream("idp", log_in())
        .upstream("okta", log_in())
        .build()
        .unwrap();
    for (asked, builder) in builders.into_iter().enumerate() {
        // Nothing is asserted, so that all there is to see is who is asked.
        let error = token_for(&builder.build().unwrap(), identity.clone()).await;
        assert_eq!(error.unwrap_err().kind(), AuthErrorKind::Rejected);
        let all = identity_provider.requests().len() + other_provider.requests().len();
        assert_eq!(all, asked + 1, "number {asked}");
    }
}

#[tokio::test]
async fn f08_without_a_users_token_there_is_no_look_up_and_no_exchange() {
    let issuer = issuer_that_knows_alice().await;
    let cache = CredentialCache::<IssuedToken>::builder().build().unwrap();
    let exchange_of = |subject| {
        let builder = TokenExchange::builder(endpoint(&issuer)).subject(subject);
        builder.cache(cache.clone()).build().unwrap()
    };
    let own = exchange_of(Subject::own_token());
    let access = exchange_of(Subject::upstream("idp"));
    let id = exchange_of(Subject::upstream_id_token("idp"));
    token_for(&own, alice()).await.unwrap();

    #[cfg(feature = "metrics")]
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    #[cfg(feature = "metrics")]
    let _recording = metrics::set_default_local_recorder(&recorder);
    let nobody = || Identity::builder("alice").build().unwrap();
    let no_id_token = upstream("idp", access_token("gho-1"));
    for (strategy, identity, kind, provider) in [
        (&own, None, AuthErrorKind::MissingIdentity, None),
        (&own, Some(nobody()), AuthErrorKind::MissingToken, None),
        (
            &access,
            Some(alice()),
            AuthErrorKind::MissingToken,
            Some("idp"),
        ),
        (
            &id,
            Some(no_id_token),
            AuthErrorKind::MissingToken,
            Some("idp"),
        ),
    ] {
        let error = token_for(strategy, identity).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.provider(), provider);
        assert_eq!(
            error.to_response::<Bytes>().status(),
            StatusCode::UNAUTHORIZED
        );
    }
    assert_eq!(issuer.requests().len(), 1);
    #[cfg(feature = "metrics")]
    {
        let counted = recorder.snapshotter().snapshot().into_vec();
        assert!(counted.is_empty(), "{counted:?}");
    }
}

#[tokio::test]
async fn f09_an_expired_subject_gets_nothing_although_a_token_is_at_hand() {
    let issuer = Issuer::start().await;
    let clock = clock();
    let id_token = jwt(&json!({}), &json!({ "exp": 100 }));
    issuer
        .know("own", "alice")
        .know("gho-1", "alice")
        .know(&id_token, "alice");
    let users = [
        (Subject::own_token(), user_until("alice", "own", 100)),
        (
            Subject::own_token().as_jwt(),
            user_until("alice", "own", 100.0),
        ),
        (
            Subject::upstream("idp"),
            upstream("idp", access_token("gho-1").with_expires_at(at(100))),
        ),
        (
            Subject::upstream_id_token("idp"),
            user_with_id_token("alice", &id_token),
        ),
    ];
    let mut strategies = Vec::new();
    for (subject, identity) in users {
        let strategy = TokenExchange::builder(endpoint(&issuer))
            .subject(subject)
            .clock(clock.clone());
        let strategy = strategy.build().unwrap();
        token_for(&strategy, identity.clone()).await.unwrap();
        strategies.push((strategy, identity));
    }
    clock.advance(Duration::from_nanos(99_999_999_999));
    for (strategy, identity) in &strategies {
        token_for(strategy, identity.clone()).await.unwrap();
    }
    assert_eq!(issuer.requests().len(), 4);
    clock.advance(Duration::from_nanos(1));
    for (strategy, identity) in &strategies {
        let error = token_for(strategy, identity.clone()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Expired, "{strategy:?}");
    }
    assert_eq!(
        issuer.requests().len(),
        4,
        "the issuer is not asked for a subject that has expired"
    );
}

#[tokio::test]
async fn f9_a_subject_whose_end_is_learned_later_gets_nothing_once_it_has_passed() {
    let issuer = issuer_that_knows_alice().await;
    let clock = clock();
    let strategy = exchange_at(&issuer, &clock);
    token_for(&strategy, alice()).await.unwrap();
    clock.advance(seconds(100));
    token_for(&strategy, user_until("alice", "token-of-alice", 101))
        .await
        .unwrap();
    let error = token_for(&strategy, user_until("alice", "token-of-alice", 100))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Expired);
    assert_eq!(issuer.requests().len(), 1);
}

#[tokio::test]
async fn an_actor_that_has_expired_gets_nothing() {
    let issuer = issuer_that_knows_alice().await;
    let clock = clock();
    issuer.know("gho-1", "alice-at-github");
    let strategy = TokenExchange::builder(endpoint(&issuer))
        .actor(Actor::user(Subject::upstream("github")))
        .clock(clock.clone())
        .build()
        .unwrap();
    let identity = Identity::builder("alice")
        .token(AccessToken::new("token-of-alice").unwrap())
        .upstream("github", access_token("gho-1").with_expires_at(at(100)))
        .build()
        .unwrap();
    token_for(&strategy, identity.clone()).await.unwrap();
    clock.advance(seconds(100));
    let error = token_for(&strategy, identity).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Expired);
}

// How often the issuer is asked.

#[tokio::test]
async fn f10_there_is_one_exchange_per_user_backend_and_lifetime() {
    let issuer = issuer_that_knows_alice().await;
    issuer.know("token-of-bob", "bob");
    let backend = Backend::start().await;
    let clock = clock();
    let client = backend.client(exchange_at(&issuer, &clock));
    for _ in 0..5 {
        send(&client, backend.request(alice())).await.unwrap();
        send(&client, backend.request(user("bob", "token-of-bob")))
            .await
            .unwrap();
    }
    assert_eq!(issuer.count(TOKEN_EXCHANGE, Some("alice")), 1);
    assert_eq!(issuer.count(TOKEN_EXCHANGE, Some("bob")), 1);
    clock.advance(seconds(3600));
    for _ in 0..5 {
        send(&client, backend.request(alice())).await.unwrap();
    }
    assert_eq!(issuer.count(TOKEN_EXCHANGE, Some("alice")), 2);
    assert_eq!(
        backend.authorizations().last().unwrap(),
        &["Bearer exchanged-for-alice-mcp-backend-3"]
    );

    let other_backend = TokenExchange::builder(endpoint(&issuer))
        .audience("other-backend")
        .clock(clock.clone())
        .build()
        .unwrap();
    let other_client = backend.client(other_backend);
    for _ in 0..5 {
        send(&other_client, backend.request(alice())).await.unwrap();
        send(&client, backend.request(alice())).await.unwrap();
    }
    assert_eq!(issuer.count(TOKEN_EXCHANGE, Some("alice")), 3);
}

#[tokio::test]
async fn f11_ten_thousand_callers_cause_one_exchange() {
    let issuer = issuer_that_knows_alice().await;
    let permits = Arc::new(Semaphore::new(0));
    issuer.next(Behaviour::mint().with_permit_of(&permits));
    let strategy = exchange(&issuer);
    let callers = (0..10_000).map(|_| {
        let strategy = strategy.clone();
        tokio::spawn(async move { token_for(&strategy, alice()).await })
    });
    let callers: Vec<_> = callers.collect();
    permits.add_permits(1);
    for token in join_all(callers).await {
        assert_eq!(token.unwrap().unwrap(), "exchanged-for-alice-mcp-backend-1");
    }
    assert_eq!(issuer.requests().len(), 1);
}

#[tokio::test]
async fn f12_a_caller_that_gives_up_takes_nobody_along() {
    let issuer = issuer_that_knows_alice().await;
    let permits = Arc::new(Semaphore::new(0));
    issuer.next(Behaviour::mint().with_permit_of(&permits));
    let strategy = exchange(&issuer);
    let first = tokio::spawn({
        let strategy = strategy.clone();
        async move { token_for(&strategy, alice()).await }
    });
    while issuer.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    permits.add_permits(1);
    let token = token_for(&strategy, alice()).await.unwrap();
    assert_eq!(token, "exchanged-for-alice-mcp-backend-1");
    assert_eq!(issuer.requests().len(), 1);
}

#[tokio::test]
async fn f13_an_outage_is_one_error_for_all_and_no_queue() {
    let issuer = issuer_that_knows_alice().await;
    let clock = clock();
    let permits = Arc::new(Semaphore::new(0));
    issuer.next(Behaviour::error(503, "temporarily_unavailable").with_permit_of(&permits));
    let strategy = exchange_at(&issuer, &clock);
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let strategy = strategy.clone();
            tokio::spawn(async move { token_for(&strategy, alice()).await })
        })
        .collect();
    permits.add_permits(1);
    for answer in join_all(callers).await {
        let error = answer.unwrap().unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(error.retry_after().is_some());
    }
    assert_eq!(issuer.requests().len(), 1);
    clock.advance(seconds(2));
    token_for(&strategy, alice()).await.unwrap();
}

#[tokio::test]
async fn f14_a_failed_early_refresh_leaves_the_good_token_to_its_end() {
    let issuer = issuer_that_knows_alice().await;
    let clock = clock();
    let strategy = exchange_at(&issuer, &clock);
    issuer.expires_in(1000);
    let first = token_for(&strategy, alice()).await.unwrap();
    for _ in 0..20 {
        issuer.next(Behaviour::error(500, "server_error"));
    }
    for _ in 0..10 {
        clock.advance(seconds(99));
        assert_eq!(token_for(&strategy, alice()).await.unwrap(), first);
    }
    clock.advance(seconds(10));
    let error = token_for(&strategy, alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
}

#[tokio::test]
async fn f15_any_error_is_recovered_from() {
    let issuer = issuer_that_knows_alice().await;
    let clock = clock();
    let strategy = exchange_at(&issuer, &clock);
    for code in [
        "invalid_grant",
        "invalid_client",
        "invalid_scope",
        "server_error",
        "odd",
    ] {
        issuer.next(Behaviour::error(400, code));
        token_for(&strategy, alice()).await.unwrap_err();
        clock.advance(seconds(10));
    }
    token_for(&strategy, alice()).await.unwrap();
}

#[tokio::test]
async fn f16_a_missing_or_odd_lifetime_is_a_short_one_and_a_huge_one_is_a_day() {
    for (expires_in, kept_for) in [
        (json!(600), 600),
        (json!("600"), 600),
        (json!(600.9), 600),
        (json!(0), 0),
        (json!(-5), 0),
        (json!(null), 0),
        (json!("soon"), 0),
        (json!(1e300), 24 * 3600),
    ] {
        let issuer = issuer_that_knows_alice().await;
        issuer.expires_in(expires_in.clone());
        assert_kept_for(&issuer, kept_for, &expires_in).await;
    }
    let issuer = issuer_that_knows_alice().await;
    let answer = json!({
        "access_token": "issued",
        "issued_token_type": TokenType::AccessToken.urn(),
        "token_type": "Bearer",
    });
    issuer.next(Behaviour::json(200, &answer));
    assert_kept_for(&issuer, 300, &json!("absent")).await;
}

async fn assert_kept_for(issuer: &Issuer, kept_for: u64, expires_in: &Value) {
    let clock = clock();
    let strategy = exchange_at(issuer, &clock);
    let first = token_for(&strategy, alice()).await.unwrap();
    if kept_for > 0 {
        // Before the windows in which it is renewed.
        clock.advance(seconds(kept_for / 2));
        assert_eq!(
            token_for(&strategy, alice()).await.unwrap(),
            first,
            "{expires_in}"
        );
        clock.advance(seconds(kept_for - kept_for / 2));
    }
    assert_ne!(
        token_for(&strategy, alice()).await.unwrap(),
        first,
        "{expires_in}"
    );
    assert_eq!(issuer.requests().len(), 2, "{expires_in}");
}

#[tokio::test]
async fn f20_a_rejected_subject_is_tried_once_in_ten_seconds() {
    let issuer = Issuer::start().await;
    let clock = clock();
    let strategy = exchange_at(&issuer, &clock);
    for attempts in 1..=3 {
        for _ in 0..100 {
            let error = token_for(&strategy, alice()).await.unwrap_err();
            assert_eq!(error.kind(), AuthErrorKind::Rejected);
        }
        assert_eq!(issuer.requests().len(), attempts);
        clock.advance(seconds(10));
    }
}

#[tokio::test]
async fn f29_whose_fault_it_is_shows_in_the_status_and_nothing_else_does() {
    let html = || {
        Response::builder()
            .header("content-type", "text/html")
            .body("<p>1f4a</p>".into())
    };
    let moved = Response::builder()
        .status(307)
        .header("location", "http://127.0.0.1/")
        .body(Bytes::new());
    let token = |members: Value| Behaviour::json(200, &members);
    for (behaviour, kind, status) in [
        (
            Behaviour::error(400, "invalid_grant"),
            AuthErrorKind::Rejected,
            401,
        ),
        (
            Behaviour::error(400, "invalid_request"),
            AuthErrorKind::Rejected,
            401,
        ),
        (
            Behaviour::error(400, "invalid_scope"),
            AuthErrorKind::InsufficientScope,
            403,
        ),
        (
            Behaviour::error(401, "invalid_client"),
            AuthErrorKind::Configuration,
            500,
        ),
        (
            Behaviour::error(400, "invalid_target"),
            AuthErrorKind::Configuration,
            500,
        ),
        (
            Behaviour::error(503, "server_error"),
            AuthErrorKind::Unavailable,
            503,
        ),
        (
            Behaviour::body(429, "1f4a"),
            AuthErrorKind::Unavailable,
            503,
        ),
        (
            Behaviour::body(200, "not json 1f4a"),
            AuthErrorKind::Unavailable,
            503,
        ),
        (
            Behaviour::body(200, "[".repeat(100_000)),
            AuthErrorKind::Unavailable,
            503,
        ),
        (
            Behaviour::respond(html().unwrap()),
            AuthErrorKind::Unavailable,
            503,
        ),
        (
            Behaviour::respond(moved.unwrap()),
            AuthErrorKind::Configuration,
            500,
        ),
        (Behaviour::close(), AuthErrorKind::Unavailable, 503),
        (
            Behaviour::endless("1f4a".repeat(100_000), Duration::ZERO),
            AuthErrorKind::Unavailable,
            503,
        ),
        (
            token(json!({ "access_token": "1f4a" })),
            AuthErrorKind::Unavailable,
            503,
        ),
        (
            token(json!({ "access_token": "1f4a", "token_type": "DPoP",
            "issued_token_type": TokenType::AccessToken.urn() })),
            AuthErrorKind::Configuration,
            500,
        ),
        (
            token(json!({ "access_token": "1f4a", "token_type": "N_A",
            "issued_token_type": TokenType::IdJag.urn() })),
            AuthErrorKind::Unavailable,
            503,
        ),
    ] {
        let issuer = issuer_that_knows_alice().await;
        let backend = Backend::start().await;
        issuer.next(behaviour);
        let client = backend.client(exchange(&issuer));
        let error = send(&client, backend.request(alice())).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.backend(), Some(&backend.server.origin()));
        let response = error.to_response::<Bytes>();
        assert_eq!(response.status(), status);
        let shown = format!("{error} {error:?} {response:?}");
        for secret in ["1f4a", "token-of-alice", "said by the issuer"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(
            backend.server.requests().is_empty(),
            "nothing is sent without a token"
        );
    }
}

#[tokio::test]
async fn f35_an_issuer_that_hangs_is_given_up() {
    let issuer = issuer_that_knows_alice().await;
    issuer.next(Behaviour::hang());
    let endpoint = endpoint_builder(&issuer)
        .time_limit(Duration::from_millis(50))
        .build()
        .unwrap();
    let strategy = TokenExchange::builder(endpoint).build().unwrap();
    let error = token_for(&strategy, alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
}

#[tokio::test]
async fn the_separate_token_client_never_deadlocks_behind_concurrency_limit_1() {
    let issuer = issuer_that_knows_alice().await;
    for number in 0..20 {
        issuer.know(
            &format!("token-of-user-{number}"),
            &format!("user-{number}"),
        );
    }
    let backend = Backend::start().await;
    let client = ServiceBuilder::new()
        .layer(AuthLayer::new(backend.server.origin(), exchange(&issuer)))
        .layer(ConcurrencyLimitLayer::new(1))
        .service(http_client());
    let calls = (0..20).map(|number| {
        let identity = user("user", &format!("token-of-user-{number}"));
        client.clone().oneshot(backend.request(identity))
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(issuer.requests().len(), 20);
}

// Health checks.

#[tokio::test]
async fn f32_a_probe_uses_the_clients_own_token_where_there_is_a_client() {
    let issuer = Issuer::start().await;
    issuer.require(Client::Basic {
        id: "gateway".into(),
        secret: "client-secret".into(),
    });
    let backend = Backend::start().await;
    let strategy = TokenExchange::builder(gateway(&issuer))
        .audience("mcp-backend")
        .resource("https://mcp.example.com")
        .scopes(["tools:list"])
        .build()
        .unwrap();
    let client = backend.client(strategy);
    let mut with_user = backend.probe();
    with_user.extensions_mut().insert(alice());
    for probe in [backend.probe(), with_user] {
        send(&client, probe).await.unwrap();
    }
    assert_eq!(
        backend.authorizations(),
        [["Bearer issued-to-client-mcp-backend-1"]; 2]
    );
    let request = issuer.request();
    assert_eq!(request.one("grant_type"), Some(CLIENT_CREDENTIALS));
    assert_eq!(request.all("resource"), ["https://mcp.example.com"]);
    assert_eq!(request.one("scope"), Some("tools:list"));
}

#[tokio::test]
async fn f32_a_probe_goes_without_a_credential_where_there_is_no_client() {
    let issuer = Issuer::start().await;
    let backend = Backend::start().await;
    let public = endpoint_builder(&issuer)
        .client_auth(ClientAuth::none("gateway"))
        .build()
        .unwrap();
    let cross_app = CrossAppAccess::builder("idp", gateway(&issuer), gateway(&issuer))
        .audience("https://as.example.com");
    let strategies: [Arc<dyn Strategy<Body>>; 4] = [
        Arc::new(exchange(&issuer)),
        Arc::new(TokenExchange::builder(public).build().unwrap()),
        Arc::new(
            OnBehalfOf::builder(gateway(&issuer))
                .scopes(["a"])
                .build()
                .unwrap(),
        ),
        Arc::new(cross_app.build().unwrap()),
    ];
    for strategy in strategies {
        send(&backend.client(strategy), backend.probe())
            .await
            .unwrap();
    }
    assert_eq!(
        backend.authorizations(),
        [const { Vec::<String>::new() }; 4]
    );
    assert!(issuer.requests().is_empty());
}

#[tokio::test]
async fn f57_no_trailer_is_announced_that_has_the_name_of_an_issued_tokens_header() {
    let issuer = issuer_that_knows_alice().await;
    let backend = Backend::start().await;
    let on_behalf_of = OnBehalfOf::builder(gateway(&issuer)).scopes(["a"]);
    let strategies: [Arc<dyn Strategy<Body>>; 3] = [
        Arc::new(exchange(&issuer)),
        Arc::new(
            ClientCredentials::builder(gateway(&issuer))
                .build()
                .unwrap(),
        ),
        Arc::new(on_behalf_of.build().unwrap()),
    ];
    for strategy in strategies {
        for _obtained_then_cached in 0..2 {
            let mut request = backend.request(alice());
            let announced = HeaderValue::from_static("x-checksum, Authorization");
            request.headers_mut().insert(TRAILER, announced);
            send(&backend.client(strategy.clone()), request)
                .await
                .unwrap();
            let requests = backend.server.requests();
            assert_eq!(requests.last().unwrap().all("trailer"), ["x-checksum"]);
        }
    }
    assert_eq!(issuer.requests().len(), 3);
}

// The other strategies.

#[tokio::test]
async fn client_credentials_are_one_token_for_all_and_need_no_user() {
    let issuer = Issuer::start().await;
    issuer.require(Client::Basic {
        id: "gateway".into(),
        secret: "client-secret".into(),
    });
    let backend = Backend::start().await;
    let strategy = ClientCredentials::builder(gateway(&issuer))
        .audience("mcp-backend")
        .scopes(["tools:list"])
        .build()
        .unwrap();
    let client = backend.client(strategy);
    for request in [
        backend.request(None),
        backend.request(alice()),
        backend.probe(),
    ] {
        send(&client, request).await.unwrap();
    }
    assert_eq!(
        backend.authorizations(),
        [["Bearer issued-to-client-mcp-backend-1"]; 3]
    );
    assert_eq!(issuer.request().one("scope"), Some("tools:list"));
}

#[tokio::test]
async fn on_behalf_of_asks_as_microsoft_entra_wants_it() {
    let issuer = issuer_that_knows_alice().await;
    let strategy = OnBehalfOf::builder(gateway(&issuer))
        .scopes(["https://graph.microsoft.com/.default"])
        .build()
        .unwrap();
    for _ in 0..2 {
        let token = token_for(&strategy, alice()).await.unwrap();
        assert_eq!(token, "issued-for-alice-1");
    }
    let request = issuer.request();
    let mut names: Vec<_> = request.form.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["assertion", "grant_type", "requested_token_use", "scope"]
    );
    assert_eq!(request.one("grant_type"), Some(JWT_BEARER));
    assert_eq!(request.one("assertion"), Some("token-of-alice"));
    assert_eq!(request.one("requested_token_use"), Some("on_behalf_of"));
    assert_eq!(
        request.one("scope"),
        Some("https://graph.microsoft.com/.default")
    );
}

#[tokio::test]
async fn on_behalf_of_asks_for_a_new_log_in_when_entra_wants_one() {
    let issuer = issuer_that_knows_alice().await;
    issuer.next(Behaviour::error(400, "interaction_required"));
    let strategy = OnBehalfOf::builder(gateway(&issuer))
        .scopes(["a"])
        .build()
        .unwrap();
    let error = token_for(&strategy, alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);
}

/// An identity provider and an authorization server, for a user whose ID token says `https://idp.example.com`.
struct CrossApp {
    identity_provider: Issuer,
    authorization_server: Issuer,
    id_token: String,
    clock: Arc<ManualClock>,
    strategy: CrossAppAccess,
}

const ID_JAG: &str = "oauth-id-jag+jwt";

impl CrossApp {
    async fn start() -> Self {
        let (identity_provider, authorization_server) =
            (Issuer::start().await, Issuer::start().await);
        let clock = clock();
        let strategy = CrossAppAccess::builder(
            "idp",
            gateway(&identity_provider),
            gateway(&authorization_server),
        )
        .audience("https://as.example.com")
        .resource("https://mcp.example.com")
        .scopes(["chat.read"])
        .clock(clock.clone())
        .build()
        .unwrap();
        let id_token = jwt(
            &json!({}),
            &json!({ "iss": "https://idp.example.com", "exp": 3600 }),
        );
        identity_provider.know(&id_token, "alice");
        Self {
            identity_provider,
            authorization_server,
            id_token,
            clock,
            strategy,
        }
    }

    fn good_claims() -> Value {
        json!({
            "iss": "https://idp.example.com",
            "aud": "https://as.example.com",
            "resource": "https://mcp.example.com",
            "exp": 300,
        })
    }

    fn will_assert(&self, header_type: &str, claims: &Value) -> String {
        let assertion = jwt(&json!({ "typ": header_type }), claims);
        self.identity_provider.next(Behaviour::json(
            200,
            &json!({
                "access_token": assertion,
                "issued_token_type": TokenType::IdJag.urn(),
                "token_type": "N_A",
                "expires_in": 300,
            }),
        ));
        assertion
    }

    fn alice(&self) -> Identity {
        user_with_id_token("alice", &self.id_token)
    }
}

#[tokio::test]
async fn cross_app_access_exchanges_an_id_token_for_an_assertion_and_that_for_a_token() {
    let bench = CrossApp::start().await;
    let assertion = bench.will_assert(ID_JAG, &CrossApp::good_claims());
    bench.authorization_server.know(&assertion, "alice");
    let callers = (0..50).map(|_| token_for(&bench.strategy, bench.alice()));
    for token in join_all(callers).await {
        assert_eq!(token.unwrap(), "issued-for-alice-1");
    }

    let first = bench.identity_provider.request();
    assert_eq!(first.one("grant_type"), Some(TOKEN_EXCHANGE));
    assert_eq!(
        first.one("requested_token_type"),
        Some(TokenType::IdJag.urn())
    );
    assert_eq!(first.one("subject_token"), Some(bench.id_token.as_str()));
    assert_eq!(
        first.one("subject_token_type"),
        Some(TokenType::IdToken.urn())
    );
    assert_eq!(first.one("audience"), Some("https://as.example.com"));
    assert_eq!(first.one("resource"), Some("https://mcp.example.com"));
    assert_eq!(first.one("scope"), Some("chat.read"));
    let second = bench.authorization_server.request();
    assert_eq!(second.one("grant_type"), Some(JWT_BEARER));
    assert_eq!(second.one("assertion"), Some(assertion.as_str()));
    assert_eq!(second.one("scope"), None);
    assert!(!String::from_utf8_lossy(&second.body).contains(&bench.id_token));
}

#[tokio::test]
async fn an_assertion_for_another_party_never_reaches_the_authorization_server() {
    let changed = |claim: &str, value: Value| {
        let mut claims = CrossApp::good_claims();
        claims[claim] = value;
        (ID_JAG, claims)
    };
    for (header_type, claims) in [
        ("JWT", CrossApp::good_claims()),
        ("", CrossApp::good_claims()),
        changed("aud", json!("https://stranger.example.com")),
        changed("aud", json!("https://as.example.com/")),
        changed(
            "aud",
            json!(["https://as.example.com", "https://stranger.example.com"]),
        ),
        changed("aud", json!([])),
        changed("aud", json!(null)),
        changed("iss", json!("https://stranger.example.com")),
        changed("iss", json!(null)),
        changed("exp", json!(0)),
        changed("exp", json!(-1)),
        changed("exp", json!("300")),
        changed("exp", json!(null)),
        changed("resource", json!("https://stranger.example.com")),
        changed(
            "resource",
            json!(["https://mcp.example.com", "https://stranger.example.com"]),
        ),
        changed("resource", json!([])),
    ] {
        let bench = CrossApp::start().await;
        bench.will_assert(header_type, &claims);
        let error = token_for(&bench.strategy, bench.alice()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{claims}");
        assert_eq!(error.provider(), Some("idp"));
        assert!(bench.authorization_server.requests().is_empty(), "{claims}");
    }
}

#[tokio::test]
async fn what_is_no_assertion_never_reaches_the_authorization_server() {
    for behaviour in [
        Behaviour::json(
            200,
            &json!({ "access_token": "a.b.c", "token_type": "Bearer",
            "issued_token_type": TokenType::IdJag.urn() }),
        ),
        Behaviour::json(
            200,
            &json!({ "access_token": "a.b.c", "token_type": "N_A",
            "issued_token_type": TokenType::AccessToken.urn() }),
        ),
        Behaviour::json(
            200,
            &json!({ "access_token": "not-a-jwt", "token_type": "N_A",
            "issued_token_type": TokenType::IdJag.urn() }),
        ),
        Behaviour::json(
            200,
            &json!({ "access_token": "e30.!!.c", "token_type": "N_A",
            "issued_token_type": TokenType::IdJag.urn() }),
        ),
    ] {
        let bench = CrossApp::start().await;
        bench.identity_provider.next(behaviour);
        let error = token_for(&bench.strategy, bench.alice()).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(bench.authorization_server.requests().is_empty());
    }
}

#[tokio::test]
async fn an_assertion_may_name_its_audience_and_resource_in_a_list_of_one() {
    let bench = CrossApp::start().await;
    let mut claims = CrossApp::good_claims();
    claims["aud"] = json!(["https://as.example.com"]);
    claims["resource"] = json!(["https://mcp.example.com"]);
    let assertion = bench.will_assert(ID_JAG, &claims);
    bench.authorization_server.know(&assertion, "alice");
    token_for(&bench.strategy, bench.alice()).await.unwrap();
}

#[tokio::test]
async fn an_assertion_that_has_expired_by_the_clock_is_not_passed_on() {
    let bench = CrossApp::start().await;
    bench.clock.advance(seconds(300));
    bench.will_assert(ID_JAG, &CrossApp::good_claims());
    let error = token_for(&bench.strategy, bench.alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert!(bench.authorization_server.requests().is_empty());
}

#[tokio::test]
async fn an_authorization_server_that_refuses_the_assertion_asks_for_a_log_in() {
    let bench = CrossApp::start().await;
    bench.will_assert(ID_JAG, &CrossApp::good_claims());
    let error = token_for(&bench.strategy, bench.alice()).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);
}

#[tokio::test]
async fn scopes_for_the_authorization_server_are_sent_to_it_with_the_assertion() {
    let bench = CrossApp::start().await;
    let strategy = CrossAppAccess::builder(
        "idp",
        gateway(&bench.identity_provider),
        gateway(&bench.authorization_server),
    )
    .audience("https://as.example.com")
    .scopes(["chat.read", "chat.write"])
    .authorization_server_scopes(["chat.read", "chat.list"])
    .clock(bench.clock.clone())
    .build()
    .unwrap();
    let assertion = bench.will_assert(ID_JAG, &CrossApp::good_claims());
    bench.authorization_server.know(&assertion, "alice");
    token_for(&strategy, bench.alice()).await.unwrap();
    let first = bench.identity_provider.request();
    assert_eq!(first.one("scope"), Some("chat.read chat.write"));
    let second = bench.authorization_server.request();
    assert_eq!(second.one("scope"), Some("chat.read chat.list"));
}

#[tokio::test]
async fn the_issuer_of_an_assertion_can_be_set() {
    for (issuer, is_accepted) in [
        ("https://idp.example.com", false),
        ("https://org.example.com", true),
    ] {
        let bench = CrossApp::start().await;
        let strategy = CrossAppAccess::builder(
            "idp",
            gateway(&bench.identity_provider),
            gateway(&bench.authorization_server),
        )
        .audience("https://as.example.com")
        .issuer("https://org.example.com")
        .clock(bench.clock.clone())
        .build()
        .unwrap();
        let mut claims = CrossApp::good_claims();
        claims["iss"] = json!(issuer);
        let assertion = bench.will_assert(ID_JAG, &claims);
        bench.authorization_server.know(&assertion, "alice");
        assert_eq!(
            token_for(&strategy, bench.alice()).await.is_ok(),
            is_accepted
        );
    }
}

// Bad input.

#[tokio::test]
async fn bad_input_is_refused_at_construction() {
    let issuer = Issuer::start().await;
    let exchange = || TokenExchange::builder(endpoint(&issuer));
    let client = || ClientCredentials::builder(gateway(&issuer));
    let on_behalf_of = || OnBehalfOf::builder(gateway(&issuer)).scopes(["a"]);
    let cross_app =
        |provider: &str| CrossAppAccess::builder(provider, gateway(&issuer), gateway(&issuer));
    let public = || {
        endpoint_builder(&issuer)
            .client_auth(ClientAuth::none("gateway"))
            .build()
            .unwrap()
    };
    let errors = [
        exchange().audience("").build().err(),
        exchange().resource("").build().err(),
        exchange().resource("/relative").build().err(),
        exchange().resource("mcp.example.com").build().err(),
        exchange()
            .resource("https://mcp.example.com/#fragment")
            .build()
            .err(),
        exchange().scopes(["two words"]).build().err(),
        exchange().scopes([""]).build().err(),
        exchange().scopes(["a"]).scopes(["b"]).build().err(),
        exchange()
            .requested_token_type(TokenType::IdToken)
            .build()
            .err(),
        exchange()
            .requested_token_type(TokenType::IdJag)
            .build()
            .err(),
        exchange().subject(Subject::upstream(" ")).build().err(),
        exchange()
            .subject(Subject::upstream_id_token(""))
            .build()
            .err(),
        exchange()
            .actor(Actor::user(Subject::upstream("")))
            .build()
            .err(),
        client().audience("").build().err(),
        client().resource("nowhere").build().err(),
        client().scopes(["two words"]).build().err(),
        ClientCredentials::builder(endpoint(&issuer)).build().err(),
        ClientCredentials::builder(public()).build().err(),
        OnBehalfOf::builder(gateway(&issuer)).build().err(),
        OnBehalfOf::builder(gateway(&issuer))
            .scopes([""; 0])
            .build()
            .err(),
        OnBehalfOf::builder(endpoint(&issuer))
            .scopes(["a"])
            .build()
            .err(),
        on_behalf_of()
            .subject(Subject::upstream_id_token("idp"))
            .build()
            .err(),
        on_behalf_of().subject(Subject::upstream("")).build().err(),
        cross_app("idp").build().err(),
        cross_app("idp").audience("").build().err(),
        cross_app("")
            .audience("https://as.example.com")
            .build()
            .err(),
        cross_app("idp")
            .audience("https://as.example.com")
            .issuer("")
            .build()
            .err(),
        cross_app("idp")
            .audience("https://as.example.com")
            .resource("mcp")
            .build()
            .err(),
        cross_app("idp")
            .audience("https://as.example.com")
            .scopes(["a b"])
            .build()
            .err(),
        cross_app("idp")
            .audience("https://as.example.com")
            .authorization_server_scopes(["a"])
            .authorization_server_scopes(["b"])
            .build()
            .err(),
    ];
    for (number, error) in errors.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("number {number} was built"));
        assert_eq!(error.invalid_settings().len(), 1, "{error}");
    }
}

#[tokio::test]
async fn f33_no_strategy_shows_a_secret() {
    let issuer = issuer_that_knows_alice().await;
    let actor = || Actor::supplied(TokenType::Jwt, || secret("actor-secret"));
    let exchange = || TokenExchange::builder(gateway(&issuer)).actor(actor());
    let client = || ClientCredentials::builder(gateway(&issuer));
    let on_behalf_of = || OnBehalfOf::builder(gateway(&issuer)).scopes(["a"]);
    let cross_app = || {
        CrossAppAccess::builder("idp", gateway(&issuer), gateway(&issuer))
            .audience("https://as.example.com")
    };
    let cache = CredentialCache::<IssuedToken>::builder();
    let all = [
        (format!("{:?}", actor()), "Actor"),
        (format!("{:?}", exchange()), "TokenExchangeBuilder {"),
        (
            format!("{:?}", exchange().build().unwrap()),
            "TokenExchange {",
        ),
        (format!("{:?}", client()), "ClientCredentialsBuilder {"),
        (
            format!("{:?}", client().build().unwrap()),
            "ClientCredentials {",
        ),
        (format!("{:?}", on_behalf_of()), "OnBehalfOfBuilder {"),
        (
            format!("{:?}", on_behalf_of().build().unwrap()),
            "OnBehalfOf {",
        ),
        (format!("{:?}", cross_app()), "CrossAppAccessBuilder {"),
        (
            format!("{:?}", cross_app().build().unwrap()),
            "CrossAppAccess {",
        ),
        (
            format!("{cache:?}"),
            "CredentialCacheBuilder { capacity: 16384,",
        ),
    ];
    for (shown, witness) in all {
        assert!(!shown.contains("-secret"), "{shown}");
        assert!(shown.contains(witness), "{witness}: {shown}");
    }
}

#[tokio::test]
async fn each_strategy_goes_by_a_name_of_its_own() {
    let issuer = issuer_that_knows_alice().await;
    let endpoint = || gateway(&issuer);
    let strategies: [(Arc<dyn Strategy<Body>>, &str); 4] = [
        (Arc::new(exchange(&issuer)), "token_exchange"),
        (
            Arc::new(ClientCredentials::builder(endpoint()).build().unwrap()),
            "client_credentials",
        ),
        (
            Arc::new(
                OnBehalfOf::builder(endpoint())
                    .scopes(["a"])
                    .build()
                    .unwrap(),
            ),
            "on_behalf_of",
        ),
        (
            Arc::new(CrossApp::start().await.strategy),
            "cross_app_access",
        ),
    ];
    for (strategy, name) in strategies {
        assert_eq!(strategy.name(), name);
    }
}

#[test]
fn a_hit_needs_no_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (strategy, _issuer) = runtime.block_on(async {
        let issuer = issuer_that_knows_alice().await;
        let strategy = exchange(&issuer);
        token_for(&strategy, alice()).await.unwrap();
        (strategy, issuer)
    });
    let mut request = Request::new(Full::<Bytes>::default());
    request.extensions_mut().insert(alice());
    assert_eq!(
        format!("{:?}", strategy.authenticate(&mut request)),
        "Authenticating(done)"
    );
}
