//! After a 401: one retry with a fresh credential where there is one, one refresh for all who were rejected.
#![cfg(feature = "token-exchange")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use http::{HeaderValue, Request, StatusCode, header::AUTHORIZATION, request, response};
use hyper::body::Incoming;
use serde_json::json;
use support::{
    authenticated::Authenticated,
    http_server::{self, HttpServer},
    issuer::{Behaviour, Issuer},
    token_stack::{
        Backend, Body, HttpService, clock, endpoint, endpoint_builder, http_client, jwt, seconds,
        secret, send, unauthorized, user, user_with_id_token,
    },
};
use tokio::sync::Barrier;
use tower::ServiceBuilder;
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, Authenticating, ClientAuth,
    ClientCredentials, CrossAppAccess, HeaderInjection, Identity, IdentityLayer, ManualClock,
    OnBehalfOf, Origin, Strategy, TokenEndpoint, TokenExchange, UpstreamInject, UpstreamToken,
    oauth::TokenType, outgoing::RetryRejected, strategy::Rejection,
};

fn alice() -> Identity {
    user("alice", "token-of-alice")
}

async fn issuer() -> Issuer {
    let issuer = Issuer::start().await;
    issuer.know("token-of-alice", "alice");
    issuer.know("token-of-bob", "bob");
    issuer
}

fn exchange(issuer: &Issuer) -> TokenExchange {
    TokenExchange::builder(endpoint(issuer)).build().unwrap()
}

fn exchange_by(issuer: &Issuer, clock: &Arc<ManualClock>) -> TokenExchange {
    TokenExchange::builder(endpoint(issuer))
        .clock(clock.clone())
        .build()
        .unwrap()
}

fn gateway(issuer: &Issuer) -> TokenEndpoint {
    endpoint_builder(issuer)
        .client_auth(ClientAuth::basic("gateway", secret("1")))
        .build()
        .unwrap()
}

fn minted(subject: &str, number: usize) -> String {
    format!("exchanged-for-{subject}-any-{number}")
}

fn sent(tokens: &[String]) -> Vec<Vec<String>> {
    tokens
        .iter()
        .map(|token| vec![format!("Bearer {token}")])
        .collect()
}

fn stack<A>(layer: AuthLayer<A, RetryRejected<Body>>) -> impl HttpService
where
    A: Strategy<Body> + Clone + Send + Sync + 'static,
{
    ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(layer)
        .service(http_client())
}

fn client<A>(backend: &Backend, strategy: A) -> impl HttpService
where
    A: Strategy<Body> + Clone + Send + Sync + 'static,
{
    stack(AuthLayer::new(backend.server.origin(), strategy).retry_rejected())
}

#[tokio::test]
async fn a_rejected_token_is_replaced_once_and_the_request_sent_again() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let client = client(&backend, exchange(&issuer));
    // With a token that was at hand, and with one that was exchanged for this call.
    send(&client, backend.request(alice())).await.unwrap();
    backend.reject(&minted("alice", 1));
    backend.reject(&minted("bob", 3));
    let answer = send(&client, backend.request(alice())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let bob = user("bob", "token-of-bob");
    let answer = send(&client, backend.request(bob)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    send(&client, backend.request(alice())).await.unwrap();
    let tokens = [
        minted("alice", 1),
        minted("alice", 1),
        minted("alice", 2),
        minted("bob", 3),
        minted("bob", 4),
        minted("alice", 2),
    ];
    assert_eq!(backend.authorizations(), sent(&tokens));
    assert_eq!(issuer.requests().len(), 4);
}

#[tokio::test]
async fn it_works_for_a_strategy_that_configuration_chose() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let strategy: Arc<dyn Strategy<Body>> = Arc::new(exchange(&issuer));
    backend.reject(&minted("alice", 1));
    let answer = send(&client(&backend, strategy), backend.request(alice()))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

/// Has another token each time.
#[derive(Clone, Default)]
struct Numbers(Arc<AtomicU32>);

impl<B> Strategy<B> for Numbers {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        let token = HeaderValue::try_from(format!("Bearer {number}")).unwrap();
        request.headers_mut().insert(AUTHORIZATION, token);
        Authenticating::done()
    }

    fn rejected(&self, _: &request::Parts, _: &response::Parts) -> Rejection {
        Rejection::AnotherCredential
    }
}

