//! A credential has an address, and leaves whole or not at all.

mod support;

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::poll_immediate, stream};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, request, response, uri::PathAndQuery,
};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use support::recording::{RecordingService, identity, request, request_to};
use tokio::sync::oneshot;
use tower::{BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, Authenticating, HeaderForwardLayer, HeaderInjection,
    HealthCheck, IdentityLayer, Origin, Strategy, Unauthenticated, UpstreamInject,
    strategy::Rejection, strategy_fn,
};

const BACKEND: &str = "https://mcp.example.com";

fn layer() -> AuthLayer<UpstreamInject> {
    AuthLayer::new(
        Origin::try_from(BACKEND).unwrap(),
        UpstreamInject::new("github").unwrap(),
    )
}

/// Sends `request` through a layer for [`BACKEND`], and says how it was refused.
async fn refusal(
    request: Request<String>,
    adjust: fn(AuthLayer<Counting>) -> AuthLayer<Counting>,
) -> Option<AuthError> {
    let strategy = Counting::default();
    let backend = RecordingService::new();
    let layer = adjust(AuthLayer::new(
        Origin::try_from(BACKEND).unwrap(),
        strategy.clone(),
    ));
    let error = layer.layer(backend.clone()).oneshot(request).await.err()?;
    assert!(backend.arrivals().is_empty(), "a refused request was sent");
    assert_eq!(
        strategy.asked.load(Ordering::Relaxed),
        0,
        "a credential was obtained for a refused request"
    );
    Some(AuthError::find_in(error.as_ref()).unwrap().clone())
}

/// Counts how often a credential was asked for.
#[derive(Clone, Default)]
struct Counting {
    asked: Arc<AtomicUsize>,
}

impl<B> Strategy<B> for Counting {
    fn authenticate(&self, _request: &mut Request<B>) -> Authenticating<B> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Authenticating::done()
    }
}

#[tokio::test]
async fn the_users_token_leaves_with_the_request() {
    let backend = RecordingService::new();
    let request = request(Method::POST, identity("user-1", "gho_1"));
    layer()
        .layer(backend.clone())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(backend.arrival().header("authorization"), ["Bearer gho_1"]);
    assert!(backend.arrival().headers["authorization"].is_sensitive());
}

#[tokio::test]
async fn a_request_for_the_origin_passes_however_it_is_written() {
    for uri in [
        "https://mcp.example.com/mcp?a=b",
        "https://mcp.example.com:443/",
        "HTTPS://MCP.EXAMPLE.COM/mcp",
        "https://mcp.example.com:/",
    ] {
        let refused = refusal(request_to(uri, Method::POST, None), |layer| layer).await;
        assert!(refused.is_none(), "{uri}: {refused:?}");
    }
}

#[tokio::test]
async fn f04_a_request_for_another_origin_fails_before_a_credential_is_obtained() {
    for uri in [
        "https://evil.example/mcp",
        "http://mcp.example.com/mcp",
        "https://mcp.example.com:8443/mcp",
        "https://mcp.example.com.evil.example/mcp",
        "https://evil.example:443/mcp.example.com",
        "https://mcp.example.com@evil.example/mcp",
        "https://user:password@mcp.example.com/mcp",
        "ftp://mcp.example.com/mcp",
    ] {
        let error = refusal(
            request_to(uri, Method::POST, identity("user-1", "gho_1")),
            |layer| layer,
        )
        .await;
        let error = error.unwrap_or_else(|| panic!("{uri} was sent"));
        assert_eq!(error.kind(), AuthErrorKind::WrongOrigin, "{uri}");
        assert_eq!(error.backend().unwrap().to_string(), BACKEND);
    }
}

