//! Secrets do not leak: not by `Debug`, not by `Display`, not in a chain of errors, not in a log at TRACE.

mod support;

use std::{
    fmt::{Debug, Write as _},
    io,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, HeaderValue, Method, Request};
use support::recording::{RecordingService, request, request_to};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt};
use tower_identity::{
    AccessToken, AuthLayer, CapturedHeaders, FallbackPolicy, HeaderForwardLayer, HeaderInjection,
    Identity, IdentityLayer, Origin, Secret, Strategy, UpstreamInject, UpstreamToken,
};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// No part of a secret of its own is in the name of anything else here.
const MARK: &str = "hush";

fn secret(name: &str) -> String {
    format!("{MARK}-{name}-{MARK}")
}

fn user() -> Identity {
    let github = UpstreamToken::new(AccessToken::new(secret("upstream")).unwrap())
        .with_id_token(Secret::new(secret("id-token")).unwrap());
    Identity::builder("user-1")
        .token(AccessToken::new(secret("own")).unwrap())
        .upstream("github", github)
        .build()
        .unwrap()
}

fn origin() -> Origin {
    Origin::try_from("https://mcp.example.com").unwrap()
}

fn shown(value: impl Debug) -> String {
    format!("{value:?} {value:#?}")
}

fn chain(error: &BoxError) -> String {
    let mut text = format!("{error:?} {error:#?} {error}");
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, " {error} {error:?}").unwrap();
        source = error.source();
    }
    text
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[test]
fn f33_no_value_shows_a_secret_in_its_debug() {
    let forward = HeaderForwardLayer::builder(origin())
        .header("x-key", secret("static"))
        .capture("x-tenant");
    let built = HeaderForwardLayer::builder(origin())
        .header("x-key", secret("static"))
        .build()
        .unwrap();
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-tenant",
        HeaderValue::from_str(&secret("captured")).unwrap(),
    );
    let inject = HeaderInjection::new("x-key", secret("fixed")).unwrap();
    let builder = Identity::builder("user-1").token(AccessToken::new(secret("own")).unwrap());
    let upstream = UpstreamToken::new(AccessToken::new(secret("upstream")).unwrap());

    let all = [
        shown(AccessToken::new(secret("token")).unwrap()),
        shown(AccessToken::new(secret("token")).unwrap().authorization()),
        shown(Secret::new(secret("secret")).unwrap()),
        shown(upstream.with_id_token(Secret::new(secret("id-token")).unwrap())),
        shown(user()),
        shown(builder),
        shown(forward),
        shown(&built),
        shown(built.layer(())),
        shown(CapturedHeaders::from(headers)),
        shown(&inject),
        shown(AuthLayer::new(origin(), inject.clone())),
        shown(AuthLayer::new(origin(), inject).layer(())),
        shown(IdentityLayer::new(user())),
        shown(IdentityLayer::new(user()).follow_requests().layer(())),
    ];
    for shown in all {
        assert!(!shown.contains(MARK), "{shown}");
    }
}

#[test]
fn f33_no_construction_error_shows_a_secret() {
    let bad = |text: &str| format!("{}{text}", secret("bad"));
    let errors: [BoxError; 6] = [
        AccessToken::new(bad("\r\n")).unwrap_err().into(),
        HeaderInjection::new("x-key", bad("\n")).unwrap_err().into(),
        HeaderForwardLayer::builder(origin())
            .header("x-key", bad("\0"))
            .build()
            .unwrap_err()
            .into(),
        Origin::try_from(format!("https://user:{MARK}@mcp.example.com"))
            .unwrap_err()
            .into(),
        Origin::try_from(format!("https://mcp.example.com/?key={MARK}"))
            .unwrap_err()
            .into(),
        Identity::builder("")
            .token(AccessToken::new(secret("own")).unwrap())
            .build()
            .unwrap_err()
            .into(),
    ];
    for error in errors {
        let shown = chain(&error);
        assert!(!shown.contains(MARK), "{shown}");
    }
}

#[tokio::test]
async fn f33_no_request_shows_a_secret_in_an_error_or_in_a_log_at_trace() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("trace"))
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let backend = RecordingService::new();
    let strategies: [Arc<dyn Strategy<String>>; 3] = [
        Arc::new(UpstreamInject::new("github").unwrap()),
        Arc::new(UpstreamInject::new("gitlab").unwrap()),
        Arc::new(HeaderInjection::new("x-key", secret("fixed")).unwrap()),
    ];
    let layers = [
        IdentityLayer::new(user()),
        IdentityLayer::new(user())
            .follow_requests()
            .fallback(FallbackPolicy::teardown()),
        IdentityLayer::health_check(),
    ];
    let requests: [fn() -> Request<String>; 4] = [
        || request(Method::POST, user()),
        || request(Method::DELETE, None),
        || request_to("https://evil.example/mcp", Method::POST, user()),
        || {
            request_to(
                &format!("https://user:{MARK}@mcp.example.com/?key={MARK}"),
                Method::POST,
                user(),
            )
        },
    ];
    for strategy in &strategies {
        for layer in &layers {
            for request in requests {
                let forward = HeaderForwardLayer::builder(origin())
                    .header("x-static", secret("static"))
                    .build()
                    .unwrap();
                let client = ServiceBuilder::new()
                    .layer(layer)
                    .layer(forward)
                    .layer(AuthLayer::new(origin(), strategy.clone()))
                    .service(backend.clone());
                if let Err(error) = client.oneshot(request()).await {
                    let shown = chain(&error);
                    assert!(!shown.contains(MARK), "{shown}");
                }
            }
        }
    }
    for arrival in backend.arrivals() {
        let headers = shown(&arrival.headers);
        assert!(!headers.contains(MARK), "{headers}");
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("using the session's"),
        "the log was not captured: {log}"
    );
    assert!(!log.contains(MARK), "{log}");
}