#[tokio::test]
async fn f22_a_second_401_goes_to_the_caller() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let clock = clock();
    let client = client(&backend, exchange_by(&issuer, &clock));
    for number in 1..=4 {
        backend.reject(&minted("alice", number));
    }
    let answer = send(&client, backend.request(alice())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        answer.headers()["www-authenticate"],
        r#"Bearer error="invalid_token""#
    );
    assert_eq!(
        backend.authorizations(),
        sent(&[minted("alice", 1), minted("alice", 2)])
    );

    // A later call does not send again what was rejected last, but once.
    clock.advance(seconds(10));
    send(&client, backend.request(alice())).await.unwrap();
    let tokens = [1, 2, 2, 3].map(|number| minted("alice", number));
    assert_eq!(backend.authorizations(), sent(&tokens));

    // Not even a strategy that always has another credential is asked again.
    for number in 0..=4 {
        backend.reject(&number.to_string());
    }
    let answer = send(
        &self::client(&backend, Numbers::default()),
        backend.request(None),
    )
    .await
    .unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let sent = backend.authorizations();
    assert_eq!(sent[tokens.len()..], [["Bearer 0"], ["Bearer 1"]]);
}

/// A backend that answers when as many requests with the token that it rejects are there as it waits for.
async fn herd_backend(rejected: String, callers: usize) -> (HttpServer, Arc<AtomicUsize>) {
    let together = Arc::new(Barrier::new(callers));
    let rejections = Arc::new(AtomicUsize::new(0));
    let counter = rejections.clone();
    let server = HttpServer::start(move |request: Request<Incoming>| {
        let is_rejected = request.headers()["authorization"] == format!("Bearer {rejected}");
        let (together, counter) = (together.clone(), counter.clone());
        async move {
            if !is_rejected {
                return http_server::ok();
            }
            together.wait().await;
            counter.fetch_add(1, Ordering::SeqCst);
            unauthorized()
        }
    })
    .await;
    (server, rejections)
}

#[tokio::test(flavor = "multi_thread")]
async fn f21_calls_rejected_with_the_same_token_cause_one_refresh() {
    const CALLERS: usize = 50;
    for is_warm in [false, true] {
        let issuer = issuer().await;
        let (server, rejections) = herd_backend(minted("alice", 1), CALLERS).await;
        let strategy = exchange(&issuer);
        if is_warm {
            support::token_stack::token_for(&strategy, alice())
                .await
                .unwrap();
        }
        let client = stack(AuthLayer::new(server.origin(), strategy).retry_rejected());
        let calls = (0..CALLERS).map(|_| {
            let client = client.clone();
            let mut request = Request::post(server.uri("/mcp"))
                .body(Body::from("{}"))
                .unwrap();
            request.extensions_mut().insert(alice());
            tokio::spawn(async move { send(&client, request).await })
        });
        let calls: Vec<_> = calls.collect();
        for answer in join_all(calls).await {
            assert_eq!(answer.unwrap().unwrap().status(), StatusCode::OK);
        }
        assert_eq!(rejections.load(Ordering::SeqCst), CALLERS);
        assert_eq!(
            issuer.requests().len(),
            2,
            "one exchange, and one to replace its token"
        );
    }
}

#[tokio::test]
async fn f21_a_late_rejection_does_not_drop_what_replaced_the_token() {
    let issuer = issuer().await;
    let strategy = exchange(&issuer);
    let send = || async {
        let mut request = Request::get("https://mcp.example.com/mcp")
            .body(Body::default())
            .unwrap();
        request.extensions_mut().insert(alice());
        let sent = strategy.authenticated(request).await.unwrap();
        sent.into_parts().0
    };
    let reject = |sent: &request::Parts| {
        let (response, _) = unauthorized().into_parts();
        let rejection = Strategy::<Body>::rejected(&strategy, sent, &response);
        assert_eq!(rejection, Rejection::AnotherCredential);
    };
    let (first, also_first) = (send().await, send().await);
    reject(&first);
    let second = send().await;
    assert_ne!(first.headers[AUTHORIZATION], second.headers[AUTHORIZATION]);

    reject(&also_first);
    reject(&first);
    let third = send().await;
    assert_eq!(second.headers[AUTHORIZATION], third.headers[AUTHORIZATION]);
    assert_eq!(issuer.requests().len(), 2);
}

