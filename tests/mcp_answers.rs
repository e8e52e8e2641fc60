//! Whatever an MCP server answers, each request ends: in both eras of the protocol, by the SDK's own session.
//!
//! The server is in the same process, so time passes at once, and no test waits.
#![cfg(feature = "rmcp")]

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use rmcp::{
    RoleClient, ServiceError,
    model::{
        CallToolRequest, CallToolRequestParams, ProtocolVersion, ServerResult, SubscriptionFilter,
        SubscriptionsListenRequest, SubscriptionsListenRequestParams,
    },
    service::{ClientLifecycleMode, ClientServiceExt, PeerRequestOptions, RunningService},
    transport::{
        StreamableHttpClientTransport,
        streamable_http_client::{StreamableHttpClientTransportConfig, StreamableHttpError},
    },
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tower::util::BoxCloneSyncService;
use tower_identity::client::rmcp::{TowerHttpClient, TowerHttpError};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CALL_TIMEOUT: Duration = Duration::from_secs(60 * 60);
const DRIP: Duration = Duration::from_secs(20);

/// The SDK may wait a while between two attempts to resume a stream.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24);

const ERAS: [Era; 3] = [Era::Session, Era::NoSession, Era::Discover];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Era {
    /// `initialize`, with a session.
    Session,
    /// `initialize`, and the server has no sessions.
    NoSession,
    /// The protocol of 2026-07-28.
    Discover,
}

/// The id that a hostile server writes. `None` leaves it out.
fn ids() -> Vec<Option<Value>> {
    let texts = ["server-error", "", "null", "\u{0}\n"].map(|id| Some(json!(id)));
    let others = [
        json!(null),
        json!(987_654),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(true),
        json!([1]),
        json!({ "id": 1 }),
    ];
    let all = [None].into_iter().chain(texts);
    all.chain(others.map(Some)).collect()
}

fn error(id: Option<&Value>) -> Value {
    let mut message = json!({
        "jsonrpc": "2.0",
        "error": { "code": -32_042, "message": "not like this", "data": { "more": 1 } },
    });
    if let Some(id) = id {
        message["id"] = id.clone();
    }
    message
}

// F83: each request ends.

#[tokio::test(start_paused = true)]
async fn f83_a_refusal_without_the_requests_id_ends_the_request_with_its_code_and_message() {
    for era in ERAS {
        for status in [400, 404, 405, 406, 410, 422, 500, 502, 503] {
            if era == Era::Session && status == 404 {
                // This means that the session is lost.
                continue;
            }
            for id in ids() {
                let body = error(id.as_ref()).to_string();
                let session =
                    Session::open(era, move |_| with_status(status, json_body(&body))).await;
                assert_is_refusal(session.call().await.unwrap_err(), (era, status, &id));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f83_so_does_one_with_status_200() {
    for era in ERAS {
        for id in ids() {
            let body = error(id.as_ref()).to_string();
            let session = Session::open(era, move |_| json_body(&body)).await;
            assert_is_refusal(session.call().await.unwrap_err(), (era, 200, &id));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f83_so_does_one_in_an_event_stream() {
    for era in ERAS {
        for id in ids() {
            let event = format!("data: {}\n\n", error(id.as_ref()));
            let session = Session::open(era, move |_| events([event.clone()], End::Open)).await;
            assert_is_refusal(session.call().await.unwrap_err(), (era, 200, &id));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_has_the_id_of_no_request_is_an_error_and_not_waited_for() {
    for era in ERAS {
        for id in ids() {
            let mut message = json!({ "jsonrpc": "2.0", "result": { "content": [] } });
            if let Some(id) = id {
                message["id"] = id;
            }
            let body = message.to_string();
            let session = Session::open(era, move |_| json_body(&body)).await;
            session.call().await.unwrap_err();
            let event = format!("data: {message}\n\n");
            let session = Session::open(era, move |_| events([event.clone()], End::Open)).await;
            session.call().await.unwrap_err();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_a_number_in_quotes_is_the_number() {
    for era in ERAS {
        let session = Session::open(era, |id| json_body(&result(&json!(id.to_string())))).await;
        session.call().await.unwrap();
        let session = Session::open(era, |id| {
            let event = format!("data: {}\n\n", result(&json!(id.to_string())));
            events([event], End::Open)
        })
        .await;
        session.call().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_with_text_or_nothing_ends_the_request_with_its_status() {
    for era in ERAS {
        for status in [400, 405, 500, 503] {
            for (content_type, body) in [
                ("text/plain", "no"),
                ("text/html", "<html>"),
                ("application/json", ""),
                ("application/json", "{}"),
                ("application/json", r#"{"error":"invalid_request"}"#),
                ("application/json", r#"{"error":{"code":"x","message":7}}"#),
            ] {
                let session =
                    Session::open(era, move |_| with_status(status, typed(content_type, body)))
                        .await;
                let error = session.call().await.unwrap_err();
                let StreamableHttpError::HttpStatus(error) = transport(&error) else {
                    panic!("{era:?} {status} {body}: {error:?}");
                };
                assert_eq!(error.status, status);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_none_ends_the_request() {
    let deep = "[".repeat(10_000);
    for era in ERAS {
        for (content_type, body) in [
            ("text/html", "<html>"),
            ("text/plain", ""),
            ("application/json", ""),
            ("application/json", "{}"),
            ("application/json", "null"),
            ("application/json", &deep),
            (
                "application/json",
                r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            ),
            (
                "application/json",
                r#"{"jsonrpc":"2.0","method":"notifications/message"}"#,
            ),
        ] {
            let body = body.to_owned();
            let session = Session::open(era, move |_| typed(content_type, &body)).await;
            session.call().await.unwrap_err();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_before_the_answer_ends_the_request() {
    let no_events: [&[&str]; 5] = [
        &[],
        &[": alive\n\n"],
        &["data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n"],
        &["garbage\n\n"],
        &["id: 1\ndata:\n\n"],
    ];
    for era in ERAS {
        for all in no_events {
            for end in [End::Closed, End::Broken] {
                let session = Session::open(era, move |_| events(all.iter().copied(), end)).await;
                session.call().await.unwrap_err();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_can_never_be_resumed_is_not_waited_for() {
    let streams: [fn() -> Answer; 8] = [
        || with_status(400, typed("text/plain", "")),
        || with_status(404, typed("text/plain", "")),
        || with_status(405, typed("text/plain", "")),
        || with_status(500, typed("text/plain", "")),
        || with_status(503, typed("text/plain", "")),
        || typed("text/html", "<html>"),
        || events(["id: 7\ndata:\n\n"], End::Closed),
        || events(["id: 7\ndata:\n\n"], End::Open),
    ];
    for era in ERAS {
        for stream in streams {
            let call = |_| events(["id: 7\ndata:\n\n"], End::Broken);
            let session = Session::open_with_streams(era, call, stream).await;
            session.call().await.unwrap_err();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_resumed_brings_its_answer() {
    for era in ERAS {
        let attempts = Arc::new(AtomicUsize::new(0));
        let call = |_| events(["id: 7\ndata:\n\n"], End::Broken);
        let session = Session::open_with_streams(era, call, move || {
            match attempts.fetch_add(1, Ordering::Relaxed) {
                0..3 => with_status(503, typed("text/plain", "")),
                _ => events([format!("data: {}\n\n", result(&json!(1)))], End::Open),
            }
        })
        .await;
        // The first stream of a session is its own.
        let answer = session.call_with_id(1).await;
        assert!(answer.is_ok(), "{era:?} {answer:?}");
    }
}

// Silence.

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for_beyond_the_timeout() {
    let silent: [fn() -> Answer; 4] = [
        || events([""; 0], End::Open),
        || events([": alive\n\n"], End::Open),
        || events(["id: 7\ndata:\n\n"], End::Open),
        || streaming("application/json", ["{\"jsonrpc\":"], End::Open),
    ];
    for era in ERAS {
        for answer in silent {
            let session = Session::open(era, move |_| answer()).await;
            let start = Instant::now();
            session.call().await.unwrap_err();
            let waited = start.elapsed();
            assert!(
                waited >= ANSWER_TIMEOUT && waited < ANSWER_TIMEOUT * 3,
                "{waited:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_silent_server_says_how_long_it_was_waited_for() {
    for era in ERAS {
        let session = Session::with_answers(era, move |request| async move {
            if request.method == Method::POST && request.id.is_some() && request.is_call() {
                std::future::pending::<()>().await;
            }
            handshake(era, &request)
        })
        .await;
        let error = session.call().await.unwrap_err();
        let StreamableHttpError::Client(TowerHttpError::NoAnswer { after }) = transport(&error)
        else {
            panic!("{error:?}");
        };
        assert_eq!(*after, ANSWER_TIMEOUT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_call_lives_as_long_as_a_byte_comes_in_time() {
    for era in ERAS {
        let session = Session::open(era, move |id| {
            let alive = stream::iter(0..100).then(async |_| {
                tokio::time::sleep(ANSWER_TIMEOUT / 2).await;
                Bytes::from_static(b": alive\n\n")
            });
            let answer = format!("data: {}\n\n", result(&json!(id)));
            let answer = stream::once(async { Bytes::from(answer) });
            body("text/event-stream", alive.chain(answer).map(Ok))
        })
        .await;
        session.call().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn events_without_end_leave_the_caller_its_own_timeout_and_others_their_answers() {
    for era in ERAS {
        let calls = Arc::new(AtomicUsize::new(0));
        let session = Session::open(era, move |id| {
            if calls.fetch_add(1, Ordering::Relaxed) > 0 {
                return json_body(&result(&json!(id)));
            }
            let event = json!({ "jsonrpc": "2.0", "method": "notifications/message",
                "params": { "level": "info", "data": "more" } });
            let event = Bytes::from(format!("data: {event}\n\n"));
            let event = move |_| {
                let event = event.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Ok(event)
                }
            };
            body("text/event-stream", stream::iter(0..).then(event))
        })
        .await;
        let options = PeerRequestOptions::with_timeout(Duration::from_secs(30));
        let request = CallToolRequest::new(CallToolRequestParams::new("tool")).into();
        let handle = session.client.send_cancellable_request(request, options);
        let error = handle.await.unwrap().await_response().await.unwrap_err();
        assert!(matches!(error, ServiceError::Timeout { .. }), "{error:?}");
        session.call().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_without_end_are_not_waited_for_beyond_the_time_for_a_call() {
    let notification = json!({ "jsonrpc": "2.0", "method": "notifications/message",
        "params": { "level": "info", "data": "more" } });
    let of_others = format!(
        "data: {}\n\n",
        json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" })
    );
    let drips = [
        ("text/event-stream", ": alive\n\n".to_owned()),
        ("text/event-stream", format!("data: {notification}\n\n")),
        (
            "text/event-stream",
            format!("id: 7\ndata: {notification}\n\n"),
        ),
        ("text/event-stream", of_others),
        ("text/event-stream", "id: 7\ndata:\n\n".to_owned()),
        ("text/event-stream", "data: x\n".to_owned()),
        ("application/json", " ".to_owned()),
    ];
    for era in ERAS {
        for (content_type, drip) in &drips {
            let (content_type, drip) = (*content_type, Bytes::from(drip.clone()));
            let session = Session::open_with_streams(
                era,
                move |_| dripping(content_type, &drip),
                // A stream that is resumed drips too.
                || dripping("text/event-stream", &Bytes::from_static(b": alive\n\n")),
            )
            .await;
            let start = Instant::now();
            session.call().await.unwrap_err();
            let waited = start.elapsed();
            assert!(
                waited >= CALL_TIMEOUT - DRIP && waited <= CALL_TIMEOUT + ANSWER_TIMEOUT,
                "{era:?} {content_type}: {waited:?}"
            );
        }
    }
}

/// The same bytes again and again, each time before the client loses its patience.
fn dripping(content_type: &'static str, drip: &Bytes) -> Answer {
    let drip = drip.clone();
    let drips = stream::repeat(drip).then(async |drip| {
        tokio::time::sleep(DRIP).await;
        Ok(drip)
    });
    body(content_type, drips)
}

#[tokio::test]
async fn a_body_that_is_always_ready_ends_too() {
    let session = Session::with_timeouts(
        Era::Discover,
        (ANSWER_TIMEOUT, Duration::from_millis(50)),
        |request| {
            let endless = || {
                let comments = stream::repeat(Bytes::from_static(b": alive\n\n"));
                body("text/event-stream", comments.map(Ok))
            };
            let is_call = request.id.is_some() && request.is_call();
            std::future::ready(match is_call {
                true => endless(),
                false => handshake(Era::Discover, &request),
            })
        },
    )
    .await;
    session.call().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_subscription_has_no_end_of_its_own() {
    let alive = Arc::new(AtomicUsize::new(0));
    let drips = alive.clone();
    let session = Session::with_answers(Era::Discover, move |request| {
        let drips = drips.clone();
        let answer = match request.rpc.as_str() {
            "subscriptions/listen" => {
                let alive = stream::repeat(drips).then(async |drips| {
                    tokio::time::sleep(ANSWER_TIMEOUT / 2).await;
                    drips.fetch_add(1, Ordering::Relaxed);
                    Ok(Bytes::from_static(b": alive\n\n"))
                });
                body("text/event-stream", alive)
            }
            _ => handshake(Era::Discover, &request),
        };
        std::future::ready(answer)
    })
    .await;
    let params = SubscriptionsListenRequestParams::new(SubscriptionFilter::default());
    let listen = SubscriptionsListenRequest::new(params);
    let listening = session.client.send_request(listen.into());
    timeout(CALL_TIMEOUT * 10, listening).await.unwrap_err();
    assert!(alive.load(Ordering::Relaxed) > 100);
}

// What was accepted, and what is asked of the user.

#[tokio::test(start_paused = true)]
async fn a_request_that_is_accepted_and_not_answered_ends() {
    for status in [202, 204] {
        for era in ERAS {
            let session = Session::open(era, move |_| with_status(status, typed("", ""))).await;
            session.call().await.unwrap_err();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn its_answer_may_come_on_the_stream_of_the_session() {
    let called = Arc::new(tokio::sync::Notify::new());
    let calls = called.clone();
    let call = move |_| {
        calls.notify_one();
        with_status(202, typed("", ""))
    };
    let session = Session::open_with_streams(Era::Session, call, move || {
        let called = called.clone();
        let answer = async move {
            called.notified().await;
            Ok(Bytes::from(format!("data: {}\n\n", result(&json!(1)))))
        };
        body(
            "text/event-stream",
            stream::once(answer).chain(stream::pending()),
        )
    })
    .await;
    session.call_with_id(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_challenge_of_64_kib_ends_the_request() {
    for era in ERAS {
        for status in [401, 403] {
            let session = Session::open(era, move |_| {
                let mut answer = with_status(status, typed("text/plain", ""));
                let challenge = format!("Bearer scope=\"{}\"", "a ".repeat(32 * 1024));
                let challenge = HeaderValue::try_from(challenge).unwrap();
                answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                answer
            })
            .await;
            assert!(session.call().await.unwrap_err().auth_challenge().is_some());
        }
    }
}

// F84: what asks for nothing.

#[tokio::test(start_paused = true)]
async fn f84_any_success_accepts_a_notification_and_the_session_lives_on() {
    let answers: [fn() -> Answer; 12] = [
        || with_status(202, typed("", "")),
        || with_status(204, typed("", "")),
        || typed("", ""),
        || typed("text/plain", ""),
        || typed("text/plain", "OK"),
        || typed("text/html", "<html>"),
        || typed("application/json", ""),
        || typed("application/json", "null"),
        || typed("application/json", "{}"),
        || json_body(&error(None).to_string()),
        || with_status(201, typed("text/plain", "created")),
        || events([""; 0], End::Closed),
    ];
    for answer in answers {
        for era in [Era::Session, Era::NoSession] {
            let session = Session::with_answers(era, move |request| async move {
                if request.method == Method::POST && request.id.is_none() {
                    return answer();
                }
                handshake(era, &request)
            })
            .await;
            session.call().await.unwrap();
        }
    }
}

// Helpers: a session.

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Answer = Response<Body>;

struct Session {
    client: RunningService<RoleClient, ()>,
}

#[derive(Debug)]
struct Asked {
    method: Method,
    rpc: String,
    id: Option<i64>,
}

impl Asked {
    fn is_call(&self) -> bool {
        self.rpc == "tools/call"
    }
}

impl Session {
    /// With a server that answers each call so, and has a stream of its own where the era has one.
    async fn open(era: Era, call: impl Fn(i64) -> Answer + Clone + Send + Sync + 'static) -> Self {
        Self::open_with_streams(era, call, || with_status(405, typed("", ""))).await
    }

    async fn open_with_streams(
        era: Era,
        call: impl Fn(i64) -> Answer + Clone + Send + Sync + 'static,
        stream: impl Fn() -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::with_answers(era, move |request| {
            let answer = match request.id {
                Some(id) if request.is_call() => call(id),
                _ if request.method == Method::GET => stream(),
                _ => handshake(era, &request),
            };
            std::future::ready(answer)
        })
        .await
    }

    async fn with_answers<F, R>(era: Era, answer: F) -> Self
    where
        F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Self::with_timeouts(era, (ANSWER_TIMEOUT, CALL_TIMEOUT), answer).await
    }

    async fn with_timeouts<F, R>(era: Era, timeouts: (Duration, Duration), answer: F) -> Self
    where
        F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let answer = answer.clone();
            async move {
                assert!(!request.headers().contains_key(HOST));
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let message: Value = serde_json::from_slice(&body).unwrap_or_default();
                let asked = Asked {
                    method: head.method,
                    rpc: message["method"].as_str().unwrap_or_default().to_owned(),
                    id: message["id"].as_i64(),
                };
                Ok::<_, Infallible>(answer(asked).await)
            }
        });
        let client = TowerHttpClient::new(BoxCloneSyncService::new(service));
        let config = StreamableHttpClientTransportConfig::with_uri("http://127.0.0.1:1/mcp");
        let transport = StreamableHttpClientTransport::with_client(
            client.answer_timeout(timeouts.0).call_timeout(timeouts.1),
            config,
        );
        let lifecycle = match era {
            Era::Session | Era::NoSession => ClientLifecycleMode::Initialize,
            Era::Discover => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            },
        };
        let opened = ().serve_with_lifecycle(transport, lifecycle);
        let client = timeout(NEVER, opened).await.expect("no session").unwrap();
        Self { client }
    }

    async fn call(&self) -> Result<ServerResult, ServiceError> {
        let request = CallToolRequest::new(CallToolRequestParams::new("tool"));
        let answer = self.client.send_request(request.into());
        timeout(NEVER, answer).await.expect("the call never ends")
    }

    /// The SDK counts its requests from 0, and the first one is the handshake.
    async fn call_with_id(&self, id: i64) -> Result<ServerResult, ServiceError> {
        assert_eq!(id, 1);
        self.call().await
    }
}

#[track_caller]
fn assert_is_refusal(error: ServiceError, of: impl std::fmt::Debug) {
    let ServiceError::McpError(error) = error else {
        panic!("{of:?}: {error:?}");
    };
    assert_eq!(error.code.0, -32_042, "{of:?}");
    assert_eq!(error.message, "not like this", "{of:?}");
    assert_eq!(error.data, Some(json!({ "more": 1 })), "{of:?}");
}

fn transport(error: &ServiceError) -> &StreamableHttpError<TowerHttpError> {
    let ServiceError::TransportSend(error) = error else {
        panic!("{error:?}");
    };
    error.error.downcast_ref().unwrap()
}

// Helpers: answers.

fn handshake(era: Era, request: &Asked) -> Answer {
    let result = match (request.rpc.as_str(), request.id) {
        ("initialize", _) => json!({ "protocolVersion": "2025-06-18",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "hostile", "version": "1" } }),
        ("server/discover", _) => json!({ "resultType": "complete",
            "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
            "ttlMs": 0, "cacheScope": "private" }),
        ("tools/call", Some(id)) => return json_body(&result(&json!(id))),
        ("", _) => return with_status(405, typed("", "")),
        _ => return with_status(202, typed("", "")),
    };
    let message = json!({ "jsonrpc": "2.0", "id": request.id, "result": result });
    let mut answer = json_body(&message.to_string());
    if era == Era::Session {
        let session = HeaderValue::from_static("s1");
        answer.headers_mut().insert("mcp-session-id", session);
    }
    answer
}

fn result(id: &Value) -> String {
    let result = json!({ "resultType": "complete", "content": [], "isError": false });
    json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()
}

#[derive(Clone, Copy)]
enum End {
    Open,
    Closed,
    Broken,
}

fn events<T: Into<String>>(all: impl IntoIterator<Item = T>, end: End) -> Answer {
    streaming("text/event-stream", all, end)
}

fn streaming<T: Into<String>>(
    content_type: &'static str,
    all: impl IntoIterator<Item = T>,
    end: End,
) -> Answer {
    let all: Vec<_> = all
        .into_iter()
        .map(|event| Ok(Bytes::from(event.into())))
        .collect();
    let end = match end {
        End::Open => stream::pending().boxed(),
        End::Closed => stream::empty().boxed(),
        End::Broken => {
            stream::once(async { Err(io::Error::other("the connection was reset")) }).boxed()
        }
    };
    body(content_type, stream::iter(all).chain(end))
}

fn body(
    content_type: &'static str,
    chunks: impl stream::Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Answer {
    let body = StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data)));
    let mut response = Response::new(body.boxed_unsync());
    if !content_type.is_empty() {
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}

fn typed(content_type: &'static str, text: &str) -> Answer {
    let text = Full::from(text.to_owned()).map_err(|never| match never {});
    let mut response = body(content_type, stream::empty());
    *response.body_mut() = text.boxed_unsync();
    response
}

fn json_body(text: &str) -> Answer {
    typed("application/json", text)
}

fn with_status(status: u16, mut answer: Answer) -> Answer {
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}
