//! axum's handlers take the identity as an argument and return an `AuthError`, behind a real server.
#![cfg(all(feature = "axum", feature = "hyper", feature = "testing"))]

mod support;

use std::{net::SocketAddr, sync::LazyLock, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    http::{Method, Request, Response, StatusCode},
    routing::get,
};
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http_body_util::BodyExt;
use support::log::Log;
use tokio::net::TcpListener;
use tower::ServiceExt;
use tower_http::cors::CorsLayer;
use tower_identity::{
    AuthError, AuthErrorKind, Identity, TokenValidator, TokenValidatorLayer,
    client::hyper::https_client, testing::TestIssuer,
};

const ISSUER_URL: &str = "https://issuer.example.com";
const AUDIENCE: &str = "https://gateway.example.com";
const METADATA: &str = "https://gateway.example.com/.well-known/oauth-protected-resource";
const CHALLENGE: &str = r#"Bearer realm="https://gateway.example.com", resource_metadata="https://gateway.example.com/.well-known/oauth-protected-resource""#;

fn issuer() -> &'static TestIssuer {
    static ISSUER: LazyLock<TestIssuer> = LazyLock::new(|| TestIssuer::new(ISSUER_URL));
    &ISSUER
}

fn layer() -> TokenValidatorLayer {
    let validator = TokenValidator::builder(ISSUER_URL, issuer().clone())
        .audience(AUDIENCE)
        .resource(AUDIENCE);
    TokenValidatorLayer::new(validator.build().unwrap())
}

fn token(subject: &str) -> String {
    let token = issuer().token(subject).audience(AUDIENCE);
    format!("Bearer {}", token.sign())
}

async fn protected(caller: Identity) -> String {
    caller.subject().to_owned()
}

async fn open(caller: Option<Identity>) -> String {
    match caller {
        Some(caller) => caller.subject().to_owned(),
        None => "a stranger".to_owned(),
    }
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    address
}

struct Answer {
    status: StatusCode,
    challenge: Option<String>,
    body: String,
    head: Response<()>,
}

async fn send(address: SocketAddr, path: &str, authorization: Option<&str>) -> Answer {
    let mut request = Request::get(format!("http://{address}{path}"));
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    answer(request.body(Body::empty()).unwrap()).await
}

async fn answer(request: Request<Body>) -> Answer {
    let client = https_client::<Body>().unwrap();
    let (head, body) = client.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let challenge = head.headers.get(WWW_AUTHENTICATE);
    Answer {
        status: head.status,
        challenge: challenge.map(|value| value.to_str().unwrap().to_owned()),
        body: String::from_utf8(body.to_vec()).unwrap(),
        head: Response::from_parts(head, ()),
    }
}

#[tokio::test]
async fn a_handler_takes_the_identity_that_the_layer_validated() {
    for router in [
        Router::new().route("/", get(protected)).layer(layer()),
        Router::new()
            .route("/", get(protected))
            .route_layer(layer()),
    ] {
        let address = serve(router).await;
        let answer = send(address, "/", Some(&token("alice"))).await;
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "alice"));

        let answer = send(address, "/", None).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.challenge.as_deref(), Some(CHALLENGE));
    }
}

#[tokio::test]
async fn layer_asks_for_a_token_on_unknown_paths_and_route_layer_does_not() {
    let router = Router::new().route("/", get(protected));
    let all = serve(router.clone().layer(layer())).await;
    let answer = send(all, "/unknown", None).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let routes = serve(router.route_layer(layer())).await;
    let answer = send(routes, "/unknown", None).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_route_that_is_added_after_the_layer_is_open() {
    let router = Router::new()
        .route("/", get(protected))
        .layer(layer())
        .route("/open", get(open));
    let address = serve(router).await;
    let answer = send(address, "/open", None).await;
    assert_eq!(
        (answer.status, &*answer.body),
        (StatusCode::OK, "a stranger")
    );
}

#[tokio::test]
async fn a_handler_that_needs_an_identity_refuses_where_no_layer_is() {
    let address = serve(Router::new().route("/", get(protected))).await;
    let answer = send(address, "/", Some(&token("alice"))).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.challenge.as_deref(), Some("Bearer"));
}

