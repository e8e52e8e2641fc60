//! Nothing on the way removes a credential: what `Connection` names is gone before the credential is put on.
#![cfg(feature = "hyper")]

mod support;

use std::{array, convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, TE, TRAILER, UPGRADE},
};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    strategy::Strategy as _,
    test_runner::{Config, TestRunner},
};
use support::{
    http_server::{HttpServer, ok},
    recording::identity,
    tls::{self, start_tls, start_tls_with, trusting},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
    sync::{Mutex, mpsc},
};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_identity::{
    AuthLayer, Authenticating, HeaderForwardLayer, HeaderInjection, IdentityLayer, Origin,
    Strategy, UpstreamInject,
    client::hyper::{HttpsClient, https_client_with},
};

type Body = Full<Bytes>;
type WithTrailers = StreamBody<stream::Iter<array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

/// What a caller may name, or send, to have a header removed on the way.
const NAMES: [&str; 12] = [
    "authorization",
    "Authorization",
    "x-api-key",
    "x-tenant",
    "keep-alive",
    "close",
    "upgrade",
    "te",
    "transfer-encoding",
    "proxy-connection",
    "host",
    "\u{e9}",
];

fn connection_values() -> impl proptest::strategy::Strategy<Value = Vec<Vec<u8>>> {
    let option = (select(NAMES.to_vec()), "[ \t]{0,2}")
        .prop_map(|(name, space)| format!("{space}{name}{space}").into_bytes());
    let value = vec(option, 0..4).prop_map(|options| options.join(&b','));
    vec(value, 0..3)
}

#[test]
fn f39_whatever_connection_names_each_credential_arrives_once() {
    let runtime = Runtime::new().unwrap();
    let (plain, (secure, certificate)) = runtime.block_on(async {
        let plain = HttpServer::start(async |_| ok()).await;
        (plain, start_tls(&["h2"]).await)
    });
    let secure_uri = format!("https://localhost:{}", secure.address().port());
    let backends = [
        (&plain, plain.uri("/mcp"), trusting(None), Version::HTTP_11),
        (
            &secure,
            secure_uri,
            trusting(Some(certificate)),
            Version::HTTP_2,
        ),
    ];
    let places = (
        any::<Index>(),
        connection_values(),
        vec(select(NAMES.to_vec()), 0..3),
    );
    let mut runner = TestRunner::new(Config {
        cases: 96,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&places, |(backend, connection, hop_by_hop)| {
            let (server, uri, client, version) = backend.get(&backends);
            let origin = Origin::try_from(uri.trim_end_matches("/mcp")).unwrap();
            let forward = HeaderForwardLayer::builder(origin.clone())
                .header("x-tenant", "blue")
                .build()
                .unwrap();
            let client = ServiceBuilder::new()
                .layer(IdentityLayer::new(identity("user-1", "of-the-user")))
                .layer(forward)
                .layer(AuthLayer::new(
                    origin.clone(),
                    UpstreamInject::new("github").unwrap(),
                ))
                .layer(AuthLayer::new(
                    origin,
                    HeaderInjection::new("x-api-key", "k-123").unwrap(),
                ))
                .service(client.clone());
            let mut request = Request::get(uri).body(Body::default()).unwrap();
            for value in &connection {
                let value = HeaderValue::from_bytes(value).unwrap();
                request.headers_mut().append(CONNECTION, value);
            }
            for name in hop_by_hop {
                if let Ok(name) = HeaderName::try_from(name)
                    && !matches!(
                        name.as_str(),
                        "host" | "transfer-encoding" | "upgrade" | "x-tenant"
                    )
                {
                    request
                        .headers_mut()
                        .append(name, HeaderValue::from_static("x"));
                }
            }

            let before = server.requests().len();
            runtime.block_on(client.oneshot(request)).unwrap();
            let requests = server.requests();
            prop_assert_eq!(requests.len(), before + 1);
            let arrived = requests.last().unwrap();
            prop_assert_eq!(arrived.version, *version);
            prop_assert_eq!(arrived.all("authorization"), ["Bearer of-the-user"]);
            prop_assert_eq!(arrived.all("x-api-key"), ["k-123"]);
            prop_assert_eq!(arrived.all("x-tenant"), ["blue"]);
            // The next hop must not remove anything, either.
            for value in arrived.all("connection") {
                for option in value.split(',') {
                    let option = option.trim();
                    prop_assert!(
                        ["close", "keep-alive", "upgrade"].contains(&option),
                        "{option}"
                    );
                }
            }
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn f39_an_upgrade_still_works_and_carries_its_credential() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn({
        let seen = seen.clone();
        async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    seen.lock().await.push(request.headers().clone());
                    tokio::spawn(async move {
                        let upgraded = hyper::upgrade::on(request).await.unwrap();
                        let mut upgraded = TokioIo::new(upgraded);
                        let mut greeting = [0; 5];
                        upgraded.read_exact(&mut greeting).await.unwrap();
                        upgraded.write_all(&greeting).await.unwrap();
                    });
                    let mut response = Response::new(Body::default());
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                    let headers = response.headers_mut();
                    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                    headers.insert(UPGRADE, HeaderValue::from_static("echo"));
                    Ok::<_, Infallible>(response)
                }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
            connection.with_upgrades().await.unwrap();
        }
    });
    let origin = Origin::try_from(format!("http://{address}")).unwrap();
    let mut request = Request::get(format!("http://{address}/socket"))
        .header(CONNECTION, "Upgrade, authorization, X-Api-Key")
        .header(UPGRADE, "echo")
        .body(Body::default())
        .unwrap();
    request
        .extensions_mut()
        .insert(identity("user-1", "of-the-user"));

    let response = client(
        origin,
        UpstreamInject::new("github").unwrap(),
        trusting(None),
    )
    .oneshot(request)
    .await
    .unwrap();

    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    upgraded.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    upgraded.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    let seen = seen.lock().await;
    assert_eq!(seen[0]["authorization"], "Bearer of-the-user");
    assert_eq!(seen[0][CONNECTION], "upgrade");
    assert_eq!(seen[0][UPGRADE], "echo");
}

#[tokio::test]
async fn f39_an_upgrade_to_http_2_is_not_passed_on() {
    let server = HttpServer::start(async |_| ok()).await;
    for protocol in ["h2c", "websocket, H2C", "h2c/1", "foo,h2"] {
        let request = Request::get(server.uri("/mcp"))
            .header(CONNECTION, "Upgrade, HTTP2-Settings")
            .header(UPGRADE, protocol)
            .header("http2-settings", "AAMAAABkAAQAAP__")
            .body(Body::default())
            .unwrap();
        let key = HeaderInjection::new("x-api-key", "k-123").unwrap();
        client(server.origin(), key, trusting(None))
            .oneshot(request)
            .await
            .unwrap();
        let requests = server.requests();
        let arrived = requests.last().unwrap();
        for name in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(arrived.all(name), [""; 0], "{protocol}");
        }
        assert_eq!(arrived.all("x-api-key"), ["k-123"]);
    }
}

