//! Headers that a backend wants besides the credential.

mod support;

use std::pin::pin;

use futures_util::future::poll_immediate;
use http::{HeaderMap, HeaderValue, Method, Request};
use support::recording::{RecordingService, request, request_to};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_identity::{
    AuthError, AuthErrorKind, CapturedHeaders, HeaderForwardLayer, HeaderInjection, Origin,
    outgoing::HeaderForwardBuilder,
};

const RESTRICTED: [&str; 26] = [
    "dpop",
    "expect",
    "via",
    "x-forwarded",
    "x_forwarded_for",
    "x_real_ip",
    "host",
    "content-length",
    "authorization",
    "cookie",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "X-Forwarded-Anything",
    "X-Real-IP",
    "Mcp-Session-Id",
];

fn forward() -> HeaderForwardBuilder {
    HeaderForwardLayer::builder(Origin::try_from("https://mcp.example.com").unwrap())
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
        .collect()
}

async fn sent(layer: &HeaderForwardLayer, request: Request<String>) -> HeaderMap {
    let backend = RecordingService::new();
    layer.layer(backend.clone()).oneshot(request).await.unwrap();
    backend.arrival().headers
}

#[tokio::test]
async fn static_headers_go_out_with_every_request_and_are_sensitive() {
    let layer = forward()
        .header("X-Api-Version", "2")
        .header("x-team", "blue and green")
        .build()
        .unwrap();
    let sent = sent(&layer, request(Method::GET, None)).await;
    assert_eq!(sent["x-api-version"], "2");
    assert_eq!(sent["x-team"], "blue and green");
    assert!(sent.values().all(HeaderValue::is_sensitive));
}

#[tokio::test]
async fn captured_headers_go_out_with_the_request_that_carries_them_and_no_other() {
    let layer = forward()
        .capture("x-tenant")
        .capture("x-trace")
        .build()
        .unwrap();
    let incoming = headers(&[
        ("x-tenant", "blue"),
        ("cookie", "session=1"),
        ("x-other", "no"),
    ]);
    let mut first = request(Method::POST, None);
    first.extensions_mut().insert(layer.captured(&incoming));

    let first = sent(&layer, first).await;
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(first["x-tenant"], "blue");
    assert!(first["x-tenant"].is_sensitive());
    assert!(sent(&layer, request(Method::POST, None)).await.is_empty());
}

