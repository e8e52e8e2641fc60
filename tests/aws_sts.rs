//! What `AwsSts` promises: whose credentials sign, what is signed, and what AWS STS is asked.

mod support;

use std::{
    collections::HashSet,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::json;
use support::{
    authenticated::Authenticated,
    aws_stack::{AwsStack, Body, DEFAULT_ROLE, REGION, http_client, user, user_with},
    log::Log,
    sigv4::{MOST_SERVICES, S3, Signature},
    sts::Behaviour,
};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt};
use tower_identity::{
    AccessToken, AuthErrorKind, AuthLayer, AwsSts, HealthCheck, Identity, IdentityLayer,
    RoleMapping, Secret, Strategy, Subject, UpstreamToken,
    outgoing::PeekedBody,
    strategy::{AwsStsBuilder, PayloadHash},
};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;

/// A body of our own: frames as they are given, and a size hint that may lie.
struct Frames {
    frames: Pin<Box<dyn http_body::Body<Data = Bytes, Error = io::Error> + Send>>,
    hint: SizeHint,
}

impl Frames {
    fn new(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        let frames: Vec<_> = frames.into_iter().map(Ok).collect();
        Self {
            frames: Box::pin(StreamBody::new(stream::iter(frames))),
            hint: SizeHint::default(),
        }
    }

    fn pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::new(
            pieces
                .into_iter()
                .map(|piece| Frame::data(Bytes::copy_from_slice(piece))),
        )
    }

    fn saying(mut self, length: u64) -> Self {
        self.hint = SizeHint::with_exact(length);
        self
    }
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").finish_non_exhaustive()
    }
}

impl From<Bytes> for Frames {
    fn from(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self::new([Frame::data(bytes)]).saying(length)
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.frames.as_mut().poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

fn kind(error: &BoxError) -> AuthErrorKind {
    tower_identity::AuthError::find_in(error.as_ref())
        .unwrap()
        .kind()
}

#[tokio::test]
async fn a_request_is_signed_in_the_session_of_its_user() {
    let aws = AwsStack::start().await;
    let session = aws
        .call(&aws.strategy(), &user("alice@example.com", "alice-token"))
        .await
        .unwrap();

    assert_eq!(session.role, DEFAULT_ROLE);
    assert_eq!(session.name, "alice@example.com");
    assert_eq!(session.web_identity_token, "alice-token");
    let arrived = aws.arrived().remove(0);
    let signature = Signature::of(&arrived.headers);
    assert_eq!(signature.service, "aws-mcp");
    assert_eq!(
        signature.signed_headers,
        ["host", "x-amz-date", "x-amz-security-token"]
    );
    assert_eq!(arrived.body, b"{}");
}

#[tokio::test]
async fn f33_sts_is_asked_by_a_post_with_nothing_in_its_url_and_without_a_signature() {
    let aws = AwsStack::start().await;
    let strategy = aws
        .builder()
        .session_duration(Duration::from_secs(900))
        .build()
        .unwrap();
    aws.call(&strategy, &user("alice", "alice-token"))
        .await
        .unwrap();

    let asked = aws.sts.asked().remove(0);
    assert_eq!(aws.sts.server.requests()[0].method, Method::POST);
    assert_eq!(asked.uri, "/");
    assert!(!asked.headers.contains_key("authorization"));
    assert_eq!(asked.form["DurationSeconds"], "900");
    assert_eq!(asked.form["RoleSessionName"], "alice");
    assert_eq!(asked.form["WebIdentityToken"], "alice-token");
}

#[tokio::test]
async fn f24_sts_is_asked_once_per_user_role_session_name_and_lifetime() {
    let aws = AwsStack::start().await;
    let strategy = aws
        .builder()
        .role_mapping(RoleMapping::claim(
            "admins",
            "arn:aws:iam::123456789012:role/Admin",
        ))
        .session_name_claim("email")
        .build()
        .unwrap();
    let claims = |groups: &[&str], email: &str| json!({ "groups": groups, "email": email });
    let users = [
        user_with("alice", "t1", claims(&[], "alice@example.com")),
        user_with("alice", "t2", claims(&[], "alice@example.com")),
        user_with("alice", "t1", claims(&["admins"], "alice@example.com")),
        user_with("alice", "t1", claims(&[], "alice@example.org")),
    ];
    for _ in 0..3 {
        for user in &users {
            aws.call(&strategy, user).await.unwrap();
        }
    }
    assert_eq!(aws.sts.calls(), users.len());

    aws.clock.advance(HOUR);
    for user in &users {
        aws.call(&strategy, user).await.unwrap();
    }
    assert_eq!(aws.sts.calls(), 2 * users.len());
}

#[tokio::test]
async fn f07_strategies_that_differ_share_no_credentials() {
    let aws = AwsStack::start().await;
    let cache = tower_identity::CredentialCache::builder()
        .clock(aws.clock.clone())
        .build()
        .unwrap();
    let upstream = UpstreamToken::new(AccessToken::new("t").unwrap());
    let claims = json!({
        "sub": "alice",
        "email": "alice",
        "policy": "{}",
        "other policy": "{}",
        "https://aws.amazon.com/tags": { "principal_tags": { "Department": ["Research"] } },
    });
    let alice = Identity::builder("alice")
        .token(AccessToken::new("t").unwrap())
        .upstream("idp", upstream)
        .claims(claims.as_object().unwrap().clone())
        .build()
        .unwrap();
    let builders = [
        aws.builder(),
        aws.builder().service("execute-api"),
        aws.builder().session_duration(2 * HOUR),
        aws.builder()
            .fallback_role("arn:aws:iam::123456789012:role/Other"),
        aws.builder().subject(Subject::upstream("idp")),
        aws.builder().replace_unfit_session_names(),
        aws.builder().session_name_claim("email"),
        aws.builder().payload_hash(PayloadHash::Header),
        aws.builder().payload_hash(PayloadHash::Signed),
        aws.builder().session_policy("{}"),
        aws.builder().session_policy(r#"{"Version":"2012-10-17"}"#),
        aws.builder().session_policy_claim("policy"),
        aws.builder().session_policy_claim("other policy"),
        aws.builder()
            .session_policy_arn("arn:aws:iam::aws:policy/A"),
        aws.builder()
            .session_policy_arn("arn:aws:iam::aws:policy/B"),
        aws.builder().required_session_tag("Department"),
        AwsSts::builder("us-east-1", http_client::<Body>())
            .sts_endpoint(aws.sts.url())
            .fallback_role(DEFAULT_ROLE)
            .clock(aws.clock.clone()),
        aws.builder().sts_endpoint(format!("{}/", aws.sts.url())),
    ];
    for (number, builder) in builders.into_iter().enumerate() {
        let strategy = builder.cache(cache.clone()).build().unwrap();
        for _ in 0..2 {
            aws.send(&strategy, aws.request(&alice)).await.unwrap();
        }
        assert_eq!(aws.sts.calls(), number + 1, "number {number}");
    }
}

#[tokio::test]
async fn f23_credentials_do_not_sign_within_5_s_of_their_end() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    let first = aws.call(&strategy, &alice).await.unwrap();

    // Nothing fresh can be had.
    aws.sts
        .script((0..100).map(|_| Behaviour::error(503, "ServiceUnavailable")));
    aws.clock.advance(HOUR - 6 * SECOND);
    let last = aws.call(&strategy, &alice).await.unwrap();
    assert_eq!(last.session_token, first.session_token);

    aws.clock.advance(SECOND);
    let error = aws.call(&strategy, &alice).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert_eq!(aws.arrived().len(), 2);
}

#[tokio::test]
async fn f23_credentials_about_to_expire_are_not_used_where_fresh_ones_can_be_had() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    aws.call(&strategy, &alice).await.unwrap();
    for before_end in [34, 20, 6] {
        let first = aws.last();
        aws.clock.set(first.expires_at - before_end * SECOND);
        let fresh = aws.call(&strategy, &alice).await.unwrap();
        assert_ne!(fresh.session_token, first.session_token, "{before_end} s");
    }
}

#[tokio::test]
async fn f23_credentials_that_come_with_their_end_are_not_used() {
    let aws = AwsStack::start().await;
    let alice = user("alice", "t");
    for lifetime in [0, 5] {
        aws.sts.set_lifetime(lifetime * SECOND);
        let error = aws.call(&aws.strategy(), &alice).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(aws.arrived().is_empty());
    }
    aws.sts.set_lifetime(6 * SECOND);
    aws.call(&aws.strategy(), &alice).await.unwrap();
}

#[tokio::test]
async fn f09_an_expired_token_gets_no_signature_and_no_call_of_sts() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let now = aws
        .now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let alice = user_with("alice", "t", json!({ "exp": now + 600 }));
    aws.call(&strategy, &alice).await.unwrap();

