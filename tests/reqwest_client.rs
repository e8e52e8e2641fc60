//! reqwest beneath the layers, against real servers.
#![cfg(feature = "reqwest")]

mod support;

use std::{convert::Infallible, error::Error, future::pending, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::AUTHORIZATION};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, channel::Channel};
use hyper_util::client::legacy::connect::HttpInfo;
use reqwest::{Client, redirect};
use support::{
    http_server::{HttpServer, ok, server_body, temporary_redirect},
    recording::identity,
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_identity::{
    AuthLayer, HeaderForwardLayer, HeaderInjection, Identity, IdentityLayer, UpstreamInject,
    client::reqwest::ReqwestService,
};

#[tokio::test]
async fn f38_the_credential_arrives_once_whatever_else_was_set() {
    let server = HttpServer::start(async |_| ok()).await;
    let mut default_headers = HeaderMap::new();
    default_headers.insert(
        AUTHORIZATION,
        HeaderValue::from_static("Bearer of-the-client"),
    );
    let http_client = ReqwestService::new(Client::builder().default_headers(default_headers));
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(user("of-the-session")))
        .layer(AuthLayer::new(
            server.origin(),
            UpstreamInject::new("github").unwrap(),
        ))
        .service(http_client.unwrap());

    let mut request = Request::post(server.uri("/mcp"))
        .header(AUTHORIZATION, "Bearer of-the-caller")
        .body(String::from("{}"))
        .unwrap();
    request.extensions_mut().insert(user("of-the-request"));
    client.oneshot(request).await.unwrap();

    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].all("authorization"), ["Bearer of-the-request"]);
}

#[tokio::test]
async fn f05_a_redirect_is_not_followed_beneath_the_layers() {
    let stranger = HttpServer::start(async |_| ok()).await;
    let location = stranger.uri("/mcp");
    let home = HttpServer::start(move |_| {
        let response = temporary_redirect(&location);
        async { response }
    })
    .await;
    let follows = Client::builder().redirect(redirect::Policy::limited(10));
    let forward = HeaderForwardLayer::builder(home.origin())
        .header("x-tenant-key", "t-456")
        .build()
        .unwrap();
    let client = ServiceBuilder::new()
        .layer(forward)
        .layer(AuthLayer::new(
            home.origin(),
            HeaderInjection::new("x-api-key", "k-123").unwrap(),
        ))
        .service(ReqwestService::new(follows).unwrap());

    let response = client.oneshot(get(&home.uri("/mcp"))).await.unwrap();

    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(response.headers()["location"], stranger.uri("/mcp"));
    assert_eq!(home.requests()[0].all("x-api-key"), ["k-123"]);
    assert_eq!(home.requests()[0].all("x-tenant-key"), ["t-456"]);
    assert_eq!(stranger.connections(), 0);
}

#[tokio::test]
async fn bodies_stream_both_ways_while_they_are_open() {
    let echo =
        HttpServer::start(async |request| Response::new(server_body(request.into_body()))).await;
    let (mut sender, body) = Channel::<Bytes>::new(1);

    let request = Request::post(echo.uri("/")).body(body).unwrap();
    let mut response = http_client().oneshot(request).await.unwrap();

    for chunk in ["one", "two", "three"] {
        sender.send_data(Bytes::from(chunk)).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), chunk);
    }
    drop(sender);
    assert!(response.body_mut().frame().await.is_none());
    assert_eq!(echo.requests()[0].all("transfer-encoding"), ["chunked"]);
}

#[tokio::test]
async fn a_body_of_known_size_is_sent_with_its_length() {
    let server = HttpServer::start(async |_| ok()).await;
    let request = || Request::post(server.uri("/"));
    let bytes = request().body(Full::new(Bytes::from("12345"))).unwrap();
    let text = request().body(String::from("12345")).unwrap();
    let reqwest = request().body(reqwest::Body::from("12345")).unwrap();

    http_client().oneshot(bytes).await.unwrap();
    http_client().oneshot(text).await.unwrap();
    http_client().oneshot(reqwest).await.unwrap();

    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!(request.all("content-length"), ["5"]);
        assert!(request.all("transfer-encoding").is_empty());
    }
}

#[tokio::test]
async fn a_body_that_is_not_sync_is_sent_with_its_length_or_as_it_comes() {
    let echo =
        HttpServer::start(async |request| Response::new(server_body(request.into_body()))).await;
    let client = ReqwestService::<axum::body::Body>::new(Client::builder()).unwrap();
    let chunks = ["he", "llo"].map(Ok::<_, std::io::Error>);
    let stream = axum::body::Body::from_stream(futures_util::stream::iter(chunks));
    for (body, sent, length) in [
        (axum::body::Body::from("hello"), "hello", Some("5")),
        (stream, "hello", None),
        (axum::body::Body::empty(), "", None),
    ] {
        let request = Request::put(echo.uri("/")).body(body).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        let echoed = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(echoed, sent);
        let arrived = echo.requests().pop().unwrap();
        assert_eq!(arrived.all("content-length"), Vec::from_iter(length));
    }
}

#[tokio::test]
async fn a_failure_status_is_a_response_with_its_body_and_the_extensions_of_the_connection() {
    let server = HttpServer::start(async |_| {
        let mut response = Response::new(server_body(Full::new(Bytes::from("expired"))));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response
    })
    .await;

    let response = http_client().oneshot(get(&server.uri("/"))).await.unwrap();

    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let connection = response.extensions().get::<HttpInfo>().unwrap();
    assert_eq!(connection.remote_addr(), server.address());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "expired");
}