#[tokio::test]
async fn a_refusal_says_where_the_request_would_have_gone_but_not_with_which_password() {
    let elsewhere = request_to("https://evil.example:8443/mcp?key=hush", Method::POST, None);
    let error = refusal(elsewhere, |layer| layer).await.unwrap().to_string();
    assert!(
        error.contains("https://evil.example:8443,") && !error.contains("hush"),
        "{error}"
    );

    let with_password = request_to("https://user:hush@mcp.example.com/mcp", Method::POST, None);
    let error = refusal(with_password, |layer| layer)
        .await
        .unwrap()
        .to_string();
    assert!(
        error.contains("user info") && !error.contains("hush"),
        "{error}"
    );
}

#[tokio::test]
async fn f04_a_name_that_is_almost_the_origins_is_another_origin() {
    for host in [
        "evil.mcp.example.com",
        "mcp.example.com.",
        "xmcp.example.com",
        "example.com",
    ] {
        let elsewhere = request_to(&format!("https://{host}/mcp"), Method::POST, None);
        let mut in_host_header = request(Method::POST, None);
        in_host_header
            .headers_mut()
            .insert("host", HeaderValue::from_static(host));
        for request in [elsewhere, in_host_header] {
            let error = refusal(request, |layer| layer)
                .await
                .unwrap_or_else(|| panic!("{host} was sent"));
            assert_eq!(error.kind(), AuthErrorKind::WrongOrigin, "{host}");
        }
    }
}

#[tokio::test]
async fn f04_a_path_that_could_be_taken_for_a_host_is_refused() {
    // RFC 3986 §4.2: a client that resolves the first against its base goes to evil.example.
    for uri in ["//evil.example/mcp", "/\\evil.example/mcp", "*"] {
        let relative = request_to(uri, Method::POST, None);
        let error = refusal(relative, |layer| layer.client_fixes_origin())
            .await
            .unwrap_or_else(|| panic!("{uri} was sent"));
        assert_eq!(error.kind(), AuthErrorKind::WrongOrigin, "{uri}");
    }
    // What a reverse proxy makes of `OPTIONS *`. It is shown, and by some read again, as `https://mcp.example.com*`.
    let mut parts = request(Method::OPTIONS, None).uri().clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    let mut asterisk = request(Method::OPTIONS, None);
    *asterisk.uri_mut() = Uri::from_parts(parts).unwrap();
    assert_eq!(
        refusal(asterisk, |layer| layer).await.unwrap().kind(),
        AuthErrorKind::WrongOrigin
    );

    let double = request_to("https://mcp.example.com//mcp", Method::POST, None);
    assert!(refusal(double, |layer| layer).await.is_none());
}

#[tokio::test]
async fn f37_nothing_but_a_port_follows_the_brackets_of_an_address() {
    let origin = Origin::try_from("https://[2001:db8::1]:8443").unwrap();
    let layer = AuthLayer::new(origin, Unauthenticated);
    for (uri, host, sent) in [
        ("https://[2001:DB8::1]:8443/", "[2001:db8::1]:8443", true),
        (
            "https://[2001:db8::1]:8443/",
            "[2001:db8::1].evil.example:8443",
            false,
        ),
        (
            "https://[2001:db8::1].evil.example:8443/",
            "[2001:db8::1]:8443",
            false,
        ),
        ("https://[2001:db8::1]:8443/", "[2001:db8::1]", false),
    ] {
        let mut request = request_to(uri, Method::POST, None);
        request
            .headers_mut()
            .insert("host", HeaderValue::from_static(host));
        let answer = layer.layer(RecordingService::new()).oneshot(request).await;
        assert_eq!(answer.is_ok(), sent, "{uri} {host}");
    }
}