#[tokio::test]
async fn the_log_says_what_to_do_where_the_order_of_a_router_is_wrong() {
    let log = Log::default();
    let _capturing = log.capture("tower_identity=debug");
    let said = async |router: Router, request: http::request::Builder| {
        let before = log.text().len();
        let address = serve(router).await;
        let uri = format!("http://{address}/");
        let answer = answer(request.uri(uri).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        log.text()[before..].to_owned()
    };

    let before_the_route = Router::new().layer(layer()).route("/", get(protected));
    let without_it = Router::new().route("/", get(protected));
    let mut warnings = Vec::new();
    for router in [before_the_route, without_it] {
        for _ in 0..100 {
            let said = said(router.clone(), Request::get("/")).await;
            warnings.extend(Some(said).filter(|said| said.contains("WARN")));
        }
    }
    // Requests of other tests count, too.
    assert!((1..=9).contains(&warnings.len()), "no flood: {warnings:?}");
    for said in warnings {
        assert!(said.contains("add the layer after the route"), "{said}");
    }

    let anonymous = Router::new().route("/", get(protected));
    let anonymous = anonymous.layer(layer().allow_anonymous());
    assert!(!said(anonymous, Request::get("/")).await.contains("WARN"));

    let inside = Router::new().route("/", get(protected));
    let inside = inside.layer(CorsLayer::permissive()).layer(layer());
    let preflight = Request::options("/").header(ACCESS_CONTROL_REQUEST_METHOD, "GET");
    let log = said(inside, preflight).await;
    assert!(
        log.contains("put the layer for CORS around `TokenValidatorLayer`"),
        "{log}"
    );
}

#[tokio::test]
async fn anonymous_callers_pass_without_an_identity_where_they_are_allowed() {
    let forged = Identity::builder("forged").build().unwrap();
    let router = Router::new()
        .route("/", get(open))
        .route("/protected", get(protected))
        .layer(layer().allow_anonymous())
        .layer(Extension(forged));
    let address = serve(router).await;

    let answer = send(address, "/", None).await;
    assert_eq!(
        (answer.status, &*answer.body),
        (StatusCode::OK, "a stranger")
    );
    let answer = send(address, "/", Some(&token("alice"))).await;
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "alice"));

    let answer = send(address, "/protected", None).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(answer.challenge.as_deref(), Some(CHALLENGE));

    for bad in ["Bearer bad", "Basic YWxpY2U6c2VjcmV0", "Bearer"] {
        let answer = send(address, "/", Some(bad)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{bad}");
    }
}

#[tokio::test]
async fn a_handler_returns_an_auth_error_as_the_response_of_its_kind() {
    async fn fails() -> Result<String, AuthError> {
        let error = AuthError::new(AuthErrorKind::Unavailable, "the issuer is down at 10.0.0.1");
        Err(error.with_retry_after(Duration::from_secs(7)))
    }
    async fn is_asked_to_log_in() -> Result<String, AuthError> {
        Err(AuthError::new(AuthErrorKind::Rejected, "invalid_grant"))
    }
    let router = Router::new()
        .route("/fails", get(fails))
        .route("/log-in", get(is_asked_to_log_in))
        .layer(layer());
    let address = serve(router).await;

    let answer = send(address, "/fails", Some(&token("alice"))).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.head.headers()[RETRY_AFTER], "7");
    assert!(!answer.body.contains("10.0.0.1"), "{}", answer.body);

    let answer = send(address, "/log-in", Some(&token("alice"))).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let challenge = answer.challenge.unwrap();
    assert!(challenge.contains(METADATA), "{challenge}");
}

#[tokio::test]
async fn a_preflight_passes_if_the_cors_layer_is_outside_and_not_if_it_is_inside() {
    let preflight = async |router: Router| {
        let address = serve(router).await;
        let request = Request::builder()
            .method(Method::OPTIONS)
            .uri(format!("http://{address}/"))
            .header(ORIGIN, "https://app.example.com")
            .header(ACCESS_CONTROL_REQUEST_METHOD, "GET");
        answer(request.body(Body::empty()).unwrap()).await.status
    };
    let routes = Router::new().route("/", get(protected));
    let outside = routes.clone().layer(layer()).layer(CorsLayer::permissive());
    assert_eq!(preflight(outside).await, StatusCode::OK);
    let inside = routes.layer(CorsLayer::permissive()).layer(layer());
    assert_eq!(preflight(inside).await, StatusCode::UNAUTHORIZED);
}