#[tokio::test]
async fn the_settings_of_a_reqwest_request_travel_in_its_extensions() {
    let never_answers = HttpServer::start(async |_| pending().await).await;
    let with_timeout = Client::new()
        .get(never_answers.uri("/"))
        .timeout(Duration::from_millis(10))
        .build()
        .unwrap();
    let request = Request::<reqwest::Body>::try_from(with_timeout).unwrap();

    let error = http_client().oneshot(request).await.unwrap_err();

    assert!(error.is_timeout());
}

#[tokio::test]
async fn a_relative_uri_is_an_error_of_the_request() {
    for uri in ["/mcp", "*", "mcp.example.com:443"] {
        let error = http_client().oneshot(get(uri)).await.unwrap_err();
        assert!(error.is_builder(), "{uri}: {error:?}");
    }
}

#[tokio::test]
async fn user_info_in_a_uri_does_not_become_a_credential() {
    let server = HttpServer::start(async |_| ok()).await;
    let uri = format!("http://user:s3cret@{}/", server.address());

    http_client().oneshot(get(&uri)).await.unwrap();

    assert!(server.requests()[0].all("authorization").is_empty());
}

#[tokio::test]
async fn f33_an_error_does_not_show_the_url() {
    let hangs_up = HttpServer::start_over(
        async |_| Err::<tokio::net::TcpStream, _>(std::io::ErrorKind::ConnectionReset.into()),
        async |_| ok(),
    )
    .await;
    for uri in [
        hangs_up.uri("/?key=s3cret"),
        String::from("ftp://127.0.0.1/?key=s3cret"),
    ] {
        let error = http_client().oneshot(get(&uri)).await.unwrap_err();

        let mut shown = format!("{error:?}");
        let mut next: Option<&dyn Error> = Some(&error);
        while let Some(error) = next {
            shown += &format!("\n{error}\n{error:?}");
            next = error.source();
        }
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[tokio::test]
async fn the_future_can_be_sent_to_another_task() {
    let server = HttpServer::start(async |_| ok()).await;
    let call = tokio::spawn(http_client().oneshot(get(&server.uri("/"))));
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_credential_does_not_go_to_the_proxy_of_the_environment() {
    const NAME: &str = "a_credential_does_not_go_to_the_proxy_of_the_environment";
    const CHILD: &str = "TOWER_IDENTITY_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let backend = HttpServer::start(async |_| ok()).await;
        let key = HeaderInjection::new("x-api-key", "k-1").unwrap();
        let client = AuthLayer::new(backend.origin(), key).layer(http_client());
        client.oneshot(get(&backend.uri("/"))).await.unwrap();
        assert_eq!(backend.requests().len(), 1);
        return;
    }
    let proxy = HttpServer::start(async |_| ok()).await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args([NAME, "--exact"])
        .env(CHILD, "1")
        .env("HTTP_PROXY", proxy.uri(""));
    child
        .env("http_proxy", proxy.uri(""))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || child.output().unwrap())
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(proxy.requests().is_empty(), "{:?}", proxy.requests());
}

#[tokio::test]
async fn a_proxy_that_is_named_is_used() {
    let proxy = HttpServer::start(async |_| ok()).await;
    let builder = Client::builder().proxy(reqwest::Proxy::http(proxy.uri("")).unwrap());
    let client = ReqwestService::new(builder).unwrap();
    client.oneshot(get("http://mcp.internal/")).await.unwrap();
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
fn f33_a_client_does_not_show_its_default_headers() {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("hush"));
    let client = ReqwestService::<String>::new(Client::builder().default_headers(headers)).unwrap();
    assert_eq!(format!("{client:?}"), "ReqwestService { .. }");
}

#[tokio::test]
async fn f33_a_call_under_way_does_not_show_its_request() {
    let mut client = http_client();
    let mut request = get("http://127.0.0.1:1/hush");
    let authorization = HeaderValue::from_static("Bearer hush");
    request.headers_mut().insert("authorization", authorization);
    let call = client.call(request);
    assert_eq!(format!("{call:?}"), "ReqwestFuture { .. }");
}

fn http_client<B>() -> ReqwestService<B> {
    ReqwestService::new(Client::builder()).unwrap()
}

fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

fn user(token: &str) -> Identity {
    identity("user-1", token)
}

#[tokio::test]
async fn f57_no_trailer_of_a_credentials_name_leaves_with_the_credential() {
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let server = HttpServer::start(move |request: Request<hyper::body::Incoming>| {
        let sender = sender.clone();
        async move {
            let body = request.into_body().collect().await.unwrap();
            sender.send(body.trailers().cloned()).unwrap();
            ok()
        }
    })
    .await;
    // Without the layer, which would not announce the trailer: so does HTTP/2, which needs no announcement.
    let client = ReqwestService::new(Client::builder()).unwrap();
    let mut trailers = HeaderMap::new();
    for name in ["authorization", "x-checksum"] {
        trailers.insert(name, HeaderValue::from_static("of-a-stranger"));
    }
    let frames = [Frame::data(Bytes::from("{}")), Frame::trailers(trailers)];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    let request = Request::post(server.uri("/mcp"))
        .header(AUTHORIZATION, "Bearer of-the-user")
        .header("trailer", "authorization, x-checksum");

    client.oneshot(request.body(body).unwrap()).await.unwrap();

    let arrived = received.recv().await.unwrap().unwrap();
    let names: Vec<_> = arrived.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["x-checksum"]);
}