#[tokio::test]
async fn f37_a_host_header_that_disagrees_is_refused() {
    for hosts in [
        &["evil.example"][..],
        &["mcp.example.com:8443"],
        &[""],
        &["mcp.example.com", "evil.example"],
        &["mcp.example.com", "mcp.example.com"],
        &["evil@mcp.example.com"],
        &["mcp.example.com, evil.example"],
        &["mcp.example.com/"],
    ] {
        let mut request = request(Method::POST, None);
        for host in hosts {
            request
                .headers_mut()
                .append("host", HeaderValue::from_static(host));
        }
        let error = refusal(request, |layer| layer)
            .await
            .unwrap_or_else(|| panic!("{hosts:?} was sent"));
        assert_eq!(error.kind(), AuthErrorKind::WrongOrigin, "{hosts:?}");
    }
    for host in ["mcp.example.com", "MCP.example.com", "mcp.example.com:443"] {
        let mut request = request(Method::POST, None);
        request
            .headers_mut()
            .insert("host", HeaderValue::from_static(host));
        assert!(refusal(request, |layer| layer).await.is_none(), "{host}");
    }
}

#[tokio::test]
async fn a_relative_uri_is_refused_unless_the_client_is_said_to_fix_the_origin() {
    let error = refusal(request_to("/mcp", Method::POST, None), |layer| layer)
        .await
        .unwrap();
    assert_eq!(error.kind(), AuthErrorKind::WrongOrigin);
    assert!(error.to_string().contains("relative"), "{error}");

    let fixed = |layer: AuthLayer<Counting>| layer.client_fixes_origin();
    assert!(
        refusal(request_to("/mcp", Method::POST, None), fixed)
            .await
            .is_none()
    );

    let mut for_a_stranger = request_to("/mcp", Method::POST, None);
    for_a_stranger
        .headers_mut()
        .insert("host", HeaderValue::from_static("evil.example"));
    assert_eq!(
        refusal(for_a_stranger, fixed).await.unwrap().kind(),
        AuthErrorKind::WrongOrigin
    );
    let absolute = request_to("https://evil.example/mcp", Method::POST, None);
    assert_eq!(
        refusal(absolute, fixed).await.unwrap().kind(),
        AuthErrorKind::WrongOrigin
    );
    let tunnel = request_to("evil.example:443", Method::CONNECT, None);
    assert_eq!(
        refusal(tunnel, fixed).await.unwrap().kind(),
        AuthErrorKind::WrongOrigin
    );
}

#[tokio::test]
async fn f38_exactly_one_credential_header_goes_out() {
    let mut crowded = request(Method::POST, identity("user-1", "gho_1"));
    crowded.headers_mut().append(
        "authorization",
        HeaderValue::from_static("Bearer someone-elses"),
    );
    crowded.headers_mut().append(
        "authorization",
        HeaderValue::from_static("Basic dXNlcjpwYXNz"),
    );
    crowded
        .headers_mut()
        .append("x-api-key", HeaderValue::from_static("spoofed"));
    let (headers, body) = crowded.into_parts();

    let backend = RecordingService::new();
    let request = Request::from_parts(headers.clone(), body.clone());
    layer()
        .layer(backend.clone())
        .oneshot(request)
        .await
        .unwrap();
    assert_eq!(backend.arrival().header("authorization"), ["Bearer gho_1"]);

    let backend = RecordingService::new();
    let inject = HeaderInjection::new("x-api-key", "k-1").unwrap();
    let layer = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), inject);
    layer
        .layer(backend.clone())
        .oneshot(Request::from_parts(headers, body))
        .await
        .unwrap();
    assert_eq!(backend.arrival().header("x-api-key"), ["k-1"]);
}

#[tokio::test]
async fn a_strategy_that_fails_sends_nothing_and_its_error_names_the_backend() {
    let backend = RecordingService::new();
    let error = layer()
        .layer(backend.clone())
        .oneshot(request(Method::POST, None))
        .await
        .unwrap_err();
    let error = AuthError::find_in(error.as_ref()).unwrap();
    assert_eq!(error.kind(), AuthErrorKind::MissingIdentity);
    assert_eq!(error.backend().unwrap().to_string(), BACKEND);
    assert_eq!(error.provider(), Some("github"));
    assert!(
        error.to_string().contains("https://mcp.example.com"),
        "{error}"
    );

    let late = strategy_fn(async |_: Request<String>| {
        tokio::task::yield_now().await;
        Err(AuthError::new(
            AuthErrorKind::Unavailable,
            "the issuer is down",
        ))
    });
    let layer = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), late);
    let error = layer
        .layer(backend.clone())
        .oneshot(request(Method::POST, None))
        .await
        .unwrap_err();
    let error = AuthError::find_in(error.as_ref()).unwrap();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(error.backend().unwrap().to_string(), BACKEND);
    assert!(backend.arrivals().is_empty());
}