    aws.clock.advance(600 * SECOND);
    let error = aws.call(&strategy, &alice).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Expired);
    assert_eq!((aws.sts.calls(), aws.arrived().len()), (1, 1));
}

#[tokio::test]
async fn the_users_own_token_or_an_upstreams_is_sent_to_sts() {
    let aws = AwsStack::start().await;
    let upstream = UpstreamToken::new(AccessToken::new("upstream-access").unwrap())
        .with_id_token(Secret::new("upstream-id").unwrap());
    let alice = Identity::builder("alice")
        .token(AccessToken::new("own").unwrap())
        .upstream("idp", upstream)
        .build()
        .unwrap();
    for (subject, token) in [
        (Subject::own_token(), "own"),
        (Subject::upstream("idp"), "upstream-access"),
        (Subject::upstream_id_token("idp"), "upstream-id"),
    ] {
        let strategy = aws.builder().subject(subject).build().unwrap();
        let session = aws.call(&strategy, &alice).await.unwrap();
        assert_eq!(session.web_identity_token, token);
    }
    let strategy = aws
        .builder()
        .subject(Subject::upstream("other"))
        .build()
        .unwrap();
    let error = aws.call(&strategy, &alice).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::MissingToken);
    assert_eq!(error.provider(), Some("other"));
}

#[tokio::test]
async fn f32_a_health_check_passes_without_a_signature() {
    let aws = AwsStack::start().await;
    let mut request = Request::get(aws.service.uri("/health"))
        .body(Body::default())
        .unwrap();
    request.extensions_mut().insert(HealthCheck);
    aws.send(&aws.strategy(), request).await.unwrap();
    assert!(!aws.arrived()[0].headers.contains_key("authorization"));
    assert_eq!(aws.sts.calls(), 0);
}

#[tokio::test]
async fn without_an_identity_nothing_is_sent() {
    let aws = AwsStack::start().await;
    let request = Request::get(aws.service.uri("/mcp"))
        .body(Body::default())
        .unwrap();
    let error = aws.send(&aws.strategy(), request).await.unwrap_err();
    assert_eq!(kind(&error), AuthErrorKind::MissingIdentity);
    assert_eq!((aws.sts.calls(), aws.arrived().len()), (0, 0));
}

#[tokio::test]
async fn f25_f26_only_host_content_type_and_amz_headers_are_signed() {
    let aws = AwsStack::start().await;
    let mut request = aws.request(&user("alice", "t"));
    for (name, value) in [
        ("accept", "application/json"),
        ("accept-encoding", "gzip"),
        ("content-length", "2"),
        ("content-type", "application/json"),
        ("mcp-session-id", "5f1c0f9e"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("user-agent", "gateway"),
        ("via", "1.1 gateway"),
        ("x-amz-meta-colour", "  blue   green "),
        ("x-amzn-trace-id", "Root=1"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    aws.send(&aws.strategy(), request).await.unwrap();

    aws.last();
    let signature = Signature::of(&aws.arrived()[0].headers);
    let expected = "content-type host x-amz-date x-amz-meta-colour x-amz-security-token";
    assert_eq!(signature.signed_headers.join(" "), expected);
    assert_eq!(aws.arrived()[0].headers["traceparent"].len(), 55);
}

#[tokio::test]
async fn hop_by_hop_headers_and_those_that_connection_names_are_removed_before_signing() {
    let aws = AwsStack::start().await;
    let recorded = support::recording::RecordingService::new();
    let strategy = aws.strategy();
    aws.call(&strategy, &user("alice", "t")).await.unwrap();
    let mut request = aws.request(&user("alice", "t"));
    for name in [
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-amz-named",
        "x-named",
        "x-stays",
        "x_amz-security_token",
        "x_amz_date",
    ] {
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static("1"));
    }
    let connection = request.headers_mut();
    connection.append("connection", HeaderValue::from_static("close, X-Named"));
    connection.append("connection", HeaderValue::from_static("x-amz-named ,, \t"));
    let layer = tower_identity::AuthLayer::new(aws.service.origin(), strategy);
    tower::Layer::layer(&layer, recorded.clone())
        .oneshot(request)
        .await
        .unwrap();

    let arrival = recorded.arrival();
    let mut names: Vec<_> = arrival.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "authorization",
            "connection",
            "host",
            "x-amz-date",
            "x-amz-security-token",
            "x-stays"
        ]
    );
    assert_eq!(arrival.headers["connection"], "close");
    let signature = Signature::of(&arrival.headers);
    assert_eq!(
        signature.signed_headers,
        ["host", "x-amz-date", "x-amz-security-token"]
    );
    assert!(arrival.headers["authorization"].is_sensitive());
    assert!(arrival.headers["x-amz-security-token"].is_sensitive());
}

#[tokio::test]
async fn f38_what_the_caller_says_of_credentials_is_replaced() {
    let aws = AwsStack::start().await;
    let mut request = aws.request(&user("alice", "t"));
    for name in [
        "authorization",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-content-sha256",
    ] {
        request
            .headers_mut()
            .append(name, HeaderValue::from_static("of-the-caller"));
        request
            .headers_mut()
            .append(name, HeaderValue::from_static("of-the-caller-too"));
    }
    aws.send(&aws.strategy(), request).await.unwrap();
    aws.last();
    assert!(
        !aws.arrived()[0]
            .headers
            .contains_key("x-amz-content-sha256")
    );
    assert_eq!(
        aws.arrived()[0]
            .headers
            .get_all("x-amz-date")
            .iter()
            .count(),
        1
    );
}

#[tokio::test]
async fn the_host_that_is_signed_is_the_one_that_is_sent() {
    let strategy = AwsStack::start().await;
    let aws = &strategy;
    let signer = aws.strategy();
    let alice = user("alice", "t");
    aws.call(&signer, &alice).await.unwrap();
    for (uri, host, authority) in [
        (
            "https://mcp.example.com/",
            "mcp.example.com",
            "mcp.example.com",
        ),
        (
            "https://mcp.example.com:443/",
            "mcp.example.com",
            "mcp.example.com",
        ),
        (
            "https://mcp.example.com:0443/",
            "mcp.example.com",
            "mcp.example.com",
        ),
        (
            "https://mcp.example.com:/",
            "mcp.example.com",
            "mcp.example.com",
        ),
        (
            "https://mcp.example.com:8443/",
            "mcp.example.com:8443",
            "mcp.example.com:8443",
        ),
        (
            "https://mcp.example.com:08443/",
            "mcp.example.com:8443",
            "mcp.example.com:8443",
        ),
        (
            "https://MCP.Example.com:80/",
            "MCP.Example.com:80",
            "MCP.Example.com:80",
        ),
        ("http://127.0.0.1:80/", "127.0.0.1", "127.0.0.1"),
        ("http://[::1]:8080/", "[::1]:8080", "[::1]:8080"),
        ("http://[::1]:80/", "[::1]", "[::1]"),
    ] {
        let mut request = Request::get(uri)
            .header("host", "was.there.example.com")
            .body(Body::default())
            .unwrap();
        request.extensions_mut().insert(alice.clone());
        let signed = signer.authenticated(request).await.unwrap();
        assert_eq!(
            signed.headers().get_all("host").iter().collect::<Vec<_>>(),
            [host],
            "{uri}"
        );
        assert_eq!(signed.uri().authority().unwrap(), authority, "{uri}");
        let session = aws.last();
        let arrived = support::sigv4::Arrived {
            method: signed.method().clone(),
            path: signed.uri().path().to_owned(),
            query: String::new(),
            headers: signed.headers().clone(),
            body: Vec::new(),
        };
        let signature = Signature::of(&arrived.headers);
        assert!(signature.is_by(&session.secret_access_key, &arrived, MOST_SERVICES));
    }
}