#[tokio::test]
async fn every_value_of_a_captured_header_goes_out() {
    let layer = forward().capture("x-tag").build().unwrap();
    let mut incoming = HeaderMap::new();
    incoming.append("x-tag", HeaderValue::from_static("a"));
    incoming.append("x-tag", HeaderValue::from_static("b"));
    let mut request = request(Method::POST, None);
    request.extensions_mut().insert(layer.captured(&incoming));
    assert_eq!(
        sent(&layer, request)
            .await
            .get_all("x-tag")
            .iter()
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[tokio::test]
async fn a_header_that_the_request_has_is_never_replaced() {
    let layer = forward()
        .header("x-api-version", "2")
        .capture("x-tenant")
        .build()
        .unwrap();
    let mut request = request(Method::POST, None);
    request
        .headers_mut()
        .extend(headers(&[("x-api-version", "1"), ("x-tenant", "own")]));
    request
        .extensions_mut()
        .insert(layer.captured(&headers(&[("x-tenant", "captured")])));
    let sent = sent(&layer, request).await;
    assert_eq!(
        sent.get_all("x-api-version").iter().collect::<Vec<_>>(),
        ["1"]
    );
    assert_eq!(sent.get_all("x-tenant").iter().collect::<Vec<_>>(), ["own"]);
}

#[tokio::test]
async fn a_captured_header_that_is_restricted_or_collides_is_dropped_and_the_call_goes_on() {
    let layer = forward()
        .header("x-api-version", "2")
        .capture("x-tenant")
        .build()
        .unwrap();
    let mut everything = headers(&[
        ("x-api-version", "evil"),
        ("x-tenant", "blue"),
        ("x-other", "no"),
    ]);
    for name in RESTRICTED {
        everything.insert(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_static("evil"),
        );
    }
    let mut request = request(Method::POST, None);
    request
        .extensions_mut()
        .insert(CapturedHeaders::from(everything));
    let sent = sent(&layer, request).await;
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(
        (&sent["x-api-version"], &sent["x-tenant"]),
        (
            &HeaderValue::from_static("2"),
            &HeaderValue::from_static("blue")
        )
    );
}

#[test]
fn a_configured_restricted_name_is_an_error_at_construction() {
    for name in RESTRICTED {
        for layer in [forward().header(name, "x"), forward().capture(name)] {
            let error = layer.build().unwrap_err();
            let setting = error.invalid_settings()[0].setting();
            assert!(
                ["header[0].name", "capture[0]"].contains(&setting),
                "{error}"
            );
        }
        let injected = HeaderInjection::new(name, "x");
        assert_eq!(injected.is_ok(), name == "authorization", "{name}");
    }
}

#[test]
fn names_that_collide_are_an_error_at_construction() {
    for (layer, second) in [
        (
            forward().header("x-tenant", "blue").capture("X-Tenant"),
            "capture[0]",
        ),
        (
            forward()
                .header("x-tenant", "blue")
                .header("x-other", "1")
                .header("x-tenant", "green"),
            "header[2].name",
        ),
        (
            forward().capture("x-tenant").capture("x-tenant"),
            "capture[1]",
        ),
    ] {
        let error = layer.build().unwrap_err();
        assert_eq!(error.invalid_settings().len(), 1, "{error}");
        assert_eq!(error.invalid_settings()[0].setting(), second);
    }
}

#[test]
fn a_bad_name_or_value_is_an_error_that_does_not_show_the_value() {
    for (name, value) in [
        ("", "x"),
        ("x tenant", "x"),
        ("x-tenant\r\nx-evil", "x"),
        ("x-key", ""),
        ("x-key", "hu\r\nsh"),
        ("x-key", " hush"),
        ("x-key", "hush "),
        ("x-key", "h\u{e9}sh"),
        ("x-key", "hu\tsh"),
    ] {
        for error in [
            forward().header(name, value).build().unwrap_err(),
            HeaderInjection::new(name, value).unwrap_err(),
        ] {
            let shown = format!(
                "{error} {error:?} {:?}",
                std::error::Error::source(&error).map(ToString::to_string)
            );
            assert!(name.len() < 6 || !shown.contains(name), "{shown}");
            assert!(value.len() < 2 || !shown.contains(value), "{shown}");
        }
    }
}

#[tokio::test]
async fn f05_headers_are_not_forwarded_to_another_origin() {
    let layer = forward().header("x-api-key", "k-1").build().unwrap();
    let backend = RecordingService::new();
    for uri in [
        "https://evil.example/mcp",
        "http://mcp.example.com/mcp",
        "/mcp",
    ] {
        let refused = layer
            .layer(backend.clone())
            .oneshot(request_to(uri, Method::POST, None))
            .await;
        let error = refused.unwrap_err();
        assert_eq!(
            AuthError::find_in(error.as_ref()).unwrap().kind(),
            AuthErrorKind::WrongOrigin,
            "{uri}"
        );
    }
    assert!(backend.arrivals().is_empty());

    let relative = forward()
        .header("x-api-key", "k-1")
        .client_fixes_origin()
        .build()
        .unwrap();
    assert_eq!(
        sent(&relative, request_to("/mcp", Method::POST, None)).await["x-api-key"],
        "k-1"
    );
}

#[tokio::test]
async fn headers_that_are_refused_give_the_inner_services_readiness_back() {
    let limited = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(RecordingService::new());
    let layer = forward().build().unwrap();
    let mut refused = layer.layer(limited.clone());
    let mut other = layer.layer(limited);
    let elsewhere = request_to("https://evil.example/", Method::POST, None);
    ServiceExt::<Request<String>>::ready(&mut refused)
        .await
        .unwrap()
        .call(elsewhere)
        .await
        .unwrap_err();
    let ready = poll_immediate(pin!(ServiceExt::<Request<String>>::ready(&mut other))).await;
    assert!(
        ready.is_some(),
        "a call that was not sent holds the only permit"
    );
}