#[tokio::test]
async fn an_error_from_beneath_is_handed_up_as_it_is() {
    let broken = service_fn(async |_: Request<String>| {
        Err::<Response<()>, _>(std::io::Error::other("connection reset"))
    });
    let request = request(Method::POST, identity("user-1", "gho_1"));
    let error = layer().layer(broken).oneshot(request).await.unwrap_err();
    assert!(AuthError::find_in(error.as_ref()).is_none());
    assert_eq!(
        error.downcast_ref::<std::io::Error>().unwrap().to_string(),
        "connection reset"
    );
}

#[tokio::test]
async fn an_auth_error_is_found_beneath_what_other_layers_wrap_around_it() {
    let client = layer().layer(RecordingService::new());
    let buffered = ServiceBuilder::new()
        .buffer(1)
        .map_err(|error| BoxError::from(Wrapped(error)))
        .service(client);
    let error = buffered
        .oneshot(request(Method::POST, None))
        .await
        .unwrap_err();
    assert_eq!(
        AuthError::find_in(error.as_ref()).unwrap().kind(),
        AuthErrorKind::MissingIdentity
    );
}

#[derive(Debug, thiserror::Error)]
#[error("the call failed")]
struct Wrapped(#[source] BoxError);

#[tokio::test]
async fn f31_the_service_that_was_polled_ready_is_the_one_that_is_called() {
    // `RecordingService` panics when it is called unready, and its clones begin unready.
    let backend = RecordingService::new();
    let later = strategy_fn(async |request: Request<String>| {
        tokio::task::yield_now().await;
        Ok(request)
    });
    let strategies: [Arc<dyn Strategy<String>>; 2] = [Arc::new(later), Arc::new(Unauthenticated)];
    for strategy in strategies {
        let origin = Origin::try_from(BACKEND).unwrap();
        let headers = HeaderForwardLayer::builder(origin.clone());
        let mut client = ServiceBuilder::new()
            .layer(IdentityLayer::new(None))
            .layer(headers.header("x-api-version", "2").build().unwrap())
            .layer(AuthLayer::new(origin, strategy))
            .service(backend.clone());
        for _ in 0..3 {
            // What is refused does not use up readiness, nor lend it.
            for (uri, is_sent) in [(BACKEND, true), ("https://evil.example", false)] {
                let call = client
                    .ready()
                    .await
                    .unwrap()
                    .call(request_to(uri, Method::POST, None));
                assert_eq!(call.await.is_ok(), is_sent);
            }
        }
    }
    assert_eq!(backend.arrivals().len(), 6);
}

#[tokio::test]
async fn the_inner_service_is_not_cloned_when_the_credential_is_at_hand() {
    struct NoClone(RecordingService);

    impl Clone for NoClone {
        fn clone(&self) -> Self {
            panic!("cloned on the hot path")
        }
    }

    impl Service<Request<String>> for NoClone {
        type Response = Response<()>;
        type Error = Infallible;
        type Future = <RecordingService as Service<Request<String>>>::Future;

        fn poll_ready(
            &mut self,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Infallible>> {
            Service::<Request<String>>::poll_ready(&mut self.0, cx)
        }

        fn call(&mut self, request: Request<String>) -> Self::Future {
            self.0.call(request)
        }
    }

    let mut service = layer().layer(NoClone(RecordingService::new()));
    service
        .ready()
        .await
        .unwrap()
        .call(request(Method::POST, identity("user-1", "gho_1")))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_inner_services_readiness_is_held_while_a_credential_is_obtained() {
    let (obtained, wait) = oneshot::channel::<()>();
    let wait = wait.shared();
    let slow = strategy_fn(move |request: Request<String>| {
        let wait = wait.clone();
        async move {
            let _ = wait.await;
            Ok(request)
        }
    });
    let backend = RecordingService::new();
    let mut client = ServiceBuilder::new()
        .layer(AuthLayer::new(Origin::try_from(BACKEND).unwrap(), slow))
        .concurrency_limit(1)
        .service(backend.clone());

    let first = client
        .ready()
        .await
        .unwrap()
        .call(request(Method::POST, None));
    let mut first = Box::pin(first);
    assert!(poll_immediate(&mut first).await.is_none());
    assert!(
        poll_immediate(pin!(client.ready())).await.is_none(),
        "the permit was given back too early"
    );

    obtained.send(()).unwrap();
    first.await.unwrap();
    client.ready().await.unwrap();
    assert_eq!(backend.arrivals().len(), 1);
}

#[tokio::test]
async fn a_call_that_is_refused_gives_the_inner_services_readiness_back() {
    let limited = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(RecordingService::new());
    let mut refused = layer().layer(limited.clone());
    let mut other = layer().layer(limited);
    for hopeless in [
        request(Method::POST, None),
        request_to("https://evil.example/", Method::POST, None),
    ] {
        ServiceExt::<Request<String>>::ready(&mut refused)
            .await
            .unwrap()
            .call(hopeless)
            .await
            .unwrap_err();
        let ready = poll_immediate(pin!(ServiceExt::<Request<String>>::ready(&mut other))).await;
        assert!(
            ready.is_some(),
            "a call that was not sent holds the only permit"
        );
        // The permit that `other` has now goes back, too.
        other = other.clone();
    }
}

/// Sends a number, and the next one when the first was rejected.
#[derive(Clone)]
struct Numbers {
    number: Arc<AtomicUsize>,
    on_rejection: Rejection,
}

impl Numbers {
    fn new(on_rejection: Rejection) -> Self {
        Self {
            number: Arc::default(),
            on_rejection,
        }
    }
}

impl<B> Strategy<B> for Numbers {
    fn authenticate(&self, request: &mut Request<B>) -> Authenticating<B> {
        let number = self.number.load(Ordering::Relaxed);
        request.headers_mut().insert("x-number", number.into());
        Authenticating::done()
    }

    fn rejected(&self, sent: &request::Parts, _: &response::Parts) -> Rejection {
        assert_eq!(
            sent.headers["x-number"], "0",
            "asked about one that was not sent"
        );
        self.number.fetch_add(1, Ordering::Relaxed);
        self.on_rejection
    }
}

/// A backend that answers `status` to the number 0, and writes down the numbers.
fn numbered_backend(
    status: u16,
    numbers: &Arc<Mutex<Vec<String>>>,
) -> impl Service<Request<String>, Response = Response<String>, Error = BoxError, Future: Send> + Clone
{
    let numbers = numbers.clone();
    service_fn(move |request: Request<String>| {
        let number = request.headers()["x-number"].to_str().unwrap().to_owned();
        let status = if number == "0" { status } else { 200 };
        numbers.lock().unwrap().push(number);
        async move {
            Ok(Response::builder()
                .status(status)
                .body(String::new())
                .unwrap())
        }
    })
}

#[tokio::test]
async fn a_request_is_sent_once_more_only_if_the_strategy_has_another_credential() {
    for (on_rejection, status, sent) in [
        (Rejection::AnotherCredential, 401, vec!["0", "1"]),
        (Rejection::AnotherCredential, 400, vec!["0", "1"]),
        (Rejection::AnotherCredential, 302, vec!["0"]),
        (Rejection::AnotherCredential, 500, vec!["0"]),
        (Rejection::NothingHelps, 401, vec!["0"]),
        (Rejection::MoreScope, 403, vec!["0"]),
        (Rejection::NotRejected, 401, vec!["0"]),
    ] {
        let numbers = Arc::default();
        let backend = numbered_backend(status, &numbers);
        let origin = Origin::try_from(BACKEND).unwrap();
        let layer = AuthLayer::new(origin, Numbers::new(on_rejection)).retry_rejected();
        let call = layer.layer(backend).oneshot(request(Method::POST, None));
        let expected = if sent.len() == 2 { 200 } else { status };
        assert_eq!(call.await.unwrap().status(), expected);
        assert_eq!(*numbers.lock().unwrap(), sent, "{on_rejection:?} {status}");
    }
}

#[tokio::test]
async fn a_retry_waits_for_the_inner_services_readiness_and_gives_it_back() {
    let numbers = Arc::default();
    let backend = numbered_backend(401, &numbers);
    let limited = ServiceBuilder::new().concurrency_limit(1).service(backend);
    let origin = Origin::try_from(BACKEND).unwrap();
    let layer = AuthLayer::new(origin, Numbers::new(Rejection::AnotherCredential));
    let client = layer.retry_rejected().layer(limited);
    for _ in 0..2 {
        let call = client.clone().oneshot(request(Method::POST, None));
        let answer = tokio::time::timeout(Duration::from_secs(5), call).await;
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    }
    assert_eq!(*numbers.lock().unwrap(), ["0", "1", "1"]);
}

#[tokio::test]
async fn a_call_that_is_refused_gives_the_readiness_back_where_it_could_be_retried_too() {
    let backend =
        service_fn(async |_: Request<String>| Ok::<_, BoxError>(Response::new(String::new())));
    let limited = ServiceBuilder::new().concurrency_limit(1).service(backend);
    let mut refused = layer().retry_rejected().layer(limited.clone());
    let mut other = layer().layer(limited);
    let call = ServiceExt::<Request<String>>::ready(&mut refused)
        .await
        .unwrap()
        .call(request(Method::POST, None));
    let ready = poll_immediate(pin!(ServiceExt::<Request<String>>::ready(&mut other))).await;
    assert!(
        ready.is_some(),
        "a call that is not sent holds the only permit"
    );
    call.await.unwrap_err();
}

#[tokio::test]
async fn without_a_retry_the_bodies_need_not_be_bodies() {
    struct OnlyOnce;

    let backend = service_fn(async |_: Request<OnlyOnce>| {
        Ok::<_, BoxError>(Response::new("no http_body::Body"))
    });
    let layer = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), Unauthenticated);
    let request = Request::post(BACKEND).body(OnlyOnce).unwrap();
    let answer = layer.layer(backend).oneshot(request).await;
    assert_eq!(answer.unwrap().into_body(), "no http_body::Body");
}

#[test]
fn the_inner_service_can_be_reached() {
    let mut service = layer().layer(RecordingService::new());
    let _: &RecordingService = service.get_ref();
    let _: &mut RecordingService = service.get_mut();
    let _: RecordingService = service.into_inner();
}

#[tokio::test]
async fn a_request_that_is_cancelled_while_it_waits_is_not_sent() {
    let never = strategy_fn(async |_: Request<String>| std::future::pending().await);
    let backend = RecordingService::new();
    let client = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), never).layer(backend.clone());
    let call = client.oneshot(request(Method::POST, None));
    assert!(
        tokio::time::timeout(Duration::from_millis(1), call)
            .await
            .is_err()
    );
    assert!(backend.arrivals().is_empty());
}