#[tokio::test]
async fn f39_te_trailers_stays_because_grpc_needs_it() {
    let (server, certificate) = start_tls(&["h2"]).await;
    let uri = format!("https://localhost:{}", server.address().port());
    for (sent, arrives) in [("trailers", vec!["trailers"]), ("gzip", vec![])] {
        let key = HeaderInjection::new("x-api-key", "k-123").unwrap();
        let origin = Origin::try_from(uri.as_str()).unwrap();
        let request = Request::post(&uri)
            .header(TE, sent)
            .body(Body::default())
            .unwrap();
        client(origin, key, trusting(Some(certificate.clone())))
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(server.requests().last().unwrap().all("te"), arrives);
    }
}

#[tokio::test]
async fn f57_no_other_spelling_of_the_header_stays_beside_a_credential() {
    let server = HttpServer::start(async |_| ok()).await;
    let key = HeaderInjection::new("x-api-key", "k-123").unwrap();
    let forward = HeaderForwardLayer::builder(server.origin())
        .header("x-tenant_id", "blue")
        .build()
        .unwrap();
    let request = Request::builder()
        .method(Method::POST)
        .uri(server.uri("/mcp"))
        .header("x_api_key", "of-a-stranger")
        .header("x-api_key", "of-a-stranger")
        .header("x-tenant-id", "red")
        .header(TRAILER, "x-checksum, x_api-key")
        .body(Body::default())
        .unwrap();

    let client = forward.layer(client(server.origin(), key, trusting(None)));
    client.oneshot(request).await.unwrap();

    let arrived = server.requests().remove(0);
    assert_eq!(arrived.all("x-api-key"), ["k-123"]);
    assert_eq!(arrived.all("x_api_key"), [""; 0]);
    assert_eq!(arrived.all("x-api_key"), [""; 0]);
    assert_eq!(arrived.all("x-tenant_id"), ["blue"]);
    assert_eq!(arrived.all("x-tenant-id"), [""; 0]);
    assert_eq!(arrived.all("trailer"), ["x-checksum"]);
}

/// Sends a key that it has obtained.
#[derive(Clone)]
struct ObtainedKey;

