//! The layers beneath a generated gRPC client: each call carries its own user's token, to a real server of tonic.
#![cfg(feature = "hyper")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Status,
    body::Body,
    metadata::MetadataMap,
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{BoxError, ServiceBuilder};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, FallbackPolicy, Identity, IdentityLayer,
    Origin, UpstreamInject, UpstreamToken, strategy_fn,
};

/// A server with the health service, which remembers the metadata of its calls.
struct Backend {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<MetadataMap>>>,
}

impl Backend {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let remember = {
            let seen = seen.clone();
            move |request: Request<()>| {
                seen.lock().unwrap().push(request.metadata().clone());
                Ok(request)
            }
        };
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        let server = Server::builder()
            .layer(tonic::service::InterceptorLayer::new(remember))
            .add_service(health)
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(server);
        Self { address, seen }
    }

    fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    fn origin(&self) -> Origin {
        Origin::try_from(self.uri()).unwrap()
    }

    fn authorizations(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        let authorization = |metadata: &MetadataMap| {
            let value = metadata.get("authorization");
            value.map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        seen.iter().map(authorization).collect()
    }
}

fn identity(token: &str) -> Identity {
    let token = UpstreamToken::new(AccessToken::new(token).unwrap());
    let identity = Identity::builder("alice").upstream("github", token);
    identity.build().unwrap()
}

fn call_of(identity: Identity) -> Request<HealthCheckRequest> {
    let mut request = Request::new(HealthCheckRequest::default());
    request.extensions_mut().insert(identity);
    request
}

/// Turns the error of the stack into a status with a code that says what to do.
fn status(error: BoxError) -> Status {
    let Some(error) = AuthError::find_in(&*error) else {
        return Status::from_error(error);
    };
    let code = match error.kind() {
        AuthErrorKind::MissingIdentity
        | AuthErrorKind::MissingToken
        | AuthErrorKind::Expired
        | AuthErrorKind::Rejected => Code::Unauthenticated,
        AuthErrorKind::InsufficientScope => Code::PermissionDenied,
        AuthErrorKind::Unavailable => Code::Unavailable,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, error.to_string());
    status.set_source(Arc::new(error.clone()));
    status
}

#[tokio::test]
async fn each_call_over_a_channel_carries_the_token_of_its_own_identity() {
    let backend = Backend::start().await;
    let channel = Channel::from_shared(backend.uri()).unwrap();
    let stack = ServiceBuilder::new()
        .map_err(status)
        .layer(IdentityLayer::new(identity("captured")).fallback(FallbackPolicy::never()))
        .layer(AuthLayer::new(
            backend.origin(),
            UpstreamInject::new("github").unwrap(),
        ))
        .service(channel.connect().await.unwrap());
    let mut client = HealthClient::with_origin(stack, backend.uri().parse().unwrap());

    for token in ["first", "refreshed"] {
        let answer = client.check(call_of(identity(token))).await.unwrap();
        assert_eq!(answer.into_inner().status, 1);
    }
    assert_eq!(
        backend.authorizations(),
        ["Bearer first", "Bearer refreshed"]
    );

    let refused = client
        .check(Request::new(HealthCheckRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(backend.authorizations().len(), 2);
}

#[tokio::test]
async fn each_call_over_hyper_carries_the_token_of_its_own_identity() {
    let backend = Backend::start().await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Body>();
    let stack = ServiceBuilder::new()
        .map_err(status)
        .layer(AuthLayer::new(
            backend.origin(),
            UpstreamInject::new("github").unwrap(),
        ))
        .service(client);
    let mut client = HealthClient::with_origin(stack, backend.uri().parse().unwrap());
    client.check(call_of(identity("first"))).await.unwrap();
    client.check(call_of(identity("second"))).await.unwrap();
    assert_eq!(backend.authorizations(), ["Bearer first", "Bearer second"]);
}

#[tokio::test]
async fn an_auth_error_arrives_as_a_status_with_a_code_that_says_what_to_do() {
    for (kind, code) in [
        (AuthErrorKind::MissingToken, Code::Unauthenticated),
        (AuthErrorKind::Rejected, Code::Unauthenticated),
        (AuthErrorKind::InsufficientScope, Code::PermissionDenied),
        (AuthErrorKind::Unavailable, Code::Unavailable),
        (AuthErrorKind::Configuration, Code::Internal),
    ] {
        let origin = Origin::try_from("http://127.0.0.1:9").unwrap();
        let refusing = strategy_fn(move |_: http::Request<Body>| async move {
            Err(AuthError::new(kind, "refused by the test"))
        });
        let stack = ServiceBuilder::new()
            .map_err(status)
            .layer(AuthLayer::new(origin, refusing))
            .service(Channel::from_static("http://127.0.0.1:9").connect_lazy());
        let mut client = HealthClient::with_origin(stack, "http://127.0.0.1:9".parse().unwrap());
        let refused = client.check(call_of(identity("t"))).await.unwrap_err();
        assert_eq!(refused.code(), code, "{kind:?}");
        let cause = AuthError::find_in(&refused).unwrap();
        assert_eq!(cause.kind(), kind);
    }
}