#[tokio::test]
async fn configuration_chooses_a_strategy_behind_a_pointer() {
    let choices: [(&str, Arc<dyn Strategy<String>>); 3] = [
        (
            "Bearer gho_1",
            Arc::new(UpstreamInject::new("github").unwrap()),
        ),
        (
            "Basic c2VydmljZQ==",
            Arc::new(HeaderInjection::new("authorization", "Basic c2VydmljZQ==").unwrap()),
        ),
        ("", Arc::new(Unauthenticated)),
    ];
    for (expected, strategy) in choices {
        let backend = RecordingService::new();
        let layer = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), strategy);
        layer
            .layer(backend.clone())
            .oneshot(request(Method::POST, identity("user-1", "gho_1")))
            .await
            .unwrap();
        assert_eq!(backend.arrival().header("authorization").concat(), expected);
    }
}

#[tokio::test]
async fn f32_a_health_check_passes_an_identity_strategy_without_a_credential() {
    let backend = RecordingService::new();
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::health_check())
        .layer(layer())
        .service(backend.clone());
    for method in [Method::POST, Method::GET, Method::DELETE] {
        client.clone().oneshot(request(method, None)).await.unwrap();
    }
    // Even where a user's identity is at hand: it is not theirs to be used by a probe.
    let mut with_user = request(Method::POST, identity("user-1", "gho_1"));
    with_user.extensions_mut().insert(HealthCheck);
    client.oneshot(with_user).await.unwrap();
    for arrival in backend.arrivals() {
        assert!(arrival.header("authorization").is_empty());
    }
}