#[tokio::test]
async fn a_relative_uri_is_signed_for_its_host_header() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    let mut request = Request::get("/mcp?a=b")
        .header("host", "mcp.example.com")
        .body(Body::default())
        .unwrap();
    request.extensions_mut().insert(alice.clone());
    let signed = strategy.authenticated(request).await.unwrap();
    assert_eq!(signed.headers()["host"], "mcp.example.com");
    assert_eq!(signed.uri(), "/mcp?a=b");

    let mut request = Request::get("/mcp").body(Body::default()).unwrap();
    request.extensions_mut().insert(alice);
    let error = strategy.authenticated(request).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
}

#[tokio::test]
async fn a_query_that_grows_beyond_what_a_uri_can_be_is_refused_and_does_not_panic() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    for (piece, fits) in [
        ("!", false),
        ("%FF&", true),
        ("a&", true),
        ("%FF&", false),
        ("a&", false),
    ] {
        let length = if fits { 15_900 } else { 60_000 };
        let uri = format!(
            "https://mcp.example.com/?{}",
            piece.repeat(length / piece.len())
        );
        let mut request = Request::get(uri).body(Body::default()).unwrap();
        request.extensions_mut().insert(user("alice", "t"));
        let answer = strategy.authenticated(request).await;
        assert_eq!(
            answer.as_ref().err().map(|error| error.kind()),
            (!fits).then_some(AuthErrorKind::PayloadTooLarge)
        );
    }
}

#[tokio::test]
async fn a_path_of_16_000_bytes_is_signed_and_one_byte_more_is_not() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    for (length, fits) in [(16_000, true), (16_001, false)] {
        let path = "a".repeat(length - "/".len());
        let uri = format!("https://mcp.example.com/{path}");
        let mut request = Request::get(uri).body(Body::default()).unwrap();
        request.extensions_mut().insert(user("alice", "t"));
        assert_eq!(strategy.authenticated(request).await.is_ok(), fits);
    }
}

#[tokio::test]
async fn a_signed_header_that_is_not_text_is_an_error() {
    let aws = AwsStack::start().await;
    let mut request = aws.request(&user("alice", "t"));
    request
        .headers_mut()
        .insert("x-amz-meta-name", HeaderValue::from_bytes(b"\xff").unwrap());
    let error = aws.send(&aws.strategy(), request).await.unwrap_err();
    assert_eq!(kind(&error), AuthErrorKind::Configuration);
    assert!(error.to_string().contains("x-amz-meta-name"));
    assert!(aws.arrived().is_empty());
}

#[tokio::test]
async fn a_streamed_body_is_gathered_signed_and_sent_as_it_was() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    for pieces in [
        vec![],
        vec![&b""[..]],
        vec![b"one"],
        vec![b"o", b"", b"n", b"e"],
    ] {
        let body = Frames::pieces(pieces.iter().copied());
        aws.send(&strategy, aws.request_with(&alice, body))
            .await
            .unwrap();
        aws.last();
        assert_eq!(aws.arrived().last().unwrap().body, pieces.concat());
    }
    // One that is not there yet.
    let (mut sender, body) = http_body_util::channel::Channel::<Bytes, Infallible>::new(1);
    let body = Frames {
        frames: Box::pin(body.map_err(|error| match error {})),
        hint: SizeHint::default(),
    };
    let sending = async {
        for piece in ["later", " ", "on"] {
            tokio::task::yield_now().await;
            sender.send_data(Bytes::from(piece)).await.unwrap();
        }
        drop(sender);
    };
    let (answer, ()) = tokio::join!(aws.send(&strategy, aws.request_with(&alice, body)), sending);
    answer.unwrap();
    aws.last();
    assert_eq!(aws.arrived().last().unwrap().body, b"later on");
}

#[tokio::test]
async fn trailers_are_passed_on() {
    let aws = AwsStack::start().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("1a2b"));
    let body = || {
        Frames::new([
            Frame::data(Bytes::from("data")),
            Frame::trailers(trailers.clone()),
        ])
    };
    let request = || {
        let mut request = aws.request_with(&user("alice", "t"), body());
        request
            .headers_mut()
            .insert("trailer", HeaderValue::from_static("x-checksum"));
        request
    };
    let strategy = aws
        .builder()
        .body_with_trailers(|gathered| Frames {
            hint: gathered.size_hint(),
            frames: Box::pin(gathered.map_err(|error| match error {})),
        })
        .build()
        .unwrap();
    aws.send(&strategy, request()).await.unwrap();
    aws.last();
    assert_eq!(aws.arrived()[0].body, b"data");
    assert_eq!(aws.trailers().unwrap(), trailers);

    // What is said of its length does not keep them from being sent.
    let body = Arc::new(Mutex::new(None));
    let keeps = body.clone();
    let strategy = aws
        .builder()
        .body_with_trailers(move |gathered| {
            *keeps.lock().unwrap() = Some(gathered);
            Frames::new([])
        })
        .build()
        .unwrap();
    strategy.authenticated(request()).await.unwrap();
    let mut body = body.lock().unwrap().take().unwrap();
    let hint = body.size_hint();
    assert_eq!((hint.lower(), hint.upper()), (4, None));
    for _ in 0..2 {
        assert!(!body.is_end_stream());
        body.frame().await.unwrap().unwrap();
    }
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));

    // Rather than lose them.
    let error = aws.send(&aws.strategy(), request()).await.unwrap_err();
    assert_eq!(kind(&error), AuthErrorKind::Configuration);
    assert_eq!(aws.arrived().len(), 1);
}

#[cfg(feature = "reqwest")]
#[tokio::test]
async fn trailers_of_reqwests_body_are_passed_on() {
    let aws = AwsStack::start().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("1a2b"));
    let frames = [
        Frame::data(Bytes::from("data")),
        Frame::trailers(trailers.clone()),
    ];
    let frames: Vec<Result<_, io::Error>> = frames.into_iter().map(Ok).collect();
    let body = reqwest::Body::wrap(StreamBody::new(stream::iter(frames)));
    let signed = aws
        .strategy()
        .authenticated(aws.request_with(&user("alice", "t"), body))
        .await
        .unwrap();
    let sent = signed.into_body().collect().await.unwrap();
    assert_eq!(sent.trailers(), Some(&trailers));
    assert_eq!(sent.to_bytes(), "data");
}

#[tokio::test]
async fn a_body_that_is_too_large_or_lies_is_refused_before_anything_is_sent() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let whole = vec![b'a'; 10 * MIB];
    let more = vec![b'a'; 10 * MIB + 1];
    let too_large: Vec<(Frames, Option<&str>)> = vec![
        (Frames::pieces([&more[..]]), None),
        (Frames::pieces([&whole[..], b"a"]), None),
        (Frames::pieces([&more[..]]).saying(5), None),
        (Frames::pieces([&b"a"[..]]).saying(more.len() as u64), None),
        (Frames::pieces([&b"a"[..]]).saying(2), None),
        (Frames::pieces([&b"abc"[..]]).saying(2), None),
        (Frames::pieces([&b"a"[..]]), Some("2")),
        (Frames::pieces([&b"abc"[..]]), Some("2")),
        (Frames::pieces([&b"abc"[..]]), Some("-3")),
        (Frames::pieces([&b"abc"[..]]), Some("99999999999999999999")),
        (Frames::pieces([&b"abc"[..]]), Some("10485761")),
        (Frames::pieces([]), Some("1")),
        (Frames::pieces([]).saying(1), None),
    ];
    for (number, (body, length)) in too_large.into_iter().enumerate() {
        let mut request = aws.request_with(&user("alice", "t"), body);
        if let Some(length) = length {
            request
                .headers_mut()
                .insert("content-length", length.parse().unwrap());
        }
        let error = strategy.authenticated(request).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::PayloadTooLarge, "{number}");
    }
    assert_eq!(aws.sts.calls(), 0);

    // One that says no more than how long it can get.
    let mut loose = SizeHint::new();
    loose.set_upper(100);
    let body = Frames {
        hint: loose,
        ..Frames::pieces([&b"abc"[..]])
    };
    aws.strategy()
        .authenticated(aws.request_with(&user("alice", "t"), body))
        .await
        .unwrap();

    let body = Frames::pieces(whole.chunks(MIB)).saying(whole.len() as u64);
    aws.send(&strategy, aws.request_with(&user("alice", "t"), body))
        .await
        .unwrap();
    aws.last();
    assert_eq!(aws.arrived()[0].body.len(), whole.len());
}

