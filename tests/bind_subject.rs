//! A session serves the user who opened it, on the way in and on the way out.
#![cfg(feature = "incoming")]

mod support;

use http::{Method, Request, StatusCode};
use support::recording::{RecordingService, identity, request};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, BindSubject, FallbackPolicy, HealthCheck, Identity,
    IdentityLayer, Origin, UpstreamInject,
};

fn alice() -> Identity {
    identity("alice", "at-log-in")
}

/// Why a request of `user` does not pass.
async fn refusal(user: impl Into<Option<Identity>>) -> Option<AuthError> {
    let session = RecordingService::new();
    let bound = BindSubject::to(alice()).layer(session.clone());
    let outcome = bound.oneshot(request(Method::POST, user)).await;
    assert_eq!(session.arrivals().len(), usize::from(outcome.is_ok()));
    outcome
        .err()
        .map(|error| AuthError::find_in(error.as_ref()).unwrap().clone())
}

#[tokio::test]
async fn the_user_who_opened_the_session_passes_with_whatever_token() {
    assert!(refusal(identity("alice", "refreshed")).await.is_none());
}

#[tokio::test]
async fn another_user_is_refused_even_with_the_same_subject_at_another_issuer() {
    let elsewhere = Identity::builder("alice").issuer("https://other.example.com");
    let nowhere = Identity::builder("alice");
    for user in [
        identity("mallory", "t"),
        identity("Alice", "t"),
        elsewhere.build().unwrap(),
        nowhere.build().unwrap(),
    ] {
        let error = refusal(user).await.unwrap();
        assert_eq!(error.kind(), AuthErrorKind::InsufficientScope);
        let response = error.to_response::<bytes::Bytes>();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn f33_nothing_of_the_user_is_shown_by_a_call_under_way() {
    let mut bound = BindSubject::to(alice()).layer(RecordingService::new());
    let bound = ServiceExt::<Request<String>>::ready(&mut bound)
        .await
        .unwrap();
    let call = bound.call(request(Method::POST, alice()));
    assert_eq!(format!("{call:?}"), "BindSubjectFuture { .. }");
}

#[tokio::test]
async fn a_request_of_nobody_is_refused_and_a_probe_passes() {
    let error = refusal(None).await.unwrap();
    assert_eq!(error.kind(), AuthErrorKind::MissingIdentity);

    let session = RecordingService::new();
    let bound = BindSubject::to(alice()).layer(session.clone());
    let mut probe = request(Method::POST, None);
    probe.extensions_mut().insert(HealthCheck);
    bound.oneshot(probe).await.unwrap();
    assert!(session.arrival().health_check);
}

#[tokio::test]
async fn f06_in_the_outgoing_stack_no_credential_of_another_user_is_sent() {
    let backend = RecordingService::new();
    let origin = Origin::try_from("https://mcp.example.com").unwrap();
    let stack = ServiceBuilder::new()
        .layer(IdentityLayer::new(alice()).fallback(FallbackPolicy::teardown()))
        .layer(BindSubject::to(alice()))
        .layer(AuthLayer::new(
            origin,
            UpstreamInject::new("github").unwrap(),
        ))
        .service(backend.clone());

    let theirs = request(Method::POST, identity("mallory", "theirs"));
    stack.clone().oneshot(theirs).await.unwrap_err();
    assert!(backend.arrivals().is_empty());

    let teardown = request(Method::DELETE, None);
    stack.oneshot(teardown).await.unwrap();
    assert_eq!(
        backend.arrival().header("authorization"),
        ["Bearer at-log-in"]
    );
}