#[tokio::test]
async fn another_users_rejection_does_not_save_a_token_that_is_rejected_after_it() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let client = client(&backend, exchange(&issuer));
    let bob = user("bob", "token-of-bob");
    for identity in [alice(), bob.clone()] {
        send(&client, backend.request(identity)).await.unwrap();
    }
    backend.reject(&minted("bob", 2));
    backend.reject(&minted("alice", 1));
    for identity in [bob, alice()] {
        let answer = send(&client, backend.request(identity)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let replaced = [
        minted("bob", 2),
        minted("bob", 3),
        minted("alice", 1),
        minted("alice", 4),
    ];
    assert_eq!(backend.authorizations()[2..], sent(&replaced));
}

#[tokio::test]
async fn a_rejection_touches_no_other_users_token() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let client = client(&backend, exchange(&issuer));
    let bob = user("bob", "token-of-bob");
    send(&client, backend.request(bob.clone())).await.unwrap();
    backend.reject(&minted("alice", 2));
    send(&client, backend.request(alice())).await.unwrap();
    send(&client, backend.request(bob)).await.unwrap();
    assert_eq!(issuer.requests().len(), 3);
    assert_eq!(
        backend.authorizations().last(),
        sent(&[minted("bob", 1)]).last()
    );
}

#[tokio::test]
async fn a_strategy_that_would_send_the_same_again_is_not_retried() {
    let backend = Backend::start().await;
    backend.reject("same");
    let upstream = UpstreamToken::new(AccessToken::new("same").unwrap());
    let identity = Identity::builder("alice")
        .upstream("github", upstream)
        .build()
        .unwrap();
    let strategies: [Arc<dyn Strategy<Body>>; 2] = [
        Arc::new(UpstreamInject::new("github").unwrap()),
        Arc::new(HeaderInjection::new("authorization", "Bearer same").unwrap()),
    ];
    for strategy in strategies {
        let answer = send(
            &client(&backend, strategy),
            backend.request(identity.clone()),
        )
        .await;
        assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(backend.server.requests().len(), 2);
}

#[test]
fn f33_a_layer_that_retries_does_not_show_its_strategy() {
    let strategy = HeaderInjection::new("authorization", "Bearer same").unwrap();
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let layer = AuthLayer::new(origin, strategy).retry_rejected::<Body>();
    assert_eq!(
        format!("{layer:?}"),
        "AuthLayer { origin: Origin(https://mcp.example.com), .. }"
    );
}

#[tokio::test]
async fn a_body_that_cannot_be_cloned_is_not_retried() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    backend.reject(&minted("alice", 1));
    let strategy = exchange(&issuer);
    let layer = AuthLayer::new(backend.server.origin(), strategy);
    let client = stack(layer.retry_rejected_with(|_| None));
    let answer = send(&client, backend.request(alice())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(backend.server.requests().len(), 1);
    assert_eq!(issuer.requests().len(), 1);
}

#[tokio::test]
async fn a_403_for_want_of_scope_is_handed_up_with_its_challenge() {
    const CHALLENGE: &str = r#"Bearer error="insufficient_scope", scope="tools:call""#;
    let issuer = issuer().await;
    let server = HttpServer::start(async |_: Request<Incoming>| {
        let mut response = http_server::ok();
        *response.status_mut() = StatusCode::FORBIDDEN;
        let challenge = CHALLENGE.parse().unwrap();
        response.headers_mut().insert("www-authenticate", challenge);
        response
    })
    .await;
    let strategy = exchange(&issuer);
    let client = stack(AuthLayer::new(server.origin(), strategy).retry_rejected());
    let mut request = Request::post(server.uri("/mcp"))
        .body(Body::from("{}"))
        .unwrap();
    request.extensions_mut().insert(alice());
    let answer = send(&client, request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.headers()["www-authenticate"], CHALLENGE);
    assert_eq!((server.requests().len(), issuer.requests().len()), (1, 1));
}

#[tokio::test]
async fn what_is_retried_is_the_same_request() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    backend.reject(&minted("alice", 1));
    let mut request = backend.request(alice());
    *request.method_mut() = http::Method::PUT;
    request
        .headers_mut()
        .insert("mcp-session-id", "5f1c0f9e".parse().unwrap());
    send(&client(&backend, exchange(&issuer)), request)
        .await
        .unwrap();
    let [first, second] = &backend.server.requests()[..] else {
        panic!("two requests");
    };
    assert_eq!(
        (&first.method, &first.uri, first.version),
        (&second.method, &second.uri, second.version)
    );
    let without_token = |received: &http_server::Received| {
        let mut headers = received.headers.clone();
        headers.remove("authorization");
        headers
    };
    assert_eq!(without_token(first), without_token(second));
}

