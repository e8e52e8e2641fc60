//! A Tower stack as the HTTP client of the MCP Rust SDK: real sessions with a real MCP server, and hostile answers.
#![cfg(feature = "rmcp")]

mod support;

use std::{
    collections::HashMap,
    convert::Infallible,
    error::Error,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use proptest::{
    collection::vec,
    prelude::{any, prop_assert_eq, proptest},
};
use rmcp::{
    ClientHandler, RoleClient, ServiceError, ServiceExt,
    model::{
        CallToolRequest, CallToolRequestParams, CallToolResult, ClientJsonRpcMessage,
        ClientNotification, ClientRequest, DiscoverRequest, InitializeRequest,
        InitializedNotification, PingRequest, ProgressNotificationParam, ProtocolVersion,
        RequestId, ServerJsonRpcMessage,
    },
    service::{
        ClientLifecycleMode, ClientServiceExt, NotificationContext, RunningService,
        RxJsonRpcMessage, TxJsonRpcMessage,
    },
    transport::{
        StreamableHttpClientTransport, Transport,
        streamable_http_client::{
            SseError, StreamableHttpClient, StreamableHttpClientTransportConfig,
            StreamableHttpError, StreamableHttpPostResponse,
        },
    },
};
use tokio::{
    net::TcpListener,
    sync::{
        Notify,
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    },
    task::JoinHandle,
};
use tower::{
    Layer, Service,
    util::{BoxCloneService, BoxCloneSyncService},
};
use tower_identity::{
    AccessToken, AuthError, AuthErrorKind, AuthLayer, CapturedHeaders, HealthCheck, Identity,
    IdentityLayer, UpstreamInject, UpstreamToken,
    client::rmcp::{SendAs, TowerHttpClient, TowerHttpError, with_identity},
    outgoing::{AuthService, IdentityService},
};

use support::mcp_backend::McpBackend;

// A session with a real MCP server.

#[tokio::test]
async fn f01_after_a_refresh_the_backend_sees_the_new_token_on_the_very_next_call() {
    let backend = McpBackend::start().await;
    backend.accept_only(["login"]);
    let session = Session::open(&backend, IdentityLayer::new(user("alice", "login"))).await;
    assert_eq!(session.whoami(user("alice", "login")).await, "login");

    for refreshed in ["refreshed-1", "refreshed-2"] {
        backend.accept_only([refreshed]);
        assert_eq!(session.whoami(user("alice", refreshed)).await, refreshed);
    }
    backend.shutdown().await;
}

#[tokio::test]
async fn two_users_of_one_session_are_never_mixed_up() {
    let backend = McpBackend::start().await;
    backend.accept_only(["login", "alice-1", "bob-1"]);
    let session = Session::open(&backend, IdentityLayer::new(user("alice", "login"))).await;

    let calls = (0..50).map(async |n| {
        let (name, token) = [("alice", "alice-1"), ("bob", "bob-1")][n % 2];
        assert_eq!(session.whoami(user(name, token)).await, token);
    });
    join_all(calls).await;
    backend.shutdown().await;
}

#[tokio::test]
async fn the_session_identity_is_used_for_what_the_client_sends_by_itself_and_for_nothing_else() {
    let backend = McpBackend::start().await;
    backend.accept_only(["session", "request"]);
    let session = Session::open(&backend, IdentityLayer::new(user("alice", "session"))).await;
    backend.wait_for("GET").await;
    session.whoami(user("alice", "request")).await;
    session
        .client
        .send_request_as(user("alice", "request"), PingRequest::default())
        .await
        .unwrap();
    session.close().await;

    let seen = backend.seen();
    let mut sent: Vec<_> = seen
        .iter()
        .map(|seen| (seen.name(), seen.authorization()))
        .collect();
    // The event stream is opened while the first call is on its way.
    sent.sort();
    assert_eq!(
        sent,
        [
            ("DELETE".to_owned(), vec!["Bearer session"]),
            ("GET".to_owned(), vec!["Bearer session"]),
            ("POST initialize".to_owned(), vec!["Bearer session"]),
            (
                "POST notifications/initialized".to_owned(),
                vec!["Bearer session"]
            ),
            ("POST ping".to_owned(), vec!["Bearer request"]),
            ("POST tools/call".to_owned(), vec!["Bearer request"]),
        ]
    );
    assert!(
        seen.iter()
            .all(|seen| seen.session_id().is_some() == (seen.name() != "POST initialize"))
    );
    backend.shutdown().await;
}

#[tokio::test]
async fn a_followed_session_is_closed_with_a_live_token() {
    let backend = McpBackend::start().await;
    backend.accept_only(["login"]);
    let layer = IdentityLayer::new(user("alice", "login")).follow_requests();
    let session = Session::open(&backend, layer).await;
    backend.accept_only(["refreshed"]);
    session.whoami(user("alice", "refreshed")).await;
    session.close().await;

    let delete = backend.wait_for("DELETE").await;
    assert_eq!(delete.authorization(), ["Bearer refreshed"]);
    assert!(delete.accepted);
    backend.shutdown().await;
}

#[tokio::test]
async fn f30_a_hundred_calls_proceed_while_streams_are_open() {
    let backend = McpBackend::start().await;
    backend.accept_only(["t"]);
    let mut session = Session::open(&backend, IdentityLayer::new(user("alice", "t"))).await;
    backend.wait_for("GET").await;
    let peer = session.client.peer().clone();
    let held = tokio::spawn(async move {
        let hold = CallToolRequestParams::new("hold");
        peer.call_tool_as(user("alice", "t"), hold).await
    });
    let progress = tokio::time::timeout(Duration::from_secs(30), session.events.recv()).await;
    assert_eq!(progress.expect("a call is blocked"), Some(Event::Progress));

    let calls = (0..100).map(|_| session.whoami(user("alice", "t")));
    assert_eq!(join_all(calls).await, ["t"; 100]);

    // Both streams were open all the time: they still deliver.
    backend.notify().await;
    assert_eq!(session.events.recv().await, Some(Event::ToolListChanged));
    backend.release();
    assert_eq!(text(held.await.unwrap().unwrap()), "released");
    backend.shutdown().await;
}

#[tokio::test]
async fn f34_a_replayed_initialize_does_not_bring_an_older_identity_back() {
    let backend = McpBackend::start().await;
    backend.accept_only(["login"]);
    let login = user("alice", "login");
    let layer = IdentityLayer::new(login.clone()).follow_requests();
    let session = Session::open_as(&backend, layer, Some(login)).await;

    backend.accept_only(["refreshed"]);
    assert_eq!(
        session.whoami(user("alice", "refreshed")).await,
        "refreshed"
    );
    backend.drop_sessions().await;
    assert_eq!(
        session.whoami(user("alice", "refreshed")).await,
        "refreshed"
    );

    let handshakes = backend.seen();
    let handshakes: Vec<_> = handshakes
        .iter()
        .filter(|seen| seen.name() == "POST initialize")
        .map(|seen| seen.authorization())
        .collect();
    assert_eq!(handshakes, [["Bearer login"], ["Bearer refreshed"]]);
    backend.shutdown().await;
}

#[tokio::test]
async fn f32_a_probe_of_a_session_needs_no_user_from_its_handshake_to_its_teardown() {
    let backend = McpBackend::start().await;
    backend.accept_anyone();
    let session = Session::open(&backend, IdentityLayer::health_check()).await;
    backend.wait_for("GET").await;
    session.close().await;
    let teardown = tokio::time::timeout(Duration::from_secs(10), backend.wait_for("DELETE")).await;
    teardown.expect("the teardown was refused");
    let seen = backend.seen();
    assert!(seen.iter().all(|seen| seen.authorization().is_empty()));
    backend.shutdown().await;
}

#[tokio::test]
async fn a_lost_session_is_opened_again_and_the_call_succeeds() {
    let backend = McpBackend::start().await;
    backend.accept_only(["t"]);
    let session = Session::open(&backend, IdentityLayer::new(user("alice", "t"))).await;
    session.whoami(user("alice", "t")).await;
    let lost = backend.wait_for("POST tools/call").await;
    backend.drop_sessions().await;
    session.whoami(user("alice", "t")).await;
    let opened = backend.wait_for("POST tools/call").await;
    assert_ne!(lost.session_id(), opened.session_id());
    backend.shutdown().await;
}

#[tokio::test]
async fn the_token_of_the_transport_gives_way_to_the_strategy() {
    let backend = McpBackend::start().await;
    backend.accept_only(["t"]);
    let client = TowerHttpClient::new(stack(&backend, IdentityLayer::new(user("alice", "t"))));
    let config = config(&backend.url()).auth_header("static");
    let transport = StreamableHttpClientTransport::with_client(client, config);
    ().serve(transport).await.unwrap().cancel().await.unwrap();
    let seen = backend.seen();
    assert!(seen.iter().all(|seen| seen.authorization() == ["Bearer t"]));
    assert_eq!(seen.last().unwrap().name(), "DELETE");
    backend.shutdown().await;
}

#[test]
fn a_client_shows_the_service_beneath_it() {
    let shown = format!("{:?}", TowerHttpClient::new("the service"));
    assert_eq!(shown, r#"TowerHttpClient { service: "the service", .. }"#);
}

#[tokio::test]
async fn a_boxed_stack_will_do() {
    let backend = McpBackend::start().await;
    backend.accept_only(["t"]);
    let stack = stack(&backend, IdentityLayer::new(user("alice", "t")));
    let client = TowerHttpClient::new(BoxCloneService::new(stack));
    let transport = StreamableHttpClientTransport::with_client(client, config(&backend.url()));
    let client = ().serve(transport).await.unwrap();
    let whoami = CallToolRequestParams::new("whoami");
    let result = client.call_tool_as(user("alice", "t"), whoami).await;
    assert_eq!(text(result.unwrap()), "t");
    backend.shutdown().await;
}

#[tokio::test]
async fn a_refused_token_reaches_the_caller_as_auth_required() {
    let backend = McpBackend::start().await;
    backend.accept_only(["t"]);
    let session = Session::open(&backend, IdentityLayer::new(user("alice", "t"))).await;

    let call = CallToolRequestParams::new("whoami");
    let error = session
        .client
        .call_tool_as(user("alice", "revoked"), call)
        .await
        .unwrap_err();
    let ServiceError::TransportSend(error) = error else {
        panic!("{error:?}");
    };
    let Some(StreamableHttpError::<TowerHttpError>::AuthRequired(required)) =
        error.error.downcast_ref()
    else {
        panic!("{error:?}");
    };
    assert_eq!(
        required.www_authenticate_header,
        r#"Bearer error="invalid_token""#
    );
    backend.shutdown().await;
}

#[tokio::test]
async fn a_failed_strategy_is_found_in_the_error_of_a_call() {
    let backend = McpBackend::start().await;
    backend.accept_only(["t"]);
    let session = Session::open(&backend, IdentityLayer::new(user("alice", "t"))).await;

    let nobody = Identity::builder("bob").build().unwrap();
    let call = CallToolRequestParams::new("whoami");
    let error = session.client.call_tool_as(nobody, call).await.unwrap_err();
    let found = AuthError::find_in(&error).unwrap();
    assert_eq!(found.kind(), AuthErrorKind::MissingToken);
    assert_eq!(found.backend(), Some(&backend.origin()));
    assert!(
        backend
            .seen()
            .iter()
            .all(|seen| seen.name() != "POST tools/call")
    );
    backend.shutdown().await;
}

#[tokio::test]
async fn a_failed_strategy_is_found_in_the_error_of_the_handshake() {
    let backend = McpBackend::start().await;
    let client = TowerHttpClient::new(stack(&backend, IdentityLayer::new(None)));
    let transport = StreamableHttpClientTransport::with_client(client, config(&backend.url()));
    let error = ().serve(transport).await.unwrap_err();
    let found = AuthError::find_in(&error).unwrap();
    assert_eq!(found.kind(), AuthErrorKind::MissingIdentity);
    assert!(backend.seen().is_empty());
    backend.shutdown().await;
}

#[tokio::test]
async fn a_failed_strategy_is_found_in_the_error_of_the_handshake_with_an_old_server() {
    let service = tower::service_fn(async |request: Request<Full<Bytes>>| {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if String::from_utf8_lossy(&body).contains("server/discover") {
            return Ok(status(400));
        }
        Err(AuthError::new(AuthErrorKind::MissingIdentity, "nobody"))
    });
    let client = TowerHttpClient::new(service);
    let transport = StreamableHttpClientTransport::with_client(client, config(URL));
    let lifecycle = ClientLifecycleMode::Auto {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
        legacy_version: None,
    };
    let error = ().serve_with_lifecycle(transport, lifecycle).await.unwrap_err();
    let found = AuthError::find_in(&error).unwrap();
    assert_eq!(found.kind(), AuthErrorKind::MissingIdentity);
}

#[tokio::test]
async fn a_protocol_without_sessions_carries_the_identity_too() {
    let backend = McpBackend::start().await;
    backend.accept_only(["login", "request"]);
    let layer = IdentityLayer::new(user("alice", "login"));
    let client = TowerHttpClient::new(stack(&backend, layer));
    let transport = StreamableHttpClientTransport::with_client(client, config(&backend.url()));
    let lifecycle = ClientLifecycleMode::Discover {
        preferred_versions: vec![ProtocolVersion::V_2026_07_28],
    };
    let client = ().serve_with_lifecycle(transport, lifecycle).await.unwrap();
    let call = CallToolRequestParams::new("whoami");
    let result = client.call_tool_as(user("alice", "request"), call).await;
    assert_eq!(text(result.unwrap()), "request");
    assert!(
        backend
            .seen()
            .iter()
            .all(|seen| seen.session_id().is_none())
    );
    backend.shutdown().await;
}

// What leaves, seen by the service beneath.

#[tokio::test]
async fn f34_no_user_of_a_shared_client_gets_the_identity_of_another() {
    let (client, sent) = recording_client();
    let [alice, bob] = [user("alice", "a1"), user("bob", "b1")];
    post(&client, with_identity(initialize(), alice.clone())).await;
    post(&client.clone(), with_identity(initialize(), bob.clone())).await;
    post(&client, with_identity(call(), user("alice", "a2"))).await;
    post(&client, with_identity(call(), user("carol", "c1"))).await;

    post(&client.clone(), with_identity(initialize(), alice)).await;
    post(&client, with_identity(initialize(), bob)).await;
    assert_eq!(sent.tokens(), ["a1", "b1", "a2", "c1", "a2", "b1"]);
}

proptest! {
    /// Whatever users send through the clones of a client, in whatever order.
    #[test]
    fn f34_only_an_initialize_is_changed_and_only_to_the_newest_of_its_own_user(
        messages in vec((any::<bool>(), 0..3_usize, 0..4_usize), 1..40),
    ) {
        let users = ["alice", "bob", "carol"];
        // By age: the first of each user is the oldest.
        let identities = users.map(|name| {
            [0, 1, 2, 3].map(|age| user(name, &format!("{name}-{age}")))
        });
        let (client, sent) = recording_client();
        let mut newest = [None; 3];
        let mut expected = Vec::new();
        for (is_initialize, who, age) in messages {
            let message = if is_initialize { initialize() } else { call() };
            let message = with_identity(message, identities[who][age].clone());
            post(&client.clone(), message).now_or_never().unwrap();
            let leaves = if is_initialize { newest[who].unwrap_or(age).max(age) } else { age };
            if is_initialize || newest[who].is_some() {
                newest[who] = newest[who].max(Some(age));
            }
            expected.push(format!("{}-{leaves}", users[who]));
        }
        prop_assert_eq!(sent.tokens(), expected);
    }
}

#[tokio::test]
async fn the_identity_of_a_request_wins_even_if_it_is_older() {
    let (client, sent) = recording_client();
    let old = user("alice", "old");
    let new = user("alice", "new");
    post(&client, with_identity(initialize(), old.clone())).await;
    post(&client, with_identity(call(), new)).await;
    post(&client, with_identity(call(), old.clone())).await;
    post(&client, with_identity(initialized(), old)).await;
    assert_eq!(sent.tokens(), ["old", "new", "old", "old"]);
}

#[tokio::test]
async fn a_message_without_an_identity_leaves_the_gap_open() {
    let (client, sent) = recording_client();
    post(&client, with_identity(initialize(), user("alice", "a1"))).await;
    post(&client, initialize()).await;
    post(&client, call()).await;
    post(&client, initialized()).await;
    let uri: Arc<str> = "http://127.0.0.1:1/mcp".into();
    let session: Arc<str> = "s1".into();
    let no_headers = HashMap::new();
    _ = client
        .delete_session(uri.clone(), session.clone(), None, no_headers.clone())
        .await;
    _ = client
        .get_stream(uri, Some(session), None, None, no_headers)
        .await;

    let sent = sent.take();
    assert_eq!(sent.len(), 6);
    assert!(
        sent[1..]
            .iter()
            .all(|request| request.extensions().get::<Identity>().is_none())
    );
}

#[tokio::test]
async fn the_other_extensions_of_a_message_go_with_it() {
    let (client, sent) = recording_client();
    let mut request = CallToolRequest::new(CallToolRequestParams::new("whoami"));
    let mut headers = http::HeaderMap::new();
    headers.insert("x-tenant", HeaderValue::from_static("blue"));
    request.extensions.insert(HealthCheck);
    request.extensions.insert(CapturedHeaders::from(headers));
    post(&client, ClientRequest::from(request)).await;

    let sent = sent.take();
    assert!(sent[0].extensions().get::<HealthCheck>().is_some());
    assert!(sent[0].extensions().get::<CapturedHeaders>().is_some());
}

#[tokio::test]
async fn the_token_of_the_transport_is_sent_as_a_secret() {
    let (client, sent) = recording_client();
    _ = client
        .get_stream(
            "http://127.0.0.1:1/mcp".into(),
            Some("s1".into()),
            Some("event-7".to_owned()),
            Some("gho_16C7e42F292c".to_owned()),
            HashMap::new(),
        )
        .await;
    let sent = sent.take();
    let headers = sent[0].headers();
    assert_eq!(headers[AUTHORIZATION], "Bearer gho_16C7e42F292c");
    assert!(headers[AUTHORIZATION].is_sensitive());
    assert_eq!(headers["mcp-session-id"], "s1");
    assert_eq!(headers["last-event-id"], "event-7");
    assert_eq!(headers["accept"], "text/event-stream");
}

#[tokio::test]
async fn f33_a_session_id_and_custom_headers_are_sent_as_secrets() {
    let (client, sent) = recording_client();
    let custom = HashMap::from([(
        HeaderName::from_static("x-api-key"),
        HeaderValue::from_static("hush"),
    )]);
    let url = "http://127.0.0.1:1/mcp".into();
    let deleted = client
        .delete_session(url, "hush".into(), None, custom)
        .await;
    deleted.unwrap();
    let sent = sent.take();
    let headers = format!("{:?}", sent[0].headers());
    assert_eq!(sent[0].headers()["mcp-session-id"], "hush");
    assert!(!headers.contains("hush"), "{headers}");
}

#[tokio::test]
async fn what_cannot_be_a_request_is_an_error_without_the_secret() {
    let (client, sent) = recording_client();
    let no_headers = HashMap::new;
    let uri = "http://127.0.0.1:1/mcp";
    for (uri, session, token) in [
        ("http://a b/", "s1", "token"),
        (uri, "s1\n", "token"),
        (uri, "s1", "secret\r\nx-admin: 1"),
    ] {
        let token = Some(token.to_owned());
        let error = client
            .delete_session(uri.into(), session.into(), token, no_headers())
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                StreamableHttpError::Client(TowerHttpError::InvalidRequest(_))
            ),
            "{error:?}"
        );
        assert!(!chain(&error).contains("secret"), "{}", chain(&error));
    }
    assert!(sent.take().is_empty());
}

