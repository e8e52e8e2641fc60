//! Where a credential goes: into the header that the backend reads, once, and nowhere else.
#![cfg(feature = "token-exchange")]

mod support;

use http::HeaderMap;
use support::{
    issuer::Issuer,
    token_stack::{Backend, clock, endpoint, http_client, send, unauthorized, user},
};
use tower::{Layer, ServiceExt};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, ClientAuth, ClientCredentials,
    HeaderInjection, Identity, Origin, Placement, Strategy, Subject, TokenExchange, UpstreamInject,
    UpstreamToken, strategy::Both,
};

fn alice() -> Identity {
    let github = UpstreamToken::new(AccessToken::new("gho_1").unwrap());
    Identity::builder("alice")
        .token(AccessToken::new("alices-token").unwrap())
        .upstream("github", github)
        .build()
        .unwrap()
}

/// The values of a header that the backend got with the last request.
fn arrived(backend: &Backend, name: &str) -> Vec<String> {
    let last = backend.server.requests().pop().unwrap();
    last.all(name).into_iter().map(str::to_owned).collect()
}

fn header(name: &str, prefix: &str) -> Placement {
    Placement::header(name).unwrap().prefix(prefix).unwrap()
}

#[tokio::test]
async fn a_token_goes_into_the_header_that_was_set_in_place_of_all_its_spellings() {
    for (placement, name, before, spelling) in [
        (Placement::bearer(), "authorization", "Bearer ", None),
        (
            header("authorization", "token "),
            "authorization",
            "token ",
            None,
        ),
        (header("x-api-key", ""), "x-api-key", "", Some("x_api_key")),
        (
            header("x-upstream-authorization", "Bearer "),
            "x-upstream-authorization",
            "Bearer ",
            Some("x_upstream-authorization"),
        ),
    ] {
        let (backend, issuer) = (Backend::start().await, Issuer::start().await);
        issuer.know("gho_1", "alice").know("alices-token", "alice");
        let inject = UpstreamInject::new("github").unwrap();
        let exchange =
            TokenExchange::builder(endpoint(&issuer)).subject(Subject::upstream("github"));
        let strategies: [(std::sync::Arc<dyn Strategy<_>>, &str); 2] = [
            (
                std::sync::Arc::new(inject.placement(placement.clone())),
                "gho_1",
            ),
            (
                std::sync::Arc::new(exchange.placement(placement).build().unwrap()),
                "exchanged-for-alice-any-1",
            ),
        ];
        for (strategy, token) in strategies {
            let client = backend.client(strategy);
            // The second one is from the cache.
            for _ in 0..2 {
                let mut request = backend.request(alice());
                for name in [Some(name), spelling].into_iter().flatten() {
                    request
                        .headers_mut()
                        .append(name, "anothers".parse().unwrap());
                }
                send(&client, request).await.unwrap();
                let values = arrived(&backend, name);
                assert_eq!(values, [format!("{before}{token}")]);
                if let Some(spelling) = spelling {
                    assert!(arrived(&backend, spelling).is_empty());
                }
                if name != "authorization" {
                    assert!(arrived(&backend, "authorization").is_empty());
                }
            }
        }
    }
}

#[tokio::test]
async fn a_token_in_any_header_is_sensitive_and_leaves_to_its_origin_alone() {
    let sent = async |url: &str| -> Result<HeaderMap, AuthError> {
        let inject = UpstreamInject::new("github").unwrap();
        let inject = inject.placement(header("x-api-key", "Key "));
        let origin = Origin::try_from("https://mcp.example.com").unwrap();
        let far_end = tower::service_fn(async |request: http::Request<String>| {
            Ok::<_, tower::BoxError>(http::Response::new(request.headers().clone()))
        });
        let mut request = http::Request::get(url).body(String::new()).unwrap();
        request.extensions_mut().insert(alice());
        let answer = AuthLayer::new(origin, inject)
            .layer(far_end)
            .oneshot(request);
        match answer.await {
            Ok(response) => Ok(response.into_body()),
            Err(error) => Err(AuthError::find_in(&*error).unwrap().clone()),
        }
    };
    let headers = sent("https://mcp.example.com/mcp").await.unwrap();
    assert_eq!(headers["x-api-key"], "Key gho_1");
    assert!(headers["x-api-key"].is_sensitive());
    let refused = sent("https://stranger.example.com/mcp").await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::WrongOrigin);
}

