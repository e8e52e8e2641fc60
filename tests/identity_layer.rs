//! The request's identity wins; the session's fills the gap.

mod support;

use http::Method;
use support::recording::{RecordingService, identity, request, upstream_token};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, FallbackPolicy, HealthCheck, Identity, IdentityLayer,
    Origin, Unauthenticated, UpstreamInject,
};

/// Which token of `github` arrives when `layer` is given the request.
async fn token_sent(layer: &IdentityLayer, request: http::Request<String>) -> Option<String> {
    let backend = RecordingService::new();
    layer.layer(backend.clone()).oneshot(request).await.unwrap();
    let token = backend
        .arrival()
        .identity?
        .upstream("github")?
        .access_token()
        .expose()
        .to_owned();
    Some(token)
}

#[tokio::test]
async fn f01_a_captured_identity_never_overrides_the_fresh_one() {
    let layer = IdentityLayer::new(identity("user-1", "stale"));
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let fresh = identity("user-1", "fresh");
        assert_eq!(
            token_sent(&layer, request(method, fresh)).await.as_deref(),
            Some("fresh")
        );
    }
}

#[tokio::test]
async fn identities_are_not_merged() {
    let layer = IdentityLayer::new(identity("user-1", "stale"));
    let without_tokens = Identity::builder("user-1").build().unwrap();
    assert_eq!(
        token_sent(&layer, request(Method::POST, without_tokens)).await,
        None
    );
}

#[tokio::test]
async fn the_session_fills_the_gap_of_a_request_without_identity() {
    let layer = IdentityLayer::new(identity("user-1", "session"));
    assert_eq!(
        token_sent(&layer, request(Method::POST, None))
            .await
            .as_deref(),
        Some("session")
    );
}

#[tokio::test]
async fn f02_who_is_not_known_is_none_and_no_strategy_takes_them_for_a_user() {
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let backend = RecordingService::new();
    let without_credential = ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(AuthLayer::new(origin.clone(), Unauthenticated))
        .service(backend.clone());
    without_credential
        .oneshot(request(Method::POST, None))
        .await
        .unwrap();
    assert!(backend.arrival().identity.is_none());

    let backend = RecordingService::new();
    let of_a_user = ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(AuthLayer::new(
            origin,
            UpstreamInject::new("github").unwrap(),
        ))
        .service(backend.clone());
    let error = of_a_user
        .oneshot(request(Method::POST, None))
        .await
        .unwrap_err();
    let error = AuthError::find_in(error.as_ref()).unwrap();
    assert_eq!(error.kind(), AuthErrorKind::MissingIdentity);
    assert!(backend.arrivals().is_empty());
}

#[tokio::test]
async fn f03_a_session_without_identity_fills_no_gap() {
    let layer = IdentityLayer::new(None).follow_requests();
    assert_eq!(
        token_sent(&layer, request(Method::POST, identity("user-1", "fresh")))
            .await
            .as_deref(),
        Some("fresh")
    );
    let backend = RecordingService::new();
    let teardown = layer.layer(backend.clone());
    teardown
        .oneshot(request(Method::DELETE, None))
        .await
        .unwrap();
    assert!(backend.arrival().identity.is_none());
}