#[tokio::test]
async fn f32_a_health_check_gets_a_fixed_header() {
    let backend = RecordingService::new();
    let key = AuthLayer::new(
        Origin::try_from(BACKEND).unwrap(),
        HeaderInjection::new("x-api-key", "k-1").unwrap(),
    );
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::health_check())
        .layer(key)
        .service(backend.clone());
    client.oneshot(request(Method::GET, None)).await.unwrap();
    assert_eq!(backend.arrival().header("x-api-key"), ["k-1"]);
}

/// Looks for its rejection in the body.
#[derive(Clone)]
struct Reader;

impl<B> Strategy<B> for Reader {
    fn authenticate(&self, _: &mut Request<B>) -> Authenticating<B> {
        Authenticating::done()
    }

    fn rejected(&self, _: &request::Parts, _: &response::Parts) -> Rejection {
        Rejection::SaidInBody
    }
}

#[test]
fn f47_a_body_of_empty_frames_without_end_is_passed_on() {
    let answer = async |_: Request<String>| {
        let frames = stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::new())));
        let answer = Response::builder().status(403);
        Ok::<_, BoxError>(answer.body(StreamBody::new(frames)).unwrap())
    };
    let layer = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), Reader).retry_rejected();
    let client = layer.layer(service_fn(answer));
    let request = request_to(&format!("{BACKEND}/mcp"), Method::POST, None);

    let answer = client.oneshot(request).now_or_never().unwrap().unwrap();

    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let mut body = pin!(answer.into_body());
    for _ in 0..5_000 {
        let frame = body.frame().now_or_never().unwrap().unwrap().unwrap();
        assert!(frame.into_data().unwrap().is_empty());
    }
}

#[cfg(feature = "token-exchange")]
#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_passed_on_after_5_s_with_what_there_is_of_it() {
    let first_bytes: [&'static [u8]; 2] = [b"", b"half"];
    for first in first_bytes {
        let answer = move |_: Request<String>| {
            let first = stream::iter([Ok::<_, BoxError>(Frame::data(Bytes::from_static(first)))]);
            let later = stream::once(async {
                tokio::time::sleep(std::time::Duration::from_secs(60)).await;
                Ok(Frame::data(Bytes::from_static(b" and half")))
            });
            let answer = Response::builder().status(403);
            let body = StreamBody::new(first.chain(later));
            std::future::ready(Ok::<_, BoxError>(answer.body(body).unwrap()))
        };
        let layer = AuthLayer::new(Origin::try_from(BACKEND).unwrap(), Reader).retry_rejected();
        let client = layer.layer(service_fn(answer));
        let request = request_to(&format!("{BACKEND}/mcp"), Method::POST, None);

        let start = tokio::time::Instant::now();
        let answer = client.oneshot(request).await.unwrap();

        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        let body = Box::pin(answer.into_body()).collect().await.unwrap();
        assert_eq!(body.to_bytes(), [first, b" and half"].concat());
    }
}
