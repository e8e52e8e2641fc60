//! The ready-made hyper-util client beneath the layers, against real servers.
#![cfg(feature = "hyper")]

mod support;

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Version, header::HOST};
use http_body_util::Full;
use support::{
    http_server::{HttpServer, ok, temporary_redirect},
    recording::identity,
    tls::{config, start_tls, trusting},
};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_identity::{
    AuthError, AuthErrorKind, AuthLayer, HeaderInjection, Identity, IdentityLayer, Origin,
    UpstreamInject,
    client::hyper::{https_client, https_client_with},
};

#[tokio::test]
async fn f38_the_credential_arrives_once_over_plain_http_on_loopback() {
    let server = HttpServer::start(async |_| ok()).await;
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(user("of-the-session")))
        .layer(AuthLayer::new(
            server.origin(),
            UpstreamInject::new("github").unwrap(),
        ))
        .service(trusting(None));

    let mut request = get(&server.uri("/mcp"));
    request.extensions_mut().insert(user("of-the-request"));
    client.oneshot(request).await.unwrap();

    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].version, Version::HTTP_11);
    assert_eq!(requests[0].all("authorization"), ["Bearer of-the-request"]);
}

#[tokio::test]
async fn http_2_is_spoken_where_the_server_offers_it() {
    for (offered, spoken) in [
        (vec!["h2", "http/1.1"], Version::HTTP_2),
        (vec!["http/1.1"], Version::HTTP_11),
        (vec![], Version::HTTP_11),
    ] {
        let (server, certificate) = start_tls(&offered).await;
        let uri = format!("https://localhost:{}", server.address().port());
        let origin = Origin::try_from(uri.as_str()).unwrap();
        let client = ServiceBuilder::new()
            .layer(IdentityLayer::new(user("of-the-session")))
            .layer(AuthLayer::new(
                origin,
                UpstreamInject::new("github").unwrap(),
            ))
            .service(trusting(Some(certificate)));

        client.oneshot(get(&uri)).await.unwrap();

        let requests = server.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].version, spoken);
        assert_eq!(requests[0].all("authorization"), ["Bearer of-the-session"]);
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (server, _) = start_tls(&["h2", "http/1.1"]).await;
    let uri = format!("https://localhost:{}", server.address().port());

    let error = https_client()
        .unwrap()
        .oneshot(get(&uri))
        .await
        .unwrap_err();

    assert!(error.is_connect());
    assert_eq!(server.connections(), 1);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (server, certificate) = start_tls(&["h2", "http/1.1"]).await;
    let uri = format!("https://{}", server.address());

    let error = trusting(Some(certificate))
        .oneshot(get(&uri))
        .await
        .unwrap_err();

    assert!(error.is_connect());
    assert_eq!(server.connections(), 1);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn alpn_protocols_that_are_set_already_are_replaced() {
    let (server, certificate) = start_tls(&["h2"]).await;
    let uri = format!("https://localhost:{}", server.address().port());
    let mut config = config(Some(certificate));
    config.alpn_protocols = vec![b"imap".to_vec()];

    let response = https_client_with(config).oneshot(get(&uri)).await.unwrap();

    assert_eq!(response.version(), Version::HTTP_2);
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
    let api_key = HeaderInjection::new("x-api-key", "k-123").unwrap();
    let client = ServiceBuilder::new()
        .layer(AuthLayer::new(home.origin(), api_key))
        .service(trusting(None));

    let response = client.oneshot(get(&home.uri("/mcp"))).await.unwrap();

    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(home.requests()[0].all("x-api-key"), ["k-123"]);
    assert_eq!(stranger.connections(), 0);
}

#[tokio::test]
async fn f37_over_http_2_authority_and_host_are_the_origin_or_nothing_is_sent() {
    let (server, certificate) = start_tls(&["h2"]).await;
    let own = format!("localhost:{}", server.address().port());
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(user("of-the-session")))
        .layer(AuthLayer::new(
            Origin::try_from(format!("https://{own}")).unwrap(),
            UpstreamInject::new("github").unwrap(),
        ))
        .service(trusting(Some(certificate)));
    // What the URI says is sent as `:authority`.
    let request = |authority: &str, host: &str| {
        let mut request = get(&format!("https://{authority}/mcp"));
        let host = HeaderValue::from_str(host).unwrap();
        request.headers_mut().insert(HOST, host);
        request
    };
    for (authority, host) in [
        (&*own, "evil.example"),
        ("evil.example", &*own),
        ("evil.example", "evil.example"),
    ] {
        let refused = client.clone().oneshot(request(authority, host)).await;
        let error = refused.unwrap_err();
        let kind = AuthError::find_in(error.as_ref()).map(AuthError::kind);
        assert_eq!(kind, Some(AuthErrorKind::WrongOrigin), "{authority} {host}");
    }
    assert_eq!(server.connections(), 0);

    client.oneshot(request(&own, &own)).await.unwrap();
    let arrived = server.requests().remove(0);
    assert_eq!(arrived.version, Version::HTTP_2);
    assert_eq!(arrived.uri.authority().unwrap().as_str(), own);
    assert!(arrived.all("host").iter().all(|host| *host == own));
    assert_eq!(arrived.all("authorization"), ["Bearer of-the-session"]);
}

#[tokio::test]
async fn a_relative_uri_is_an_error() {
    trusting(None).oneshot(get("/mcp")).await.unwrap_err();
}

#[tokio::test]
async fn f33_a_client_and_a_call_under_way_do_not_show_the_request() {
    let mut client = trusting(None);
    let call = client.call(get("http://127.0.0.1:1/hush"));
    assert_eq!(format!("{call:?}"), "HttpsFuture { .. }");
    assert_eq!(format!("{client:?}"), "HttpsClient { .. }");
}

#[tokio::test]
async fn the_error_names_its_cause() {
    let error = trusting(None)
        .oneshot(get("http://127.0.0.1:1/"))
        .await
        .unwrap_err();

    assert!(error.is_connect());
    let cause = std::iter::successors(error.source(), |error| (*error).source())
        .find_map(|error| error.downcast_ref::<std::io::Error>());
    assert_eq!(cause.unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
}

/// The clock stands still, and goes on by itself to the next timer when all tasks wait.
#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_come_about_is_given_up_after_10_seconds() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // The only place in the queue is taken, so nobody answers the next one.
    let _first_in_the_queue = TcpStream::connect(address).await.unwrap();
    let started = Instant::now();

    let answer = trusting(None).oneshot(get(&format!("http://{address}/mcp")));
    let error = timeout(Duration::from_secs(60), answer)
        .await
        .expect("it waits without end")
        .unwrap_err();

    assert!(error.is_connect());
    assert_eq!(started.elapsed().as_secs(), 10);
}

fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

fn user(token: &str) -> Identity {
    identity("user-1", token)
}