#[tokio::test]
async fn f44_while_the_issuer_is_down_the_backends_401_is_the_answer() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let client = client(&backend, exchange(&issuer));
    send(&client, backend.request(alice())).await.unwrap();
    backend.reject(&minted("alice", 1));
    issuer.next(Behaviour::error(503, "temporarily_unavailable"));
    for _ in 0..3 {
        let answer = send(&client, backend.request(alice())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(
            answer.headers()["www-authenticate"],
            r#"Bearer error="invalid_token""#
        );
    }
    assert_eq!(backend.server.requests().len(), 4);
    assert_eq!(issuer.requests().len(), 2);
}

/// As `AuthLayer` documents it under "When there is no other credential".
#[tokio::test]
async fn f44_what_no_passing_fault_explains_is_told_in_place_of_the_backends_401() {
    for (status, code, kind) in [
        (400, "invalid_grant", Some(AuthErrorKind::Rejected)),
        (400, "interaction_required", Some(AuthErrorKind::Rejected)),
        (400, "invalid_scope", Some(AuthErrorKind::InsufficientScope)),
        (401, "invalid_client", Some(AuthErrorKind::Configuration)),
        (400, "slow_down", None),
        (429, "rate_limited", None),
        (500, "server_error", None),
    ] {
        let (issuer, backend) = (issuer().await, Backend::start().await);
        let client = client(&backend, exchange(&issuer));
        send(&client, backend.request(alice())).await.unwrap();
        backend.reject(&minted("alice", 1));
        issuer.next(Behaviour::error(status, code));

        let first = send(&client, backend.request(alice())).await;
        assert_eq!(first.as_ref().err().map(AuthError::kind), kind, "{code}");
        if let Ok(answer) = &first {
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{code}");
        }
        let has_step = first.is_err_and(|error| error.interaction().is_some());
        assert_eq!(has_step, code == "interaction_required");

        // The next ones get the backend's answer, because the issuer is not asked again so soon.
        for _ in 0..2 {
            let answer = send(&client, backend.request(alice())).await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{code}");
        }
        assert_eq!(issuer.requests().len(), 2, "{code}");
    }
}

#[tokio::test]
async fn f44_calls_rejected_in_a_row_force_one_refresh_in_10_seconds() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let clock = clock();
    let client = client(&backend, exchange_by(&issuer, &clock));
    for number in 1..10 {
        backend.reject(&minted("alice", number));
    }
    for window in 1..=3 {
        for _ in 0..100 {
            let answer = send(&client, backend.request(alice())).await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        }
        assert_eq!(issuer.requests().len(), 1 + window);
        clock.advance(seconds(10));
    }
}

#[tokio::test]
async fn f44_one_caller_locks_nobody_out_of_the_clients_own_token() {
    let issuer = issuer().await;
    // It rejects whoever asks for the wrong path, whatever the token.
    let server = HttpServer::start(async |request: Request<Incoming>| {
        if request.uri().path() == "/forbidden" {
            unauthorized()
        } else {
            http_server::ok()
        }
    })
    .await;
    let strategy = ClientCredentials::builder(gateway(&issuer))
        .build()
        .unwrap();
    let client = stack(AuthLayer::new(server.origin(), strategy).retry_rejected());
    let call = async |path: &str| {
        let request = Request::get(server.uri(path))
            .body(Body::default())
            .unwrap();
        send(&client, request).await.unwrap().status()
    };
    assert_eq!(call("/mcp").await, StatusCode::OK);
    for _ in 0..3 {
        issuer.next(Behaviour::error(503, "temporarily_unavailable"));
    }
    for _ in 0..10 {
        assert_eq!(call("/forbidden").await, StatusCode::UNAUTHORIZED);
        assert_eq!(call("/mcp").await, StatusCode::OK);
    }
    assert_eq!(issuer.requests().len(), 2);
}