impl<B: Send + 'static> Strategy<B> for ObtainedKey {
    fn authenticate(&self, _request: &mut Request<B>) -> Authenticating<B> {
        Authenticating::pending(async |mut request: Request<B>| {
            let mut key = HeaderValue::from_static("k-123");
            key.set_sensitive(true);
            request.headers_mut().insert("x-api-key", key);
            Ok(request)
        })
    }

    fn name(&self) -> &'static str {
        "obtained_key"
    }
}

#[tokio::test]
async fn f57_no_trailer_of_a_credentials_name_leaves_with_the_credential() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let server = HttpServer::start(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let body = request.into_body().collect().await.unwrap();
            sender.send(body.trailers().cloned()).unwrap();
            ok()
        }
    })
    .await;
    let of_a_stranger = HeaderValue::from_static("of-a-stranger");
    let mut trailers = HeaderMap::new();
    for name in ["authorization", "x-api-key", "x_api_key", "x-checksum"] {
        trailers.insert(name, of_a_stranger.clone());
    }
    let upstream: Arc<dyn Strategy<WithTrailers>> =
        Arc::new(UpstreamInject::new("github").unwrap());
    let key = HeaderInjection::new("x-api-key", "k-123").unwrap();
    let all = "X-Checksum, Authorization ,x_api_key,, x-api-key";
    for (strategy, announced, left) in [
        (
            upstream.clone(),
            "X-Checksum, Authorization",
            vec!["X-Checksum"],
        ),
        (upstream, "authorization", vec![]),
        (Arc::new(key), all, vec!["X-Checksum", ""]),
        (Arc::new(ObtainedKey), all, vec!["X-Checksum", ""]),
        (Arc::new(ObtainedKey), "X-Checksum", vec!["X-Checksum"]),
    ] {
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from("{}"))),
            Ok(Frame::trailers(trailers.clone())),
        ];
        let mut request = Request::post(server.uri("/mcp"))
            .header(TRAILER, announced)
            .body(StreamBody::new(stream::iter(frames)))
            .unwrap();
        request
            .extensions_mut()
            .insert(identity("user-1", "of-the-user"));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let client = AuthLayer::new(server.origin(), strategy).layer(client);
        client.oneshot(request).await.unwrap();

        let requests = server.requests();
        assert_eq!(requests.last().unwrap().all("trailer"), left);
        let arrived = received.recv().await.unwrap().unwrap_or_default();
        let names: Vec<_> = arrived.keys().map(HeaderName::as_str).collect();
        let expected = if left.is_empty() {
            vec![]
        } else {
            vec!["x-checksum"]
        };
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn f57_over_http_2_no_trailer_of_a_credentials_name_leaves_either() {
    let (sender, mut received) = mpsc::unbounded_channel();
    let handler = move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let version = request.version();
            let body = request.into_body().collect().await.unwrap();
            let trailers = body.trailers().cloned().unwrap_or_default();
            sender.send((version, body.to_bytes(), trailers)).unwrap();
            ok()
        }
    };
    let (server, certificate) = start_tls_with(&["h2"], handler).await;
    let uri = format!("https://localhost:{}", server.address().port());
    let key = HeaderInjection::new("x-api-key", "k-123").unwrap();
    let layer = AuthLayer::new(Origin::try_from(uri.as_str()).unwrap(), key);
    let client = layer.layer(https_client_with(tls::config(Some(certificate))));
    for (names, left) in [
        (vec!["x-checksum"], vec!["x-checksum"]),
        (vec!["authorization", "x_api_key"], vec![]),
        (vec!["x-api-key", "x-checksum"], vec!["x-checksum"]),
    ] {
        let mut trailers = HeaderMap::new();
        for name in names {
            trailers.insert(name, HeaderValue::from_static("of-a-stranger"));
        }
        let frames = [
            Ok::<_, Infallible>(Frame::data(Bytes::from("{}"))),
            Ok(Frame::trailers(trailers)),
        ];
        let request = Request::post(&uri).body(StreamBody::new(stream::iter(frames)));
        client.clone().oneshot(request.unwrap()).await.unwrap();

        let (version, body, trailers) = received.recv().await.unwrap();
        assert_eq!((version, &*body), (Version::HTTP_2, &b"{}"[..]));
        let names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, left);
    }
}

fn client<A>(
    origin: Origin,
    strategy: A,
    client: HttpsClient<Body>,
) -> impl Service<Request<Body>, Response = Response<Incoming>, Error = tower::BoxError, Future: Send>
+ Clone
where
    A: Strategy<Body> + Clone + 'static,
{
    AuthLayer::new(origin, strategy).layer(client)
}