#[tokio::test]
async fn the_error_tells_a_body_that_is_too_large_from_one_that_lies() {
    let aws = AwsStack::start().await;
    let more = 10 * MIB + 1;
    let unread = stream::poll_fn(|_| -> Poll<Option<io::Result<Frame<Bytes>>>> {
        panic!("it is read");
    });
    let unread = Frames {
        frames: Box::pin(StreamBody::new(unread)),
        hint: SizeHint::with_exact(more as u64),
    };
    for (body, said) in [
        (unread, "larger than the 10 MiB"),
        (
            Frames::pieces([&vec![b'a'; more][..]]),
            "larger than the 10 MiB",
        ),
        (Frames::pieces([&b"abc"[..]]).saying(2), "not as long as"),
    ] {
        let request = aws.request_with(&user("alice", "t"), body);
        let error = aws.strategy().authenticated(request).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn an_endless_body_is_given_up_at_10_mib() {
    let aws = AwsStack::start().await;
    let frames =
        stream::repeat_with(|| Ok::<_, io::Error>(Frame::data(Bytes::from(vec![b'a'; MIB]))));
    let body = Frames {
        frames: Box::pin(StreamBody::new(frames)),
        hint: SizeHint::default(),
    };
    let error = aws
        .strategy()
        .authenticated(aws.request_with(&user("alice", "t"), body))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::PayloadTooLarge);
}

#[tokio::test]
async fn a_body_that_breaks_off_is_not_sent() {
    let aws = AwsStack::start().await;
    let frames = [
        Ok(Frame::data(Bytes::from("a"))),
        Err(io::Error::other("gone")),
    ];
    let body = Frames {
        frames: Box::pin(StreamBody::new(stream::iter(frames))),
        hint: SizeHint::default(),
    };
    let error = aws
        .send(&aws.strategy(), aws.request_with(&user("alice", "t"), body))
        .await
        .unwrap_err();
    assert_eq!(kind(&error), AuthErrorKind::Unavailable);
    assert_eq!((aws.sts.calls(), aws.arrived().len()), (0, 0));
}

#[tokio::test]
async fn a_body_in_memory_is_passed_on_without_a_copy() {
    let aws = AwsStack::start().await;
    let bytes = Bytes::from(vec![b'a'; MIB]);
    let body: Body = Full::from(bytes.clone());
    let request = aws.request_with(&user("alice", "t"), body);
    let signed = aws.strategy().authenticated(request).await.unwrap();
    let sent = signed.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(sent.as_ptr(), bytes.as_ptr());
}

#[tokio::test]
async fn a_request_is_signed_at_once_where_credentials_are_at_hand() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    assert!(
        strategy
            .authenticated(aws.request(&alice))
            .now_or_never()
            .is_none()
    );
    aws.call(&strategy, &alice).await.unwrap();
    let mut request = aws.request(&alice);
    let signed = strategy.authenticate(&mut request);
    assert_eq!(format!("{signed:?}"), "Authenticating(done)");
    assert!(request.headers().contains_key("authorization"));
}

#[tokio::test]
async fn answers_of_sts_have_the_kind_that_says_what_to_do() {
    let aws = AwsStack::start().await;
    let table = [
        (400, "ExpiredTokenException", AuthErrorKind::Rejected),
        (400, "ExpiredToken", AuthErrorKind::Rejected),
        (400, "InvalidIdentityToken", AuthErrorKind::Rejected),
        (403, "IDPRejectedClaim", AuthErrorKind::Rejected),
        (403, "AccessDenied", AuthErrorKind::InsufficientScope),
        (400, "IDPCommunicationError", AuthErrorKind::Unavailable),
        (400, "Throttling", AuthErrorKind::Unavailable),
        (429, "TooManyRequests", AuthErrorKind::Unavailable),
        (500, "InternalFailure", AuthErrorKind::Unavailable),
        (503, "What", AuthErrorKind::Unavailable),
        (400, "ValidationError", AuthErrorKind::Configuration),
        (400, "MalformedPolicyDocument", AuthErrorKind::Configuration),
        (400, "PackedPolicyTooLarge", AuthErrorKind::Configuration),
        (403, "RegionDisabledException", AuthErrorKind::Configuration),
        (418, "Teapot-hush-token", AuthErrorKind::Configuration),
        (307, "Moved", AuthErrorKind::Configuration),
    ];
    for (number, (status, code, kind)) in table.into_iter().enumerate() {
        aws.sts.script([Behaviour::error(status, code)]);
        let token = format!("hush-token-{number}");
        let error = aws
            .call(&aws.strategy(), &user("alice", &token))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        assert_eq!(aws.sts.calls(), number + 1, "the SDK does not try again");
        assert!(!format!("{error:?} {error}").contains("hush"), "{error:?}");
    }
    for body in [
        "",
        "<",
        "<html/>",
        "{}",
        "<AssumeRoleWithWebIdentityResponse/>",
    ] {
        aws.sts.script([Behaviour::body(200, body)]);
        let error = aws
            .call(&aws.strategy(), &user("alice", "t"))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable, "{body}");
    }
    aws.sts.script([Behaviour::body(200, vec![b'<'; 2 * MIB])]);
    let error = aws
        .call(&aws.strategy(), &user("alice", "t"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert!(aws.arrived().is_empty());
}

/// What AWS documents that it answers, with its sources.
fn documented(answers: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string("tests/data/issuer_answers.json").unwrap();
    let data: serde_json::Value = serde_json::from_str(&text).unwrap();
    data[answers].as_array().unwrap().clone()
}

#[tokio::test]
async fn f48_each_documented_answer_of_sts_is_told_to_those_who_can_do_something_about_it() {
    let aws = AwsStack::start().await;
    let answers = documented("aws_sts");
    assert_eq!(answers.len(), 36);
    for answer in answers {
        let name = answer["name"].as_str().unwrap();
        let status = answer["status"].as_u64().unwrap() as u16;
        let body = answer["body"].as_str().unwrap();
        let expected = match answer["expected"]["kind"].as_str().unwrap() {
            "configuration" => AuthErrorKind::Configuration,
            "insufficient_scope" => AuthErrorKind::InsufficientScope,
            "rejected" => AuthErrorKind::Rejected,
            "unavailable" => AuthErrorKind::Unavailable,
            other => panic!("{other}"),
        };
        aws.sts.script([Behaviour::body(status, body.to_owned())]);
        let error = aws
            .call(&aws.strategy(), &user("alice", name))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), expected, "{name}: {error}");
        assert!(error.interaction().is_none(), "{name}: {error}");
        assert!(error.oauth_error().is_none(), "{name}: {error}");
        let message = answer["message"].as_str().unwrap();
        let said = format!("{error} {error:?}");
        assert!(!said.contains(message), "{name}: {error}");
        assert!(!said.contains("issuer.example"), "{name}: {error}");
    }
    assert!(aws.arrived().is_empty());
}

#[tokio::test]
async fn f48_no_answer_of_sts_that_was_spoiled_panics_or_is_shown() {
    let aws = AwsStack::start().await;
    let answer = &documented("aws_sts")[0];
    let body = answer["body"].as_str().unwrap();
    let nested = format!("{}hush{}", "<a>".repeat(10_000), "</a>".repeat(10_000));
    let spoiled = [
        body[..body.len() / 2].to_owned(),
        body.replace("InvalidIdentityToken", "Hush\u{7}\u{1b}[31m"),
        body.replace("InvalidIdentityToken", &"hush".repeat(10_000)),
        body.replace("No OpenIDConnect", "&#x0;hush"),
        body.replace("InvalidIdentityToken", "<Code>hush</Code>"),
        body.replace("InvalidIdentityToken", &nested),
        nested,
        "x".repeat(2 * MIB),
        r#"{"Error":{"Code":"hush"}}"#.to_owned(),
    ];
    for (number, body) in spoiled.into_iter().enumerate() {
        aws.sts.script([Behaviour::body(400, body)]);
        let error = aws
            .call(&aws.strategy(), &user("alice", "t"))
            .await
            .unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(
            said.len() < 1_000 && !said.contains("hush"),
            "{number}: {said}"
        );
        assert!(
            !said.contains("Hush") && !said.contains('\u{1b}'),
            "{number}: {said}"
        );
    }
}

const READ_ONLY: &str = "arn:aws:iam::aws:policy/ReadOnlyAccess";