#[tokio::test]
async fn f32_a_401_to_a_probe_is_its_answer_and_retried_only_with_the_clients_own_token() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let gateway = gateway(&issuer);
    backend.reject("issued-to-client-any-1");
    let with_client = TokenExchange::builder(gateway.clone()).build().unwrap();
    let answer = send(&client(&backend, with_client), backend.probe())
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(issuer.requests().len(), 2);

    backend.reject("issued-to-client-any-3");
    let own = ClientCredentials::builder(gateway).build().unwrap();
    let answer = send(&client(&backend, own), backend.request(None))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(issuer.requests().len(), 4);

    let server = HttpServer::start(async |_: Request<Incoming>| unauthorized()).await;
    let strategy = exchange(&issuer);
    let client = stack(AuthLayer::new(server.origin(), strategy).retry_rejected());
    let mut probe = backend.probe();
    *probe.uri_mut() = server.uri("/mcp").parse().unwrap();
    let answer = send(&client, probe).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_users_token_is_replaced_where_the_client_has_one_of_its_own_too() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let strategy = TokenExchange::builder(gateway(&issuer)).build().unwrap();
    backend.reject(&minted("alice", 1));
    let answer = send(&client(&backend, strategy), backend.request(alice()))
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        backend.authorizations(),
        sent(&[minted("alice", 1), minted("alice", 2)])
    );
}

#[tokio::test]
async fn a_rejected_token_that_was_issued_on_behalf_of_a_user_is_replaced() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let strategy = OnBehalfOf::builder(gateway(&issuer)).scopes(["mail.read"]);
    backend.reject("issued-for-alice-1");
    let client = client(&backend, strategy.build().unwrap());
    let answer = send(&client, backend.request(alice())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let tokens = ["issued-for-alice-1", "issued-for-alice-2"].map(str::to_owned);
    assert_eq!(backend.authorizations(), sent(&tokens));
}

#[tokio::test]
async fn a_rejected_token_of_another_applications_server_is_replaced_with_a_new_assertion() {
    let (identity_provider, authorization_server) = (issuer().await, issuer().await);
    let backend = Backend::start().await;
    let id_token = jwt(&json!({}), &json!({ "iss": "https://idp.example.com" }));
    identity_provider.know(&id_token, "alice");
    for number in 1..=2 {
        let claims = json!({
            "iss": "https://idp.example.com", "aud": "https://as.example.com", "exp": 300, "jti": number,
        });
        let assertion = jwt(&json!({ "typ": "oauth-id-jag+jwt" }), &claims);
        authorization_server.know(&assertion, "alice");
        identity_provider.next(Behaviour::json(
            200,
            &json!({
                "access_token": assertion,
                "issued_token_type": TokenType::IdJag.urn(),
                "token_type": "N_A",
            }),
        ));
    }
    let strategy = CrossAppAccess::builder(
        "idp",
        gateway(&identity_provider),
        gateway(&authorization_server),
    );
    let strategy = strategy.audience("https://as.example.com").clock(clock());
    backend.reject("issued-for-alice-1");
    let client = client(&backend, strategy.build().unwrap());
    let user = user_with_id_token("alice", &id_token);
    let answer = send(&client, backend.request(user)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let tokens = ["issued-for-alice-1", "issued-for-alice-2"].map(str::to_owned);
    assert_eq!(backend.authorizations(), sent(&tokens));
}

#[tokio::test]
async fn a_token_that_expired_while_the_request_was_under_way_is_replaced_as_well() {
    let (issuer, backend) = (issuer().await, Backend::start().await);
    let clock = clock();
    let strategy = TokenExchange::builder(endpoint(&issuer))
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = client(&backend, strategy);
    send(&client, backend.request(alice())).await.unwrap();
    clock.advance(seconds(3600));
    backend.reject(&minted("alice", 2));
    let answer = send(&client, backend.request(alice())).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(issuer.requests().len(), 3);
}
