//! Redirects followed above the layers, by tower-http's `FollowRedirect`, across two real servers.

mod support;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use support::{
    http_server::{HttpServer, ok, temporary_redirect},
    recording::identity,
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_http::follow_redirect::{
    FollowRedirect,
    policy::{PolicyExt, Standard, clone_body_fn},
};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, FallbackPolicy, HeaderForwardLayer, HeaderInjection,
    Identity, IdentityLayer, UpstreamInject,
};

#[tokio::test]
async fn f04_a_redirect_to_a_stranger_does_not_take_the_fallback_identity_along() {
    let (home, stranger) = home_that_redirects_to_a_stranger().await;
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(user("of-the-session")).fallback(FallbackPolicy::always()))
        .layer(AuthLayer::new(
            home.origin(),
            UpstreamInject::new("github").unwrap(),
        ))
        .service(http_client());

    let error = call(client, &home.uri("/mcp")).await.unwrap_err();

    assert_wrong_origin(&error);
    assert_eq!(home.requests().len(), 1);
    assert_eq!(
        home.requests()[0].all("authorization"),
        ["Bearer of-the-request"]
    );
    assert_untouched(&stranger);
}

#[tokio::test]
async fn f05_a_redirect_to_a_stranger_does_not_take_an_injected_header_along() {
    let (home, stranger) = home_that_redirects_to_a_stranger().await;
    let api_key = HeaderInjection::new("x-api-key", "k-123").unwrap();
    let client = ServiceBuilder::new()
        .layer(AuthLayer::new(home.origin(), api_key))
        .service(http_client());

    let error = call(client, &home.uri("/mcp")).await.unwrap_err();

    assert_wrong_origin(&error);
    assert_eq!(home.requests().len(), 1);
    assert_eq!(home.requests()[0].all("x-api-key"), ["k-123"]);
    assert_untouched(&stranger);
}

#[tokio::test]
async fn f05_a_redirect_to_a_stranger_does_not_take_a_forwarded_header_along() {
    let (home, stranger) = home_that_redirects_to_a_stranger().await;
    let forward = HeaderForwardLayer::builder(home.origin())
        .header("x-api-key", "k-123")
        .build()
        .unwrap();
    let client = ServiceBuilder::new().layer(forward).service(http_client());

    let error = call(client, &home.uri("/mcp")).await.unwrap_err();

    assert_wrong_origin(&error);
    assert_eq!(home.requests().len(), 1);
    assert_eq!(home.requests()[0].all("x-api-key"), ["k-123"]);
    assert_untouched(&stranger);
}

#[tokio::test]
async fn a_redirect_within_the_origin_goes_out_with_the_credential_of_the_request() {
    let home = HttpServer::start(async |request| match request.uri().path() {
        "/mcp" => temporary_redirect("/moved"),
        _ => ok(),
    })
    .await;
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(user("of-the-session")))
        .layer(AuthLayer::new(
            home.origin(),
            UpstreamInject::new("github").unwrap(),
        ))
        .service(http_client());

    call(client, &home.uri("/mcp")).await.unwrap();

    let requests = home.requests();
    let paths: Vec<_> = requests.iter().map(|request| request.uri.path()).collect();
    assert_eq!(paths, ["/mcp", "/moved"]);
    for request in &requests {
        assert_eq!(request.method, "POST");
        assert_eq!(request.all("authorization"), ["Bearer of-the-request"]);
    }
}

async fn home_that_redirects_to_a_stranger() -> (HttpServer, HttpServer) {
    let stranger = HttpServer::start(async |_| ok()).await;
    let location = stranger.uri("/mcp");
    let home = HttpServer::start(move |_| {
        let response = temporary_redirect(&location);
        async { response }
    })
    .await;
    (home, stranger)
}

fn http_client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn user(token: &str) -> Identity {
    identity("user-1", token)
}

/// Follows redirects with method and body, which a 307 asks for.
async fn call<S, B>(client: S, uri: &str) -> Result<http::Response<B>, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = http::Response<B>> + Clone,
    S::Error: Into<BoxError>,
{
    let policy = Standard::default()
        .and::<_, Full<Bytes>, S::Error>(clone_body_fn(|body: &Full<Bytes>| Some(body.clone())));
    let mut request = Request::post(uri).body(Full::from("{}")).unwrap();
    request.extensions_mut().insert(user("of-the-request"));
    FollowRedirect::with_policy(client, policy)
        .oneshot(request)
        .await
        .map_err(Into::into)
}

fn assert_wrong_origin(error: &BoxError) {
    let kind = AuthError::find_in(&**error).map(AuthError::kind);
    assert_eq!(kind, Some(AuthErrorKind::WrongOrigin));
}

fn assert_untouched(stranger: &HttpServer) {
    assert_eq!(stranger.connections(), 0);
    assert!(stranger.requests().is_empty());
}