#[tokio::test]
async fn a_custom_header_cannot_replace_one_of_the_transport() {
    let (client, sent) = recording_client();
    for reserved in ["accept", "mcp-session-id", "last-event-id"] {
        let headers = HashMap::from([(
            HeaderName::from_static(reserved),
            HeaderValue::from_static("x"),
        )]);
        let uri = "http://127.0.0.1:1/mcp";
        let error = client
            .delete_session(uri.into(), "s1".into(), None, headers)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, StreamableHttpError::ReservedHeaderConflict(name) if name == reserved),
            "{error:?}"
        );
    }
    assert!(sent.take().is_empty());
}

// What a server answers.

#[tokio::test]
async fn a_401_with_a_challenge_asks_for_a_log_in() {
    let challenge = r#"Bearer resource_metadata="https://mcp.example.com/.well-known""#;
    let server = Server::answering(move |_| {
        let mut response = status(401);
        let basic = HeaderValue::from_static("Basic realm=\"old\"");
        response.headers_mut().append(WWW_AUTHENTICATE, basic);
        let bearer = HeaderValue::from_static(challenge);
        response.headers_mut().append(WWW_AUTHENTICATE, bearer);
        response
    })
    .await;
    for error in server.each_error().await {
        let StreamableHttpError::AuthRequired(required) = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            required.www_authenticate_header,
            format!(r#"Basic realm="old", {challenge}"#)
        );
    }
}