#[tokio::test]
async fn a_policy_says_which_gaps_are_filled() {
    let on_event_streams = FallbackPolicy::when(|parts| {
        parts
            .headers
            .get("accept")
            .is_some_and(|accept| accept == "text/event-stream")
    });
    let policies = [
        (FallbackPolicy::default(), [true, true, true]),
        (FallbackPolicy::always(), [true, true, true]),
        (FallbackPolicy::never(), [false, false, false]),
        (FallbackPolicy::teardown(), [false, false, true]),
        (
            FallbackPolicy::methods([Method::GET, Method::DELETE]),
            [false, true, true],
        ),
        (on_event_streams, [false, true, false]),
    ];
    for (policy, expected) in policies {
        let layer = IdentityLayer::new(identity("user-1", "session")).fallback(policy.clone());
        for (method, expected) in [Method::POST, Method::GET, Method::DELETE]
            .into_iter()
            .zip(expected)
        {
            let mut request = request(method.clone(), None);
            if method == Method::GET {
                request
                    .headers_mut()
                    .insert("accept", "text/event-stream".parse().unwrap());
            }
            assert_eq!(
                token_sent(&layer, request).await.is_some(),
                expected,
                "{method} with {policy:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_predicate_sees_the_whole_request_and_changes_none_of_it() {
    let policy = FallbackPolicy::when(|parts| {
        assert_eq!(parts.method, Method::PUT);
        assert_eq!(parts.uri, "https://mcp.example.com/mcp");
        assert_eq!(parts.version, http::Version::HTTP_2);
        assert_eq!(parts.headers["x-tenant"], "blue");
        assert_eq!(parts.extensions.get(), Some(&7_u8));
        true
    });
    let backend = RecordingService::new();
    let mut request = request(Method::PUT, None);
    *request.version_mut() = http::Version::HTTP_2;
    request
        .headers_mut()
        .insert("x-tenant", "blue".parse().unwrap());
    request.extensions_mut().insert(7_u8);
    let layer = IdentityLayer::new(identity("user-1", "session")).fallback(policy);
    layer.layer(backend.clone()).oneshot(request).await.unwrap();

    let arrival = backend.arrival();
    assert_eq!(arrival.method, Method::PUT);
    assert_eq!(arrival.uri, "https://mcp.example.com/mcp");
    assert_eq!(arrival.header("x-tenant"), ["blue"]);
    assert_eq!(arrival.subject(), Some("user-1"));
}

#[tokio::test]
async fn a_fallback_that_follows_uses_the_newest_identity_of_the_same_user() {
    let layer = IdentityLayer::new(identity("user-1", "log-in")).follow_requests();
    assert_eq!(
        token_sent(&layer, request(Method::GET, None))
            .await
            .as_deref(),
        Some("log-in")
    );

    let replayed = identity("user-1", "hour-1");
    token_sent(&layer, request(Method::POST, replayed.clone())).await;
    token_sent(&layer, request(Method::POST, identity("user-1", "hour-2"))).await;
    assert_eq!(
        token_sent(&layer, request(Method::GET, None))
            .await
            .as_deref(),
        Some("hour-2")
    );

    // The replay goes out as it is, and does not turn the fallback back.
    assert_eq!(
        token_sent(&layer, request(Method::POST, replayed))
            .await
            .as_deref(),
        Some("hour-1")
    );
    assert_eq!(
        token_sent(&layer, request(Method::DELETE, None))
            .await
            .as_deref(),
        Some("hour-2")
    );
}

#[tokio::test]
async fn a_fallback_never_follows_another_user() {
    let layer = IdentityLayer::new(identity("user-1", "log-in")).follow_requests();
    token_sent(
        &layer,
        request(Method::POST, identity("user-2", "other-subject")),
    )
    .await;
    let other_issuer = Identity::builder("user-1")
        .issuer("https://evil.example")
        .build()
        .unwrap();
    token_sent(&layer, request(Method::POST, other_issuer)).await;
    assert_eq!(
        token_sent(&layer, request(Method::DELETE, None))
            .await
            .as_deref(),
        Some("log-in")
    );
}

#[tokio::test]
async fn a_fallback_does_not_follow_who_may_be_another_user() {
    // Subjects are unique within an issuer, and here it is not known.
    let user = |token: &str| {
        let builder = Identity::builder("1000").upstream("github", upstream_token(token));
        builder.build().unwrap()
    };
    let layer = IdentityLayer::new(user("of-one")).follow_requests();
    token_sent(&layer, request(Method::POST, user("of-another"))).await;
    assert_eq!(
        token_sent(&layer, request(Method::DELETE, None))
            .await
            .as_deref(),
        Some("of-one")
    );
}

#[tokio::test]
async fn a_fallback_that_does_not_follow_stays_what_was_captured() {
    let layer = IdentityLayer::new(identity("user-1", "log-in"));
    token_sent(&layer, request(Method::POST, identity("user-1", "fresh"))).await;
    assert_eq!(
        token_sent(&layer, request(Method::DELETE, None))
            .await
            .as_deref(),
        Some("log-in")
    );
}

#[tokio::test]
async fn f32_a_probing_client_marks_every_request_its_teardown_included() {
    let backend = RecordingService::new();
    let client = IdentityLayer::health_check().layer(backend.clone());
    for method in [Method::POST, Method::GET, Method::DELETE] {
        client.clone().oneshot(request(method, None)).await.unwrap();
    }
    for arrival in backend.arrivals() {
        assert!(arrival.health_check, "{}", arrival.method);
        assert_eq!(arrival.subject(), None);
    }
}

#[tokio::test]
async fn f32_a_probe_on_a_session_does_not_use_the_sessions_identity() {
    let backend = RecordingService::new();
    let mut probe = request(Method::POST, None);
    probe.extensions_mut().insert(HealthCheck);
    IdentityLayer::new(identity("user-1", "session"))
        .layer(backend.clone())
        .oneshot(probe)
        .await
        .unwrap();
    assert_eq!(backend.arrival().subject(), None);
}
