//! Secrets do not leak: not by `Debug`, not by `Display`, not in a chain of errors, not in a log at TRACE.

mod support;

use std::{
    fmt::{Debug, Write as _},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response};
use support::{
    log::Log,
    recording::{RecordingService, request, request_to},
};
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, CapturedHeaders, FallbackPolicy,
    HeaderForwardLayer, HeaderInjection, Identity, IdentityLayer, Origin, Secret, Strategy,
    UpstreamInject, UpstreamToken, strategy_fn,
};

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

/// `witness` is in the log if it was captured at all.
fn assert_without_secrets(log: &Log, witness: &str) {
    let log = log.text();
    assert!(log.contains(witness), "the log was not captured: {log}");
    assert!(!log.contains(MARK), "{log}");
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

    let refused = AuthError::new(AuthErrorKind::Rejected, "the issuer refused it")
        .with_challenge(
            AccessToken::new(secret("challenge"))
                .unwrap()
                .authorization()
                .clone(),
        )
        .with_retry_after(Duration::from_secs(7));
    let backend = service_fn(async |_: Request<String>| Ok::<_, BoxError>(Response::new(())));
    let sending = AuthLayer::new(origin(), inject.clone())
        .layer(backend)
        .call(request(Method::POST, user()));
    let forwarding = built.layer(backend).call(request(Method::POST, user()));
    let custom = inject.clone();
    let custom = strategy_fn(move |mut request: Request<String>| {
        custom.authenticate(&mut request).complete(request)
    });

    let all = [
        (
            shown(AccessToken::new(secret("token")).unwrap()),
            "AccessToken([redacted])",
        ),
        (
            shown(AccessToken::new(secret("token")).unwrap().authorization()),
            "Sensitive",
        ),
        (
            shown(Secret::new(secret("secret")).unwrap()),
            "Secret([redacted])",
        ),
        (
            shown(upstream.with_id_token(Secret::new(secret("id-token")).unwrap())),
            "UpstreamToken { access_token: AccessToken([redacted]), id_token: Some(Secret([redacted]))",
        ),
        (
            shown(user()),
            r#"Identity { subject: "user-1", issuer: None, token: Some(AccessToken([redacted])), upstream: {"github": "#,
        ),
        (
            shown(builder),
            r#"IdentityBuilder { subject: "user-1", .. }"#,
        ),
        (
            shown(forward),
            "HeaderForwardBuilder { origin: Origin(https://mcp.example.com), .. }",
        ),
        (
            shown(&built),
            r#"HeaderForwardLayer { origin: Origin(https://mcp.example.com), headers: ["x-key"], captured: [], .. }"#,
        ),
        (
            shown(built.layer(())),
            r#"HeaderForwardService { origin: Origin(https://mcp.example.com), headers: ["x-key"], "#,
        ),
        (shown(forwarding), "HeaderForwardFuture { .. }"),
        (shown(CapturedHeaders::from(headers)), r#"["x-tenant"]"#),
        (shown(&inject), r#"HeaderInjection { name: "x-key", .. }"#),
        (
            shown(UpstreamInject::new("github").unwrap()),
            r#"UpstreamInject { provider: "github", .. }"#,
        ),
        (
            shown(AuthLayer::new(origin(), inject.clone())),
            "AuthLayer { origin: Origin(https://mcp.example.com), .. }",
        ),
        (
            shown(AuthLayer::new(origin(), inject.clone()).layer(())),
            "AuthService { inner: (), origin: Origin(https://mcp.example.com), .. }",
        ),
        (shown(sending), "AuthFuture { .. }"),
        (shown(custom), "StrategyFn { .. }"),
        (shown(IdentityLayer::new(user())), "Captured(Identity {"),
        (
            shown(IdentityLayer::new(user()).follow_requests().layer(())),
            "Followed(Mutex {",
        ),
        (shown(FallbackPolicy::always()), "FallbackPolicy::always"),
        (
            shown(FallbackPolicy::teardown()),
            "FallbackPolicy::methods([DELETE])",
        ),
        (
            shown(FallbackPolicy::when(|_| true)),
            "FallbackPolicy::when",
        ),
        (
            shown(refused),
            r#"AuthError { kind: Rejected, message: "the issuer refused it", challenge: Sensitive, retry_after: 7s }"#,
        ),
    ];
    for (shown, witness) in all {
        assert!(!shown.contains(MARK), "{shown}");
        assert!(shown.contains(witness), "{witness}: {shown}");
    }
}

#[test]
fn f33_an_identity_shows_nothing_personal_in_its_debug() {
    let claims = serde_json::json!({ "phone_number": MARK });
    let identity = Identity::builder("user-1")
        .email(format!("{MARK}@example.com"))
        .name(MARK)
        .claims(claims.as_object().unwrap().clone())
        .metadata("note", MARK)
        .build()
        .unwrap();
    assert!(!shown(identity).contains(MARK));
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
    let _guard = log.capture("trace");

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
    assert_without_secrets(&log, "using the session's");
}

#[cfg(all(feature = "hyper", feature = "reqwest"))]
#[tokio::test]
async fn f33_no_client_beneath_logs_a_secret_at_trace() {
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper_util::{client::legacy::Client, rt::TokioExecutor};
    use support::http_server::{HttpServer, ok};
    use tower::util::BoxCloneService;
    use tower_identity::client::{hyper::https_client, reqwest::ReqwestService};

    let log = Log::default();
    let _guard = log.capture("trace");
    let server = HttpServer::start(async |_| ok()).await;
    let http2 = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let reqwest = ReqwestService::<Full<Bytes>>::new(reqwest::Client::builder()).unwrap();
    let clients = [
        BoxCloneService::new(
            https_client()
                .unwrap()
                .map_response(|response: Response<_>| response.map(drop))
                .map_err(BoxError::from),
        ),
        BoxCloneService::new(
            http2
                .map_response(|response: Response<_>| response.map(drop))
                .map_err(BoxError::from),
        ),
        BoxCloneService::new(
            reqwest
                .map_response(|response: Response<_>| response.map(drop))
                .map_err(BoxError::from),
        ),
    ];
    let forward = HeaderForwardLayer::builder(server.origin())
        .header("x-static", secret("static"))
        .build()
        .unwrap();
    for client in clients {
        let client = ServiceBuilder::new()
            .layer(IdentityLayer::new(user()))
            .layer(&forward)
            .layer(AuthLayer::new(
                server.origin(),
                UpstreamInject::new("github").unwrap(),
            ))
            .service(client);
        let request = Request::post(server.uri("/mcp"))
            .body(Full::from("{}"))
            .unwrap();
        client.oneshot(request).await.unwrap();
    }
    for request in server.requests() {
        assert_eq!(
            request.all("authorization"),
            [format!("Bearer {}", secret("upstream"))]
        );
        assert_eq!(request.all("x-static"), [secret("static")]);
    }
    assert_eq!(server.requests().len(), 3);
    assert_without_secrets(&log, "h2");
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn f33_reqwest_does_not_log_what_it_sends_even_if_it_is_asked_to() {
    use support::http_server::{HttpServer, ok};
    use tower_identity::client::reqwest::ReqwestService;
    use tracing_subscriber::util::SubscriberInitExt;

    let log = Log::default();
    // reqwest logs by `log`, which only a global subscriber takes over.
    log.subscriber("trace").init();
    let server = HttpServer::start(async |_| ok()).await;
    let verbose = reqwest::Client::builder().connection_verbose(true);
    let key = HeaderInjection::new("x-key", secret("fixed")).unwrap();
    let client = AuthLayer::new(server.origin(), key).layer(ReqwestService::new(verbose).unwrap());
    let request = Request::get(server.uri("/mcp"))
        .body(String::new())
        .unwrap();
    client.oneshot(request).await.unwrap();
    assert_without_secrets(&log, "reqwest");
}