#[tokio::test]
async fn a_403_with_a_challenge_tells_the_missing_scope() {
    let challenge = r#"Bearer error="insufficient_scope", error_description="not scope=a", scope="files:read files:write""#;
    let server = Server::answering(move |_| challenged(403, challenge.as_bytes())).await;
    for error in server.each_error().await {
        let StreamableHttpError::InsufficientScope(insufficient) = error else {
            panic!("{error:?}");
        };
        assert_eq!(insufficient.www_authenticate_header, challenge);
        assert_eq!(
            insufficient.get_required_scope(),
            Some("files:read files:write")
        );
    }
}

#[tokio::test]
async fn a_refusal_without_a_readable_challenge_keeps_its_status() {
    for code in [401, 403] {
        let no_challenge = Server::answering(move |_| status(code)).await;
        let invalid = Server::answering(move |_| challenged(code, b"Bearer realm=\"\xff\"")).await;
        let with_body = Server::answering(move |_| {
            let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}"#;
            let mut response = json(body);
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            response
        })
        .await;
        for server in [no_challenge, invalid, with_body] {
            for error in server.each_error().await {
                assert!(
                    matches!(&error, StreamableHttpError::HttpStatus(status) if status.status == code),
                    "{error:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_404_on_a_session_means_that_it_is_lost() {
    let server = Server::answering(|_| status(404)).await;
    for error in server.each_error().await {
        assert!(
            matches!(error, StreamableHttpError::SessionExpired),
            "{error:?}"
        );
    }
    let error = server.post(call(), None).await.unwrap_err();
    assert!(
        matches!(&error, StreamableHttpError::HttpStatus(status) if status.status == 404),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_405_means_that_the_server_does_not_do_this() {
    let server = Server::answering(|_| status(405)).await;
    let [post, get, delete] = server.each_error().await;
    assert!(matches!(&post, StreamableHttpError::HttpStatus(status) if status.status == 405));
    assert!(matches!(get, StreamableHttpError::ServerDoesNotSupportSse));
    assert!(matches!(
        delete,
        StreamableHttpError::ServerDoesNotSupportDeleteSession
    ));
}

#[tokio::test]
async fn a_failing_server_tells_when_to_try_again() {
    let server = Server::answering(|_| {
        let mut response = status(503);
        let seconds = HeaderValue::from_static("7");
        response.headers_mut().insert("retry-after", seconds);
        response
    })
    .await;
    for error in server.each_error().await {
        let StreamableHttpError::HttpStatus(status) = error else {
            panic!("{error:?}");
        };
        assert_eq!(
            (status.status, status.retry_after.as_deref()),
            (503, Some("7"))
        );
    }
}

#[tokio::test]
async fn a_json_rpc_error_in_a_refusal_is_the_answer() {
    let server = Server::answering(|_| {
        let body = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no such tool"}}"#;
        let mut response = json(body);
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    })
    .await;
    let answer = server.post(call(), Some("s1")).await.unwrap();
    let StreamableHttpPostResponse::Json(ServerJsonRpcMessage::Error(error), _) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(error.error.message, "no such tool");
}

#[tokio::test]
async fn a_json_rpc_error_of_more_than_64_kib_is_not_read() {
    let server = Server::answering(|_| {
        let message = "x".repeat(64 * 1024);
        let error = serde_json::json!({ "code": -32602, "message": message });
        let mut response =
            json(&serde_json::json!({ "jsonrpc": "2.0", "id": 1, "error": error }).to_string());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    })
    .await;
    let error = server.post(call(), Some("s1")).await.unwrap_err();
    assert!(
        matches!(&error, StreamableHttpError::HttpStatus(status) if status.status == 400),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_old_server_that_refuses_discovery_can_be_told_from_a_broken_one() {
    let server = Server::answering(|_| status(400)).await;
    let discover = ClientRequest::from(DiscoverRequest::default());
    let answer = server.post(discover, None).await.unwrap();
    let StreamableHttpPostResponse::Json(ServerJsonRpcMessage::Error(error), _) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(error.id, Some(RequestId::Number(1)));

    // One that says more is believed.
    let server = Server::answering(|_| {
        let body = r#"{"jsonrpc":"2.0","id":9,"error":{"code":-32001,"message":"out of order"}}"#;
        let mut response = json(body);
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    })
    .await;
    let discover = ClientRequest::from(DiscoverRequest::default());
    let answer = server.post(discover, None).await.unwrap();
    let StreamableHttpPostResponse::Json(ServerJsonRpcMessage::Error(error), _) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(error.id, Some(RequestId::Number(1)));
    assert_eq!(error.error.message, "out of order");
}

#[tokio::test]
async fn a_message_that_asks_nothing_is_accepted_without_an_answer() {
    let answers: [fn() -> Response<ServerBody>; 5] = [
        || status(202),
        || status(204),
        || status(200),
        || json(""),
        || json("not JSON"),
    ];
    for answer in answers {
        let server = Server::answering(move |_| answer()).await;
        let answer = server.post(initialized(), Some("s1")).await.unwrap();
        assert!(
            matches!(answer, StreamableHttpPostResponse::Accepted),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_request_without_a_usable_answer_is_an_error() {
    let server = Server::answering(|_| status(200)).await;
    let error = server.post(call(), Some("s1")).await.unwrap_err();
    assert!(
        matches!(error, StreamableHttpError::UnexpectedContentType(None)),
        "{error:?}"
    );

    let nested = "[".repeat(100_000);
    for body in ["", "{}", "not JSON", &nested] {
        let body = body.to_owned();
        let server = Server::answering(move |_| json(&body)).await;
        let error = server.post(call(), Some("s1")).await.unwrap_err();
        assert!(
            matches!(error, StreamableHttpError::Deserialize(_)),
            "{error:?}"
        );
    }

    let server = Server::answering(|_| body("text/html", Full::from("<html>"))).await;
    let (post, get, _) = server.each().await;
    for error in [post.unwrap_err(), get.err().unwrap()] {
        assert!(
            matches!(&error, StreamableHttpError::UnexpectedContentType(Some(html)) if html == "text/html"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_gibibyte_of_json_is_not_read() {
    let sent = Arc::<AtomicU64>::default();
    let counted = sent.clone();
    let server =
        Server::answering(move |_| streaming("application/json", gibibyte(&counted))).await;
    let error = server.post(call(), Some("s1")).await.unwrap_err();
    assert!(
        matches!(
            error,
            StreamableHttpError::ResponseBodyTooLarge {
                max_size: 0x100_0000
            }
        ),
        "{error:?}"
    );
    assert!(sent.load(Ordering::Relaxed) < GIBIBYTE / 8);
}

#[tokio::test]
async fn json_that_says_that_it_is_too_large_is_not_read_at_all() {
    let answer = Response::builder().header(CONTENT_TYPE, "application/json");
    let answer = answer.body(Announced(MAX_JSON_SIZE + 1).boxed_unsync());
    let error = answered(answer.unwrap())
        .post_message(
            URL.into(),
            call().into_message(),
            None,
            None,
            HashMap::new(),
        )
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            StreamableHttpError::ResponseBodyTooLarge {
                max_size: 0x100_0000
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn json_of_16_mib_is_not_too_large() {
    let text = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let padding = MAX_JSON_SIZE as usize - text.len();
    let answer = answered(json(&format!("{text}{}", " ".repeat(padding))))
        .post_message(
            URL.into(),
            call().into_message(),
            None,
            None,
            HashMap::new(),
        )
        .await
        .unwrap();
    assert!(
        matches!(answer, StreamableHttpPostResponse::Json(..)),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_gibibyte_of_refusal_is_not_read() {
    let sent = Arc::<AtomicU64>::default();
    let counted = sent.clone();
    let server = Server::answering(move |_| {
        let mut response = streaming("application/json", gibibyte(&counted));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    for error in server.each_error().await {
        assert!(
            matches!(&error, StreamableHttpError::HttpStatus(status) if status.status == 500),
            "{error:?}"
        );
    }
    assert!(sent.load(Ordering::Relaxed) < GIBIBYTE / 8);
}

#[tokio::test]
async fn an_event_that_is_too_large_ends_the_stream_before_it_is_read() {
    let sent = Arc::<AtomicU64>::default();
    let counted = sent.clone();
    let server = Server::answering(move |_| {
        let event = stream::once(async { Ok(Bytes::from("data: 1\n\ndata: ")) });
        streaming("text/event-stream", event.chain(gibibyte(&counted)))
    })
    .await;
    let (post, get, _) = server.each().await;
    let StreamableHttpPostResponse::Sse(posted, _) = post.unwrap() else {
        panic!("not a stream");
    };
    for mut events in [posted, get.unwrap()] {
        assert_eq!(events.next().await.unwrap().unwrap().data.unwrap(), "1");
        let error = events.next().await.unwrap().unwrap_err();
        let SseError::Body(error) = error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(
                error.downcast_ref(),
                Some(TowerHttpError::EventTooLarge {
                    max_size: MAX_EVENT_SIZE
                })
            ),
            "{error:?}"
        );
        assert!(events.next().await.is_none());
    }
    assert!(sent.load(Ordering::Relaxed) < GIBIBYTE / 8);
}

#[tokio::test]
async fn a_stream_is_not_resumed_where_an_event_was_too_large_or_none() {
    for next in [
        format!("data: {}\n\n", "x".repeat(MAX_EVENT_SIZE)),
        "garbage\n\n".into(),
    ] {
        let server = Server::answering(move |_| {
            let chunks = ["id: 7\ndata: {}\n\n".to_owned(), next.clone()];
            let chunks = chunks.map(|chunk| Ok(Bytes::from(chunk)));
            streaming("text/event-stream", stream::iter(chunks))
        })
        .await;
        let client = server.client();
        let open = async |last_event_id: Option<&str>| {
            client
                .clone()
                .get_stream_with_max_sse_event_size(
                    server.url.clone(),
                    Some("s1".into()),
                    last_event_id.map(str::to_owned),
                    None,
                    HashMap::new(),
                    MAX_EVENT_SIZE,
                )
                .await
        };
        let mut events = open(None).await.unwrap();
        events.next().await.unwrap().unwrap();
        events.next().await.unwrap().unwrap_err();

        let resumed = open(Some("7")).await.err().unwrap();
        assert!(matches!(
            resumed,
            StreamableHttpError::ServerDoesNotSupportSse
        ));
        // It may be opened anew.
        drop(open(None).await.unwrap());
        drop(open(Some("7")).await.unwrap());
    }
}

/// Whether a stream is opened that resumes after `last_event_id`, or at the start of the session's.
async fn opens(client: &TowerHttpClient<Answers>, last_event_id: Option<&str>) -> bool {
    let stream = client
        .get_stream_with_max_sse_event_size(
            URL.into(),
            Some("s1".into()),
            last_event_id.map(str::to_owned),
            None,
            HashMap::new(),
            MAX_EVENT_SIZE,
        )
        .await;
    let Ok(events) = stream else { return false };
    let _all = events.collect::<Vec<_>>().await;
    true
}

#[tokio::test]
async fn a_stream_is_not_opened_again_at_a_start_that_is_too_large() {
    let data = "x".repeat(MAX_EVENT_SIZE);
    let events = format!("data: {data}\n\n");
    let client = always_answered(move || body("text/event-stream", Full::from(events.clone())));
    assert!(opens(&client, None).await);
    assert!(!opens(&client, None).await);
}

#[tokio::test]
async fn an_answer_whose_start_is_too_large_does_not_keep_the_sessions_stream_from_being_opened() {
    let data = "x".repeat(MAX_EVENT_SIZE);
    let events = format!("data: {data}\n\n");
    let client = always_answered(move || body("text/event-stream", Full::from(events.clone())));
    let message = call().into_message();
    let answer = client
        .post_message_with_max_sse_event_size(
            URL.into(),
            message,
            Some("s1".into()),
            None,
            HashMap::new(),
            MAX_EVENT_SIZE,
        )
        .await
        .unwrap();
    let StreamableHttpPostResponse::Sse(mut events, _) = answer else {
        panic!("{answer:?}");
    };
    events.next().await.unwrap().unwrap_err();
    assert!(opens(&client, None).await);
}

#[tokio::test]
async fn a_stream_whose_connection_broke_is_resumed() {
    let client = always_answered(|| {
        let chunks = [
            Ok(Bytes::from("id: 7\ndata: {}\n\n")),
            Err(io::Error::other("the connection was reset")),
        ];
        streaming("text/event-stream", stream::iter(chunks))
    });
    assert!(opens(&client, None).await);
    assert!(opens(&client, Some("7")).await);
    assert!(opens(&client, Some("7")).await);
}

#[tokio::test]
async fn a_call_whose_answer_is_too_large_fails_and_is_not_asked_for_without_end() {
    let server = Server::answering(|request| {
        let message = String::from_utf8_lossy(request.body());
        if message.contains(r#""initialize""#) {
            let mut response = json(
                r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18",
                    "capabilities":{"tools":{}},"serverInfo":{"name":"hostile","version":"1"}}}"#,
            );
            let session = HeaderValue::from_static("s1");
            response.headers_mut().insert("mcp-session-id", session);
            response
        } else if message.contains("notifications/") {
            status(202)
        } else {
            body("text/event-stream", Full::from(too_large(7)))
        }
    })
    .await;
    let config = config(&server.url).max_sse_event_size(MAX_EVENT_SIZE);
    let transport = StreamableHttpClientTransport::with_client(server.client(), config);
    let client = ().serve(transport).await.unwrap();

    let call = CallToolRequestParams::new("whoami");
    let answer = client.call_tool_as(user("alice", "t"), call);
    let answer = tokio::time::timeout(Duration::from_secs(30), answer).await;
    let error = answer.expect("the call never ends").unwrap_err();
    assert!(matches!(error, ServiceError::TransportClosed), "{error:?}");
}

#[tokio::test]
async fn an_event_arrives_while_the_body_is_open() {
    let server = Server::answering(|_| {
        let event = stream::once(async { Ok(Bytes::from("id: 7\ndata: 1\n\n")) });
        streaming(
            "Text/Event-Stream; charset=utf-8",
            event.chain(stream::pending()),
        )
    })
    .await;
    let (post, get, _) = server.each().await;
    let StreamableHttpPostResponse::Sse(posted, _) = post.unwrap() else {
        panic!("not a stream");
    };
    for mut events in [posted, get.unwrap()] {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
        let event = event.expect("the event is held back").unwrap().unwrap();
        assert_eq!(
            (event.id.as_deref(), event.data.as_deref()),
            (Some("7"), Some("1"))
        );
    }
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_with_an_error() {
    let falls_over = Arc::<Notify>::default();
    let told = falls_over.clone();
    let server = Server::answering(move |_| {
        let event = stream::once(async { Ok(Bytes::from("data: 1\n\ndata: 2")) });
        let told = told.clone();
        let end = stream::once(async move {
            told.notified().await;
            Err(io::Error::other("the server fell over"))
        });
        streaming("text/event-stream", event.chain(end))
    })
    .await;
    let mut events = server.stream().await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().data.unwrap(), "1");
    falls_over.notify_one();
    let error = events.next().await.unwrap().unwrap_err();
    let SseError::Body(error) = error else {
        panic!("{error:?}");
    };
    assert!(
        matches!(error.downcast_ref(), Some(TowerHttpError::Body(_))),
        "{error:?}"
    );
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_body_that_failed_is_not_polled_again() {
    let mut chunks = vec![
        Err(io::Error::other("the connection was reset")),
        Ok(Bytes::from("data: 1\n\n")),
    ];
    let chunks = stream::poll_fn(move |_| {
        let chunk = chunks.pop().expect("it is polled after it has failed");
        Poll::Ready(Some(chunk))
    });
    let events = answered(streaming("text/event-stream", chunks))
        .get_stream(URL.into(), Some("s1".into()), None, None, HashMap::new())
        .await
        .unwrap();
    let events: Vec<_> = events.map(|event| event.is_ok()).collect().await;
    assert_eq!(events, [true, false]);
}

#[tokio::test]
async fn lines_that_are_no_events_are_typed_errors() {
    for hostile in [
        "data\n\n".as_bytes(),
        b"data: \xff\n\n",
        b"retry: soon\n\n",
        b"\0\n\n",
        b"id: 1\nid: 2\n\n",
    ] {
        let server =
            Server::answering(move |_| body("text/event-stream", Full::from(hostile))).await;
        let mut events = server.stream().await.unwrap();
        events.next().await.unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_is_a_typed_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    drop(listener);
    let client = TowerHttpClient::new(OnlyWhenReady::new(http_client()));
    let error = client
        .delete_session(url.as_str().into(), "s1".into(), None, HashMap::new())
        .await
        .unwrap_err();
    let StreamableHttpError::Client(error @ TowerHttpError::Send(_)) = error else {
        panic!("{error:?}");
    };
    assert!(error.source().is_some());
    assert!(AuthError::find_in(&error).is_none());
}

// Helpers: a session.

type HttpClient = Client<HttpConnector, Full<Bytes>>;
type Stack = IdentityService<AuthService<OnlyWhenReady<HttpClient>, UpstreamInject>>;

fn http_client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

fn stack(backend: &McpBackend, identity: IdentityLayer) -> Stack {
    let auth = AuthLayer::new(backend.origin(), UpstreamInject::new("idp").unwrap());
    identity.layer(auth.layer(OnlyWhenReady::new(http_client())))
}

fn config(url: &str) -> StreamableHttpClientTransportConfig {
    StreamableHttpClientTransportConfig::with_uri(url)
}

fn user(subject: &str, token: &str) -> Identity {
    let token = UpstreamToken::new(AccessToken::new(token).unwrap());
    let identity = Identity::builder(subject)
        .issuer("https://idp.example.com")
        .upstream("idp", token);
    identity.build().unwrap()
}

fn text(result: CallToolResult) -> String {
    result.content[0].as_text().unwrap().text.clone()
}

#[derive(Debug, PartialEq)]
enum Event {
    Progress,
    ToolListChanged,
}

struct Listener {
    events: UnboundedSender<Event>,
}

impl ClientHandler for Listener {
    async fn on_progress(&self, _: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.events.send(Event::Progress).unwrap();
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.events.send(Event::ToolListChanged).unwrap();
    }
}

struct Session {
    client: RunningService<RoleClient, Listener>,
    events: UnboundedReceiver<Event>,
}

impl Session {
    async fn open(backend: &McpBackend, layer: IdentityLayer) -> Self {
        Self::open_as(backend, layer, None).await
    }

    /// With `identity` in the extensions of the `initialize` message, if there is one.
    async fn open_as(
        backend: &McpBackend,
        layer: IdentityLayer,
        identity: Option<Identity>,
    ) -> Self {
        let client = TowerHttpClient::new(stack(backend, layer));
        let transport = InitializeAs {
            inner: StreamableHttpClientTransport::with_client(client, config(&backend.url())),
            identity,
        };
        let (sender, events) = unbounded_channel();
        let client = Listener { events: sender }.serve(transport).await.unwrap();
        Self { client, events }
    }

    async fn whoami(&self, identity: Identity) -> String {
        let whoami = CallToolRequestParams::new("whoami");
        let call = self.client.call_tool_as(identity, whoami);
        let result = tokio::time::timeout(Duration::from_secs(30), call).await;
        text(result.expect("a call is blocked").unwrap())
    }

    async fn close(self) {
        self.client.cancel().await.unwrap();
    }
}

/// The SDK's transport, with an identity on the handshake.
struct InitializeAs<T> {
    inner: T,
    identity: Option<Identity>,
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for InitializeAs<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        mut message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), T::Error>> + Send + 'static {
        if let ClientJsonRpcMessage::Request(request) = &mut message
            && let ClientRequest::InitializeRequest(initialize) = &mut request.request
            && let Some(identity) = self.identity.take()
        {
            initialize.extensions.insert(identity);
        }
        self.inner.send(message)
    }

    fn receive(&mut self) -> impl Future<Output = Option<RxJsonRpcMessage<RoleClient>>> + Send {
        self.inner.receive()
    }

    fn close(&mut self) -> impl Future<Output = Result<(), T::Error>> + Send {
        self.inner.close()
    }
}

/// Panics when it is called without having been polled ready (F31).
struct OnlyWhenReady<S> {
    inner: S,
    ready: bool,
}

impl<S> OnlyWhenReady<S> {
    fn new(inner: S) -> Self {
        Self {
            inner,
            ready: false,
        }
    }
}

impl<S: Clone> Clone for OnlyWhenReady<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone())
    }
}

impl<S: Service<R>, R> Service<R> for OnlyWhenReady<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        self.ready = matches!(ready, Poll::Ready(Ok(())));
        ready
    }

    fn call(&mut self, request: R) -> S::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being ready"
        );
        self.inner.call(request)
    }
}

// Helpers: messages, and what becomes of them.

fn initialize() -> ClientRequest {
    InitializeRequest::default().into()
}

fn call() -> ClientRequest {
    CallToolRequest::new(CallToolRequestParams::new("whoami")).into()
}

fn initialized() -> ClientNotification {
    InitializedNotification::default().into()
}

trait IntoMessage {
    fn into_message(self) -> ClientJsonRpcMessage;
}

impl IntoMessage for ClientRequest {
    fn into_message(self) -> ClientJsonRpcMessage {
        ClientJsonRpcMessage::request(self, RequestId::Number(1))
    }
}

impl IntoMessage for ClientNotification {
    fn into_message(self) -> ClientJsonRpcMessage {
        ClientJsonRpcMessage::notification(self)
    }
}

#[derive(Clone, Default)]
struct Sent {
    requests: Arc<Mutex<Vec<Request<Full<Bytes>>>>>,
}

impl Sent {
    fn take(&self) -> Vec<Request<Full<Bytes>>> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    fn tokens(&self) -> Vec<String> {
        let token = |request: &Request<_>| {
            let identity = request.extensions().get::<Identity>().unwrap();
            let token = identity.upstream("idp").unwrap().access_token();
            token.expose().to_owned()
        };
        self.take().iter().map(token).collect()
    }
}

type Recorder = BoxCloneService<Request<Full<Bytes>>, Response<Empty<Bytes>>, Infallible>;

fn recording_client() -> (TowerHttpClient<Recorder>, Sent) {
    let sent = Sent::default();
    let requests = sent.requests.clone();
    let service = tower::service_fn(move |request| {
        requests.lock().unwrap().push(request);
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });
    let recorder = BoxCloneService::new(OnlyWhenReady::new(service));
    (TowerHttpClient::new(recorder), sent)
}

async fn post(client: &TowerHttpClient<Recorder>, message: impl IntoMessage) {
    // The empty answer is an error for a request; what was sent is what counts.
    _ = client
        .post_message(
            URL.into(),
            message.into_message(),
            None,
            None,
            HashMap::new(),
        )
        .await;
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    chain.map(|error| format!("{error}: {error:?}\n")).collect()
}

// Helpers: a server that answers what the test says.

const GIBIBYTE: u64 = 1 << 30;
const MAX_EVENT_SIZE: usize = 1024;
const MAX_JSON_SIZE: u64 = 16 * 1024 * 1024;
const URL: &str = "http://127.0.0.1:1/mcp";

type ServerBody = UnsyncBoxBody<Bytes, io::Error>;
type ClientError = StreamableHttpError<TowerHttpError>;
type Events = stream::BoxStream<'static, Result<sse_stream::Sse, SseError>>;

struct Server {
    url: Arc<str>,
    accepting: JoinHandle<()>,
}

impl Server {
    async fn answering(
        answer: impl Fn(&Request<Bytes>) -> Response<ServerBody> + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap()).into();
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let answer = answer.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        Ok::<_, hyper::Error>(answer(&Request::from_parts(head, body)))
                    }
                });
                let connection = http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, accepting }
    }

    fn client(&self) -> TowerHttpClient<OnlyWhenReady<HttpClient>> {
        TowerHttpClient::new(OnlyWhenReady::new(http_client()))
    }

    async fn post(
        &self,
        message: impl IntoMessage,
        session: Option<&str>,
    ) -> Result<StreamableHttpPostResponse, ClientError> {
        let client = self.client();
        client
            .post_message_with_max_sse_event_size(
                self.url.clone(),
                message.into_message(),
                session.map(Arc::from),
                None,
                HashMap::new(),
                MAX_EVENT_SIZE,
            )
            .await
    }

    async fn stream(&self) -> Result<Events, ClientError> {
        let client = self.client();
        client
            .get_stream_with_max_sse_event_size(
                self.url.clone(),
                Some("s1".into()),
                None,
                None,
                HashMap::new(),
                MAX_EVENT_SIZE,
            )
            .await
    }

    async fn delete(&self) -> Result<(), ClientError> {
        let client = self.client();
        client
            .delete_session(self.url.clone(), "s1".into(), None, HashMap::new())
            .await
    }

    /// `POST`, `GET` and `DELETE`, of a session.
    async fn each(
        &self,
    ) -> (
        Result<StreamableHttpPostResponse, ClientError>,
        Result<Events, ClientError>,
        Result<(), ClientError>,
    ) {
        (
            self.post(call(), Some("s1")).await,
            self.stream().await,
            self.delete().await,
        )
    }

    async fn each_error(&self) -> [ClientError; 3] {
        let (post, get, delete) = self.each().await;
        [
            post.expect_err("POST"),
            get.err().expect("GET"),
            delete.expect_err("DELETE"),
        ]
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Answers = BoxCloneSyncService<Request<Full<Bytes>>, Response<ServerBody>, Infallible>;

/// A client that gets these answers, and no connection between the two that would hide how a body is read.
fn always_answered(
    answer: impl Fn() -> Response<ServerBody> + Clone + Send + Sync + 'static,
) -> TowerHttpClient<Answers> {
    let service = tower::service_fn(move |_| std::future::ready(Ok(answer())));
    TowerHttpClient::new(BoxCloneSyncService::new(service))
}

/// As [`always_answered`], once.
fn answered(answer: Response<ServerBody>) -> TowerHttpClient<Answers> {
    let answer = Arc::new(Mutex::new(Some(answer)));
    always_answered(move || answer.lock().unwrap().take().unwrap())
}

/// A body that says how long it is and must not be read.
struct Announced(u64);

impl Body for Announced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        panic!("it is read")
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

fn status(status: u16) -> Response<ServerBody> {
    let mut response = Response::new(ServerBody::default());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn challenged(code: u16, challenge: &[u8]) -> Response<ServerBody> {
    let mut response = status(code);
    let challenge = HeaderValue::from_bytes(challenge).unwrap();
    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
    response
}

fn body(content_type: &'static str, body: Full<Bytes>) -> Response<ServerBody> {
    let body = body.map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn json(text: &str) -> Response<ServerBody> {
    body("application/json", Full::from(text.to_owned()))
}

/// An event with this id, and one that is too large.
fn too_large(id: u32) -> String {
    let data = "x".repeat(MAX_EVENT_SIZE);
    format!("id: {id}\ndata:\n\ndata: {data}\n\n")
}

fn streaming(
    content_type: &'static str,
    chunks: impl stream::Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<ServerBody> {
    let body = StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data)));
    let mut response = Response::new(body.boxed_unsync());
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// 1 GiB of text, which counts what of it was taken.
fn gibibyte(
    sent: &Arc<AtomicU64>,
) -> impl stream::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let chunk = Bytes::from(vec![b'x'; 1 << 16]);
    let sent = sent.clone();
    stream::iter(0..GIBIBYTE / (1 << 16)).map(move |_| {
        sent.fetch_add(1 << 16, Ordering::Relaxed);
        Ok(chunk.clone())
    })
}