#[tokio::test]
async fn sts_is_told_the_session_policies() {
    let aws = AwsStack::start().await;
    let policy = r#"{"Version":"2012-10-17","Statement":[]}"#;
    let strategy = aws
        .builder()
        .session_policy(policy)
        .session_policy_arn(READ_ONLY)
        .session_policy_arn("arn:aws:iam::123456789012:policy/team/Limits")
        .build()
        .unwrap();
    aws.call(&strategy, &user("alice", "t")).await.unwrap();
    let form = &aws.sts.asked()[0].form;
    assert_eq!(form["Policy"], policy);
    assert_eq!(form["PolicyArns.member.1.arn"], READ_ONLY);
    assert_eq!(
        form["PolicyArns.member.2.arn"],
        "arn:aws:iam::123456789012:policy/team/Limits"
    );

    aws.call(&aws.strategy(), &user("alice", "t"))
        .await
        .unwrap();
    let form = &aws.sts.asked()[1].form;
    assert!(
        !form.keys().any(|name| name.starts_with("Policy")),
        "{form:?}"
    );
}

#[tokio::test]
async fn a_session_policy_may_be_a_claim_and_users_without_it_are_refused() {
    let aws = AwsStack::start().await;
    let strategy = aws
        .builder()
        .session_policy_claim("aws_policy")
        .build()
        .unwrap();
    let object = json!({ "Version": "2012-10-17", "Statement": [] });
    let text = object.to_string();
    let longest = format!("{{{}}}", " ".repeat(2_046));
    let alice = |policy| user_with("alice", "t", json!({ "aws_policy": policy }));
    for (policy, sent) in [
        (object.clone(), &text),
        (json!(text), &text),
        (json!(longest), &longest),
    ] {
        aws.call(&strategy, &alice(policy)).await.unwrap();
        assert_eq!(&aws.sts.asked().last().unwrap().form["Policy"], sent);
    }
    // The first two are one policy of one user, so one session.
    assert_eq!(aws.sts.calls(), 2);

    let too_long = format!("{{{}}}", " ".repeat(2_047));
    for unfit in [
        json!(too_long),
        json!(""),
        json!("hush"),
        json!("[]"),
        json!("{\"hush\":"),
        json!("{\"a\":\"\u{7f}\u{100}\"}"),
        json!({ "hush": "\u{100}" }),
        json!({ "hush": "h".repeat(2_048) }),
        json!(["{}"]),
        json!(1),
        json!(null),
    ] {
        let error = aws.call(&strategy, &alice(unfit)).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Configuration);
        assert!(error.to_string().contains("`aws_policy`"), "{error}");
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }
    let error = aws.call(&strategy, &user("alice", "t")).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Configuration);
    assert_eq!(aws.sts.calls(), 2);
}

#[tokio::test]
async fn a_session_policy_that_aws_would_not_accept_is_refused_at_construction() {
    let aws = AwsStack::start().await;
    let setting = |builder: AwsStsBuilder| {
        let error = builder.build().unwrap_err();
        assert_eq!(error.invalid_settings().len(), 1, "{error}");
        error.invalid_settings()[0].setting().to_owned()
    };
    let too_long = format!("{{{}}}", " ".repeat(2_047));
    for policy in ["", "hush", "[]", "{", "{\"a\":\"\u{100}\"}", &too_long] {
        assert_eq!(
            setting(aws.builder().session_policy(policy)),
            "session_policy"
        );
    }
    for claim in ["", " "] {
        let builder = aws.builder().session_policy_claim(claim);
        assert_eq!(setting(builder), "session_policy_claim");
    }
    let both = aws.builder().session_policy("{}").session_policy_claim("p");
    assert_eq!(setting(both), "session_policy_claim");
    for arn in [
        "",
        "ReadOnlyAccess",
        "arn:aws:iam::123456789012:role/Admin",
        "arn:aws:iam::12345:policy/A",
        "arn:aws:iam::aws:policy/",
        "arn:aws:iam::aws:policy//A",
        "arn:aws:iam:eu-west-1:aws:policy/A",
        "arn:aws:s3:::policy/A",
        "arn:aws:iam::aws:policy/A b",
    ] {
        let builder = aws
            .builder()
            .session_policy_arn(READ_ONLY)
            .session_policy_arn(arn);
        assert_eq!(setting(builder), "session_policy_arn[1]", "{arn}");
    }
    let ten = (0..10).fold(aws.builder(), |builder, _| {
        builder.session_policy_arn(READ_ONLY)
    });
    let eleven = (0..11).fold(aws.builder(), |builder, _| {
        builder.session_policy_arn(READ_ONLY)
    });
    ten.build().unwrap();
    assert_eq!(setting(eleven), "session_policy_arn");
}

#[tokio::test]
async fn a_user_whose_token_lacks_a_required_session_tag_is_refused_before_sts_is_asked() {
    let aws = AwsStack::start().await;
    let strategy = aws
        .builder()
        .required_session_tag("Department")
        .build()
        .unwrap();
    let tagged = |tags| user_with("alice", "t", json!({ "https://aws.amazon.com/tags": tags }));
    let tag = |key: &str, value| json!({ "principal_tags": { key: value } });
    let many = |count: usize| {
        let mut tags: serde_json::Map<_, _> = (1..count)
            .map(|number| (format!("t{number}"), json!(["x"])))
            .collect();
        tags.insert("Department".into(), json!(["x"]));
        json!({ "principal_tags": tags })
    };
    for tags in [
        tag("Department", json!(["Research"])),
        tag("department", json!("Research")),
        tag("DEPARTMENT", json!([""])),
        tag("Department", json!(["ü 日 _.:/=+-@1"])),
        tag("Department", json!(["x".repeat(256)])),
        json!([tag("Department", json!(["Research"]))]),
        json!({
            "principal_tags": { "Department": ["x"], "b": ["y"] },
            "transitive_tag_keys": ["department", "b"],
        }),
        many(50),
    ] {
        aws.call(&strategy, &tagged(tags.clone())).await.unwrap();
    }
    let flat = json!({
        "https://aws.amazon.com/tags/principal_tags/Department": "Research",
        "https://aws.amazon.com/tags/transitive_tag_keys": ["Department"],
    });
    aws.call(&strategy, &user_with("alice", "t", flat))
        .await
        .unwrap();
    let calls = aws.sts.calls();

    let mut missing = vec![user("alice", "t"), tagged(json!({}))];
    missing.push(tagged(tag("Team", json!(["Research"]))));
    missing.push(user_with("alice", "t", json!({ "Department": "Research" })));
    for user in missing {
        let error = aws.call(&strategy, &user).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::InsufficientScope, "{error}");
        assert!(error.to_string().contains("`Department`"), "{error}");
    }
    let department = json!(["hush"]);
    for tags in [
        json!("hush"),
        json!(null),
        json!([]),
        json!({ "principal_tags": ["Department"] }),
        tag("Department", json!(1)),
        tag("Department", json!([])),
        tag("Department", json!(["hush", "hush"])),
        tag("Department", json!(["hush!"])),
        tag("Department", json!(["hu\tsh"])),
        tag("Department", json!(["x".repeat(257)])),
        json!({ "principal_tags": { "Department": department, "department": department } }),
        json!({ "principal_tags": { "Department": department, "": department } }),
        json!({ "principal_tags": { "Department": department, "aws:hush": department } }),
        json!({ "principal_tags": { "Department": department, "x".repeat(129): department } }),
        json!({ "principal_tags": { "Department": department }, "transitive_tag_keys": ["hush"] }),
        json!({ "principal_tags": { "Department": department }, "transitive_tag_keys": [1] }),
        json!({ "principal_tags": { "Department": department }, "transitive_tag_keys": {} }),
        many(51),
    ] {
        let error = aws
            .call(&strategy, &tagged(tags.clone()))
            .await
            .unwrap_err();
        assert_eq!(
            error.kind(),
            AuthErrorKind::Configuration,
            "{tags}: {error}"
        );
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        // Where no tag is required, they are between the issuer and AWS.
        aws.call(&aws.strategy(), &tagged(tags)).await.unwrap();
    }
    assert_eq!(aws.sts.calls(), calls + 18);
    for builder in [
        aws.builder().required_session_tag(""),
        aws.builder().required_session_tag("a!"),
        aws.builder().required_session_tag("aws:x"),
        aws.builder().required_session_tag("x".repeat(129)),
        aws.builder()
            .required_session_tag("a")
            .subject(Subject::upstream("idp")),
        (0..51).fold(aws.builder(), |builder, _| {
            builder.required_session_tag("a")
        }),
    ] {
        let error = builder.build().unwrap_err();
        let setting = error.invalid_settings()[0].setting();
        assert!(setting.starts_with("required_session_tag"), "{error}");
    }
}