#[tokio::test]
async fn strategies_that_differ_in_their_placement_never_share_what_is_sent() {
    let (backend, issuer) = (Backend::start().await, Issuer::start().await);
    issuer.know("alices-token", "alice");
    let cache = tower_identity::CredentialCache::builder().build().unwrap();
    let mut values = Vec::new();
    for placement in [
        header("x-api-key", ""),
        header("x-api-key", "Key "),
        header("x-key", ""),
    ] {
        let strategy = TokenExchange::builder(endpoint(&issuer))
            .placement(placement)
            .cache(cache.clone())
            .build()
            .unwrap();
        let client = backend.client(strategy);
        send(&client, backend.request(user("alice", "alices-token")))
            .await
            .unwrap();
        values.extend(arrived(&backend, "x-api-key"));
        values.extend(arrived(&backend, "x-key"));
    }
    assert_eq!(
        values,
        [
            "exchanged-for-alice-any-1",
            "Key exchanged-for-alice-any-2",
            "exchanged-for-alice-any-3"
        ]
    );
}

#[tokio::test]
async fn both_credentials_arrive_or_nothing_is_sent() {
    let (backend, issuer) = (Backend::start().await, Issuer::start().await);
    let own = || {
        let endpoint = support::token_stack::endpoint_builder(&issuer)
            .client_auth(ClientAuth::basic(
                "gateway",
                support::token_stack::secret("secret"),
            ))
            .clock(clock());
        ClientCredentials::builder(endpoint.build().unwrap())
            .placement(header("x-gateway-authorization", "Bearer "))
            .build()
            .unwrap()
    };
    let user = || UpstreamInject::new("github").unwrap();
    let (first, second) = (
        backend.client(Both(own(), user())),
        backend.client(Both(user(), own())),
    );
    send(&first, backend.request(alice())).await.unwrap();
    let gateway = arrived(&backend, "x-gateway-authorization");
    assert_eq!(gateway, ["Bearer issued-to-client-any-1"]);
    assert_eq!(arrived(&backend, "authorization"), ["Bearer gho_1"]);
    send(&second, backend.request(alice())).await.unwrap();
    assert_eq!(arrived(&backend, "authorization"), ["Bearer gho_1"]);
    assert_eq!(arrived(&backend, "x-gateway-authorization").len(), 1);

    let bob = support::token_stack::user("bob", "bobs-token");
    let refused = send(&first, backend.request(bob.clone()))
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::MissingToken);
    let refused = send(&second, backend.request(bob)).await.unwrap_err();
    assert_eq!(refused.kind(), AuthErrorKind::MissingToken);
    assert_eq!(backend.server.requests().len(), 2);
}

#[tokio::test]
async fn a_rejected_request_is_sent_again_if_either_credential_can_be_replaced() {
    let issuer = Issuer::start().await;
    issuer.know("alices-token", "alice");
    let backend = support::http_server::HttpServer::start(|request: http::Request<_>| {
        let is_old = request.headers()["x-token"] == "exchanged-for-alice-any-1";
        async move {
            match is_old {
                true => unauthorized(),
                false => support::http_server::ok(),
            }
        }
    })
    .await;
    let key = HeaderInjection::new("x-api-key", "key").unwrap();
    let exchange = TokenExchange::builder(endpoint(&issuer)).placement(header("x-token", ""));
    let strategy = Both(key, exchange.build().unwrap());
    let client = AuthLayer::new(backend.origin(), strategy).retry_rejected();
    let mut request = http::Request::post(backend.uri("/mcp"))
        .body(http_body_util::Full::from("{}"))
        .unwrap();
    request
        .extensions_mut()
        .insert(user("alice", "alices-token"));
    let response = client.layer(http_client()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(issuer.requests().len(), 2);
}

#[test]
fn a_header_or_a_prefix_that_cannot_carry_a_credential_is_refused() {
    for name in [
        "",
        "x key",
        "host",
        "cookie",
        "connection",
        "x-forwarded-for",
        "mcp_session_id",
    ] {
        let error = Placement::header(name).unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "name", "{name}");
    }
    let long = "x".repeat(65);
    for prefix in [" Bearer ", "Bearer\n", "Bea\0rer ", "Schlüssel ", &long] {
        let error = Placement::header("x-api-key")
            .unwrap()
            .prefix(prefix)
            .unwrap_err();
        assert_eq!(error.invalid_settings()[0].setting(), "prefix", "{prefix}");
    }
}