#[tokio::test]
async fn f53_an_unsigned_body_of_any_length_is_sent_as_it_arrives() {
    let aws = AwsStack::start().await;
    let strategy = aws
        .builder()
        .service("s3")
        .payload_hash(PayloadHash::Unsigned)
        .build()
        .unwrap();
    let alice = user("alice", "t");
    let piece = vec![7; MIB];
    let body = Frames::pieces(vec![&piece[..]; 11]);
    aws.send(&strategy, aws.request_with(&alice, body))
        .await
        .unwrap();
    let arrived = aws.arrived().pop().unwrap();
    assert_eq!(arrived.body.len(), 11 * MIB);
    assert_eq!(arrived.headers["x-amz-content-sha256"], "UNSIGNED-PAYLOAD");
    let signature = Signature::of(&arrived.headers);
    let is_signed = |name: &String| name == "x-amz-content-sha256";
    assert!(signature.signed_headers.iter().any(is_signed));
    let session = aws.sts.session(&signature.access_key_id).unwrap();
    assert!(signature.is_by(&session.secret_access_key, &arrived, S3));

    // Trailers that are announced are sent, too.
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("abc"));
    let body = Frames::new([
        Frame::data(Bytes::from_static(b"data")),
        Frame::trailers(trailers.clone()),
    ]);
    let mut request = aws.request_with(&alice, body);
    let announced = HeaderValue::from_static("x-checksum");
    request.headers_mut().insert("trailer", announced);
    aws.send(&strategy, request).await.unwrap();
    assert_eq!(aws.trailers(), Some(trailers));
}

#[tokio::test]
async fn credentials_that_cannot_sign_are_an_outage_of_sts_and_not_kept() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    let unusable = [
        ("", "secret", "token"),
        ("\u{feff}ASIA0000000000000001", "secret", "token"),
        ("ASIA0000000000000001/x, y=", "secret", "token"),
        ("ASIA0000000000000001", "", "token"),
        ("ASIA0000000000000001", "secret", ""),
        ("ASIA0000000000000001", "secret", "to\nken"),
    ];
    for (number, (id, secret, token)) in unusable.into_iter().enumerate() {
        aws.sts.script_credentials(id, secret, token);
        let error = aws.call(&strategy, &alice).await.unwrap_err();
        assert_eq!(
            error.kind(),
            AuthErrorKind::Unavailable,
            "{number}: {error}"
        );
        assert_eq!(aws.sts.calls(), number + 1);
        aws.clock.advance(61 * SECOND);
    }
    assert!(aws.arrived().is_empty());
    aws.call(&strategy, &alice).await.unwrap();
}

#[tokio::test]
async fn throttling_backs_off_and_a_rejected_token_is_not_asked_for_again() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let (alice, bob) = (user("alice", "a"), user("bob", "b"));
    aws.sts
        .script([Behaviour::error(503, "Throttling").header("retry-after", "90")]);
    for _ in 0..5 {
        let error = aws.call(&strategy, &alice).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Unavailable);
        assert!(error.retry_after().unwrap() > 80 * SECOND);
    }
    assert_eq!(aws.sts.calls(), 1);
    aws.clock.advance(89 * SECOND);
    aws.call(&strategy, &alice).await.unwrap_err();
    assert_eq!(aws.sts.calls(), 1);
    aws.clock.advance(2 * SECOND);
    aws.call(&strategy, &alice).await.unwrap();

    aws.sts
        .script([Behaviour::error(400, "ExpiredTokenException")]);
    for _ in 0..5 {
        let error = aws.call(&strategy, &bob).await.unwrap_err();
        assert_eq!(error.kind(), AuthErrorKind::Rejected);
    }
    assert_eq!(aws.sts.calls(), 3);
    aws.clock.advance(10 * SECOND);
    aws.call(&strategy, &bob).await.unwrap();
}

#[tokio::test]
async fn when_to_try_again_is_told_only_where_that_may_help() {
    let aws = AwsStack::start().await;
    for (status, code, waits) in [
        (503, "ServiceUnavailable", true),
        (400, "ExpiredTokenException", false),
        (403, "AccessDenied", false),
    ] {
        aws.sts
            .script([Behaviour::error(status, code).header("retry-after", "90")]);
        let error = aws
            .call(&aws.strategy(), &user("alice", "t"))
            .await
            .unwrap_err();
        assert_eq!(error.retry_after().is_some(), waits, "{error}");
    }
}

#[tokio::test]
async fn an_sts_that_is_not_there_is_unavailable() {
    let aws = AwsStack::start().await;
    let strategy = aws
        .builder()
        .sts_endpoint("http://127.0.0.1:1")
        .build()
        .unwrap();
    let error = aws.call(&strategy, &user("alice", "t")).await.unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Unavailable);
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn a_token_that_sts_would_not_take_is_not_sent() {
    let aws = AwsStack::start().await;
    let error = aws
        .call(&aws.strategy(), &user("alice", &"t".repeat(20_001)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), AuthErrorKind::Rejected);
    assert_eq!(aws.sts.calls(), 0);
    aws.call(&aws.strategy(), &user("alice", &"t".repeat(20_000)))
        .await
        .unwrap();
}

#[tokio::test]
async fn sts_is_the_regional_endpoint_in_every_partition() {
    for (region, host) in [
        ("eu-west-1", "sts.eu-west-1.amazonaws.com"),
        ("us-east-1", "sts.us-east-1.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
        ("us-iso-east-1", "sts.us-iso-east-1.c2s.ic.gov"),
        ("us-isob-east-1", "sts.us-isob-east-1.sc2s.sgov.gov"),
        ("eusc-de-east-1", "sts.eusc-de-east-1.amazonaws.eu"),
    ] {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let keeps = asked.clone();
        let client = tower::service_fn(move |request: Request<Body>| {
            keeps.lock().unwrap().push(request.uri().clone());
            async { Err::<http::Response<Body>, _>(io::Error::other("not today")) }
        });
        let strategy = AwsSts::builder(region, client)
            .fallback_role(DEFAULT_ROLE)
            .build()
            .unwrap();
        let mut request = Request::get("https://mcp.example.com/")
            .body(Body::default())
            .unwrap();
        request.extensions_mut().insert(user("alice", "t"));
        strategy.authenticated(request).await.unwrap_err();
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].to_string(), format!("https://{host}/"));
    }
}

#[tokio::test]
async fn a_rejected_session_is_replaced_and_the_call_sent_once_more() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    let rejected = aws.call(&strategy, &alice).await.unwrap();
    let service = {
        let first = rejected.session_token.clone();
        tower::service_fn(move |request: Request<Body>| {
            let is_rejected = request.headers()["x-amz-security-token"] == first;
            let status = if is_rejected { 401 } else { 200 };
            async move {
                Ok::<_, BoxError>(
                    http::Response::builder()
                        .status(status)
                        .body(Body::default())
                        .unwrap(),
                )
            }
        })
    };
    let client = ServiceBuilder::new()
        .layer(IdentityLayer::new(None))
        .layer(AuthLayer::new(aws.service.origin(), strategy).retry_rejected())
        .service(service);
    let answer = client.oneshot(aws.request(&alice)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(aws.sts.calls(), 2);
}

/// A service that rejects the sessions it is told to, in its own words.
#[derive(Clone, Default)]
struct Service {
    state: Arc<Mutex<ServiceState>>,
}

#[derive(Default)]
struct ServiceState {
    rejected: HashSet<HeaderValue>,
    answer: http::Response<Bytes>,
    calls: usize,
}

impl Service {
    /// Rejects all sessions that it has seen, with this answer.
    fn reject(&self, answer: http::Response<Bytes>) {
        self.state.lock().unwrap().answer = answer;
    }

    fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }

    fn answer(&self, request: &Request<Body>, rejects_all: bool) -> http::Response<Body> {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        let token = request.headers()["x-amz-security-token"].clone();
        let is_first = state.rejected.is_empty();
        if rejects_all || is_first || state.rejected.contains(&token) {
            state.rejected.insert(token);
            return state.answer.clone().map(Full::from);
        }
        http::Response::new(Full::from("accepted"))
    }

    fn client(&self, aws: &AwsStack, strategy: &AwsSts, rejects_all: bool) -> Client {
        let service = self.clone();
        let answer = move |request: Request<Body>| {
            let answer = service.answer(&request, rejects_all);
            async { Ok::<_, BoxError>(answer) }
        };
        ServiceBuilder::new()
            .boxed_clone()
            .layer(AuthLayer::new(aws.service.origin(), strategy.clone()).retry_rejected())
            .service(tower::service_fn(answer))
    }
}

type Client =
    tower::util::BoxCloneService<Request<Body>, http::Response<PeekedBody<Body>>, BoxError>;

fn answer_of(rejection: &serde_json::Value) -> http::Response<Bytes> {
    let status = rejection["status"].as_u64().unwrap() as u16;
    let mut answer = http::Response::builder().status(status);
    for (name, value) in rejection["headers"].as_object().unwrap() {
        answer = answer.header(name, value.as_str().unwrap());
    }
    let body = rejection["body"].as_str().unwrap().to_owned();
    answer.body(Bytes::from(body)).unwrap()
}

async fn whole(answer: http::Response<PeekedBody<Body>>) -> (u16, Bytes) {
    let (head, body) = answer.into_parts();
    (
        head.status.as_u16(),
        body.collect().await.unwrap().to_bytes(),
    )
}

#[tokio::test]
async fn f47_a_session_is_replaced_after_each_documented_answer_that_speaks_of_it() {
    let answers = documented("aws_rejections");
    assert_eq!(answers.len(), 43);
    let aws = AwsStack::start().await;
    for rejection in answers {
        let name = rejection["name"].as_str().unwrap();
        let (strategy, service) = (aws.strategy(), Service::default());
        let client = service.client(&aws, &strategy, false);
        let mut request = aws.request(&user("alice", name));
        if name.contains("_head_") {
            *request.method_mut() = Method::HEAD;
        }
        let answer = answer_of(&rejection);
        service.reject(answer.clone());
        let calls = aws.sts.calls();
        let got = whole(client.oneshot(request).await.unwrap()).await;
        // An answer that says nothing is taken for the session's, at first.
        if rejection["session"].as_bool().unwrap_or(true) {
            assert_eq!(got, (200, "accepted".into()), "{name}");
            assert_eq!(aws.sts.calls() - calls, 2, "{name}");
        } else {
            let status = answer.status().as_u16();
            assert_eq!(got, (status, answer.into_body()), "{name}");
            assert_eq!(aws.sts.calls() - calls, 1, "{name}");
            assert_eq!(service.calls(), 1, "{name}");
        }
    }
}

#[tokio::test]
async fn f47_an_answer_that_says_nothing_replaces_a_session_at_most_once_a_minute() {
    let aws = AwsStack::start().await;
    let is_unclear = |answer: &serde_json::Value| {
        let code = answer["code"].as_str().unwrap_or_default();
        answer["session"].is_null() || ["AuthFailure", "RequestExpired"].contains(&code)
    };
    let unclear = documented("aws_rejections").into_iter().filter(is_unclear);
    for rejection in unclear {
        let name = rejection["name"].as_str().unwrap();
        let (strategy, service) = (aws.strategy(), Service::default());
        let client = service.client(&aws, &strategy, true);
        let answer = answer_of(&rejection);
        service.reject(answer.clone());
        let calls = aws.sts.calls();
        let call = async |user: &Identity| {
            let mut request = aws.request(user);
            if name.contains("_head_") {
                *request.method_mut() = Method::HEAD;
            }
            let got = whole(client.clone().oneshot(request).await.unwrap()).await;
            let expected = answer.clone().map(Bytes::from);
            assert_eq!(
                got,
                (expected.status().as_u16(), expected.into_body()),
                "{name}"
            );
            aws.sts.calls() - calls
        };
        let alice = user("alice", name);
        assert_eq!(call(&alice).await, 2, "{name}");
        for _ in 0..20 {
            assert_eq!(call(&alice).await, 2, "{name}");
        }
        aws.clock.advance(59 * SECOND);
        assert_eq!(call(&alice).await, 2, "{name}");
        // Another user's session is another.
        assert_eq!(call(&user("bob", name)).await, 4, "{name}");
        aws.clock.advance(SECOND);
        assert_eq!(call(&alice).await, 5, "{name}");
        assert_eq!(call(&alice).await, 5, "{name}");
    }
}

#[tokio::test]
async fn f47_many_that_were_rejected_without_a_word_use_the_one_session_that_replaced_theirs() {
    let aws = AwsStack::start().await;
    let (strategy, service) = (aws.strategy(), Service::default());
    let client = service.client(&aws, &strategy, false);
    service.reject(
        http::Response::builder()
            .status(403)
            .body(Bytes::new())
            .unwrap(),
    );
    let alice = user("alice", "t");
    let layer = AuthLayer::new(aws.service.origin(), strategy.clone());
    // Those that wait for the answer to the first session.
    let signed = strategy.authenticated(aws.request(&alice)).await.unwrap();
    drop((layer, signed));
    let calls = (0..20).map(|_| client.clone().oneshot(aws.request(&alice)));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(aws.sts.calls(), 2);
}

#[tokio::test]
async fn f47_a_401_that_says_nothing_of_the_session_replaces_it_too() {
    let aws = AwsStack::start().await;
    for error_type in ["", "SomethingNew", "UnauthorizedException"] {
        let (strategy, service) = (aws.strategy(), Service::default());
        let client = service.client(&aws, &strategy, false);
        let answer = http::Response::builder()
            .status(401)
            .header("x-amzn-errortype", error_type);
        service.reject(answer.body(Bytes::new()).unwrap());
        let answer = client
            .oneshot(aws.request(&user("alice", "t")))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{error_type}");
    }
}

#[tokio::test]
async fn f47_no_answer_that_was_spoiled_panics_and_each_is_passed_on_unchanged() {
    let aws = AwsStack::start().await;
    let nested =
        |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let after = |length: usize| {
        format!(
            "{{\"a\":\"{}\",\"__type\":\"ExpiredToken\"}}",
            "x".repeat(length)
        )
    };
    let spoiled = [
        "{\"__type\":\"Exp".to_owned(),
        "{\"__type\":[\"ExpiredToken\"]}".to_owned(),
        "{\"__type\":{\"__type\":\"ExpiredToken\"}}".to_owned(),
        "{\"error\":{\"__type\":\"ExpiredToken\"}}".to_owned(),
        "{\"__type\":\"ExpiredToken\u{7}\"}".to_owned(),
        "[\"ExpiredToken\"]".to_owned(),
        "ExpiredToken".to_owned(),
        "<Error><Code>ExpiredTok".to_owned(),
        "<Error><Code></Code></Error>".to_owned(),
        "<Error><Message><Code>ExpiredToken</Code></Message></Error>".to_owned(),
        "<Error><!-- <Code>ExpiredToken</Code> --></Error>".to_owned(),
        "<Error><Message><![CDATA[<Code>ExpiredToken</Code>]]></Message></Error>".to_owned(),
        "<Error><!-- <Code>ExpiredToken</Code></Error>".to_owned(),
        "</Error></Error><".to_owned(),
        "<Error><Code>Expired\u{1b}Token</Code></Error>".to_owned(),
        nested("<a>", "</a>"),
        nested("{\"a\":", "}"),
        format!("{{\"a\":{},\"__type\":\"ExpiredToken\"}}", nested("[", "]")),
        after(16 << 10),
        "x".repeat(2 * MIB),
    ];
    for (number, body) in spoiled.into_iter().enumerate() {
        let (strategy, service) = (aws.strategy(), Service::default());
        let client = service.client(&aws, &strategy, false);
        let body = Bytes::from(body);
        let answer = http::Response::builder().status(400).body(body.clone());
        service.reject(answer.unwrap());
        let answer = client
            .oneshot(aws.request(&user("alice", "t")))
            .await
            .unwrap();
        assert_eq!(whole(answer).await, (400, body), "{number}");
    }
    for body in [after(1 << 10), after(8_000)] {
        let (strategy, service) = (aws.strategy(), Service::default());
        let client = service.client(&aws, &strategy, false);
        let answer = http::Response::builder().status(400).body(body.into());
        service.reject(answer.unwrap());
        let answer = client
            .oneshot(aws.request(&user("alice", "t")))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    }
}

/// An answer of a service, sent over a socket or made by hand, whose body goes on for longer than is looked at.
#[tokio::test]
async fn f47_a_body_that_was_looked_at_streams_on_with_its_trailers_and_its_error() {
    let aws = AwsStack::start().await;
    let piece = Bytes::from(vec![b'x'; 5 << 10]);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("abc"));
    for ends_with_error in [false, true] {
        let (mut sender, body) = http_body_util::channel::Channel::<Bytes, io::Error>::new(8);
        let body = Arc::new(Mutex::new(Some(body)));
        let answer = move |_: Request<Body>| {
            let body = body.lock().unwrap().take().unwrap();
            let answer = http::Response::builder().status(403).body(body).unwrap();
            async { Ok::<_, BoxError>(answer) }
        };
        let layer = AuthLayer::new(aws.service.origin(), aws.strategy()).retry_rejected();
        let client = layer.layer(tower::service_fn(answer));
        // It starts like an error that is not the session's.
        let start = "<Error><Code>AccessDenied</Code>".to_owned();
        for data in [Bytes::from(start.clone()), piece.clone(), piece.clone()] {
            sender.send_data(data).await.unwrap();
        }
        // No more has arrived, and the answer is there.
        let answer = client
            .oneshot(aws.request(&user("alice", "t")))
            .await
            .unwrap();
        let mut body = answer.into_body();
        assert!(!body.is_end_stream());
        let mut next = async || body.frame().await.unwrap();
        assert_eq!(next().await.unwrap().into_data().unwrap(), start);
        assert_eq!(next().await.unwrap().into_data().unwrap(), piece);
        assert_eq!(next().await.unwrap().into_data().unwrap(), piece);
        sender.send_data(piece.clone()).await.unwrap();
        assert_eq!(next().await.unwrap().into_data().unwrap(), piece);
        if ends_with_error {
            sender.abort(io::Error::other("connection reset"));
            assert_eq!(next().await.unwrap_err().to_string(), "connection reset");
        } else {
            sender.send_trailers(trailers.clone()).await.unwrap();
            assert_eq!(next().await.unwrap().into_trailers().unwrap(), trailers);
        }
    }
}

#[tokio::test]
async fn f12_a_cancelled_caller_harms_nobody() {
    let aws = AwsStack::start().await;
    let strategy = aws.strategy();
    let alice = user("alice", "t");
    let gate = Arc::new(Semaphore::new(0));
    aws.sts.script([Behaviour::Gate(gate.clone())]);
    let mut first = Box::pin(strategy.authenticated(aws.request(&alice)));
    assert!(futures_util::poll!(&mut first).is_pending());
    let second = strategy.authenticated(aws.request(&alice));
    drop(first);
    gate.add_permits(1);
    second.await.unwrap();
    assert_eq!(aws.sts.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn each_of_1000_users_in_3_roles_is_signed_for_with_their_own_credentials() {
    const USERS: usize = 1000;
    const IN_FLIGHT: usize = 256;
    const ROLES: [&str; 3] = ["reader", "writer", "admin"];

    let aws = AwsStack::start().await;
    // As many connections at once as a listener takes.
    let sts_client = ServiceBuilder::new()
        .concurrency_limit(64)
        .service(http_client::<Body>());
    let mut builder = AwsSts::builder(REGION, sts_client)
        .sts_endpoint(aws.sts.url())
        .clock(aws.clock.clone());
    for role in ROLES {
        builder = builder.role_mapping(RoleMapping::claim(
            role,
            format!("arn:aws:iam::123456789012:role/{role}"),
        ));
    }
    let strategy = builder.build().unwrap();
    let service = {
        let seen = Arc::new(Mutex::new(Vec::new()));
        (
            seen.clone(),
            tower::service_fn(move |request: Request<Body>| {
                let seen = seen.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let arrived = support::sigv4::Arrived {
                        method: head.method,
                        path: head.uri.path().to_owned(),
                        query: String::new(),
                        headers: head.headers,
                        body: body.collect().await.unwrap().to_bytes().to_vec(),
                    };
                    seen.lock().unwrap().push(arrived);
                    Ok::<_, Infallible>(http::Response::new(()))
                }
            }),
        )
    };
    let (seen, service) = service;
    let layer = tower_identity::AuthLayer::new(aws.service.origin(), strategy);
    let calls = (0..2).flat_map(|_| (0..USERS).flat_map(|user| ROLES.map(|role| (user, role))));
    let tasks = calls.map(|(number, role)| {
        let subject = format!("user-{number}");
        let identity = user_with(
            &subject,
            &format!("token-{number}"),
            json!({ "groups": role }),
        );
        let mut request = aws.request_with(&identity, Full::from(format!("{subject} {role}")));
        request.headers_mut().insert(
            "x-amz-meta-user",
            format!("{subject} {role}").parse().unwrap(),
        );
        tokio::spawn(tower::Layer::layer(&layer, service.clone()).oneshot(request))
    });
    let mut answers = stream::iter(tasks).buffer_unordered(IN_FLIGHT);
    while let Some(answer) = answers.next().await {
        answer.unwrap().unwrap();
    }
    assert_eq!(aws.sts.calls(), USERS * ROLES.len());
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2 * USERS * ROLES.len());
    let mut keys = HashSet::new();
    for arrived in &*seen {
        let session = aws.session(arrived);
        let role = session.role.rsplit('/').next().unwrap();
        let signed_for = format!("{} {role}", session.name);
        assert_eq!(arrived.headers["x-amz-meta-user"], signed_for);
        assert_eq!(arrived.body, signed_for.as_bytes());
        assert_eq!(
            session.web_identity_token,
            session.name.replace("user", "token")
        );
        keys.insert(session.session_token);
    }
    assert_eq!(keys.len(), USERS * ROLES.len());
}

#[tokio::test]
async fn f33_no_secret_is_in_a_log_at_trace_that_of_the_aws_sdk_included() {
    let aws = AwsStack::start().await;
    let log = Log::default();
    let _guard = log.capture("trace");

    let strategy = aws.strategy();
    let mut request = aws.request(&user("alice", "hush-own-token"));
    let key = HeaderValue::from_static("hush-customer-key");
    request
        .headers_mut()
        .insert("x-amz-server-side-encryption-customer-key", key);
    aws.send(&strategy, request).await.unwrap();
    aws.last();
    aws.sts.script([
        Behaviour::error(400, "ValidationError"),
        Behaviour::body(200, "<TOKEN"),
    ]);
    aws.call(&strategy, &user("bob", "hush-other-token"))
        .await
        .unwrap_err();
    aws.call(&strategy, &user("carol", "hush-third-token"))
        .await
        .unwrap_err();

    let log = log.text();
    assert!(log.contains("AWS STS answered with credentials"), "{log}");
    assert!(log.contains("AWS STS refused"), "{log}");
    assert!(
        log.contains("hyper_util"),
        "the HTTP client beneath logs as it always does: {log}"
    );
    let leak = log.lines().find(|line| line.contains("hush"));
    assert_eq!(leak, None);
}

#[tokio::test]
async fn f33_no_value_shows_a_secret_in_its_debug() {
    let aws = AwsStack::start().await;
    let cache = tower_identity::CredentialCache::builder()
        .clock(aws.clock.clone())
        .build()
        .unwrap();
    let mapping = RoleMapping::claim("admins", DEFAULT_ROLE);
    let builder = aws.builder().cache(cache.clone());
    let shown = format!("{mapping:?} {builder:?}");
    let strategy = builder.build().unwrap();
    aws.call(&strategy, &user("alice", "hush-token"))
        .await
        .unwrap();
    let shown = format!("{shown} {strategy:?} {cache:?}");
    assert!(!shown.contains("hush"), "{shown}");
    for witness in [
        "RoleMapping {",
        DEFAULT_ROLE,
        "AwsStsBuilder {",
        "AwsSts {",
        "CredentialCache {",
    ] {
        assert!(shown.contains(witness), "{witness}: {shown}");
    }
    assert_eq!(tower_identity::Strategy::<Body>::name(&strategy), "aws_sts");
}
