//! What an MCP server answers to each of the requests of a session.

use std::{collections::HashMap, sync::Arc};

use futures_util::StreamExt;
use http::StatusCode;
use rmcp::{
    model::{ClientJsonRpcMessage, RequestId, ServerJsonRpcMessage},
    transport::streamable_http_client::{
        StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    },
};
use serde_json::json;
use tower_identity::{AuthError, client::rmcp::TowerHttpClient};

use crate::harness::{self, Peer, wait};

pub(crate) fn check(input: &[u8]) {
    let response = harness::answer(input);
    let status = response.status();
    let client = TowerHttpClient::new(Peer::new(move |_| response.clone()));
    let uri: Arc<str> = "https://mcp.example.com/mcp".into();
    let messages = [
        json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }),
        json!({ "jsonrpc": "2.0", "id": 2, "method": "server/discover", "params": {} }),
        json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
    ];
    for message in messages {
        let is_request = message.get("id").is_some();
        let message: ClientJsonRpcMessage = serde_json::from_value(message).unwrap();
        for session in [None, Some("session".into())] {
            let has_session = session.is_some();
            let answer =
                client.post_message(uri.clone(), message.clone(), session, None, HashMap::new());
            match wait(answer) {
                Ok(StreamableHttpPostResponse::Accepted) => assert!(status.is_success()),
                Ok(StreamableHttpPostResponse::Json(answer, _)) => {
                    if is_request {
                        assert_eq!(id_of(&answer), message_id(&message), "{answer:?}");
                    }
                    let refusals = [401, 403, 429];
                    assert!(!refusals.contains(&status.as_u16()), "it was refused");
                }
                Ok(StreamableHttpPostResponse::Sse(events, _)) => {
                    assert!(status.is_success());
                    let _ = wait(events.take(10_000).count());
                }
                Ok(_) => panic!("an answer that is not known here"),
                Err(error) => {
                    assert_is_of_server(&error);
                    assert!(
                        !matches!(error, StreamableHttpError::SessionExpired)
                            || (status == StatusCode::NOT_FOUND && has_session)
                    );
                    assert!(is_request || !status.is_success());
                }
            }
        }
    }
    let deleted = client.delete_session(uri.clone(), "session".into(), None, HashMap::new());
    match wait(deleted) {
        Ok(()) => assert!(status.is_success()),
        Err(error) => {
            assert_is_of_server(&error);
            assert!(!status.is_success());
        }
    }
    let stream = client.get_stream(uri, Some("session".into()), None, None, HashMap::new());
    match wait(stream) {
        Ok(events) => {
            assert!(status.is_success());
            let _ = wait(events.take(10_000).count());
        }
        Err(error) => assert_is_of_server(&error),
    }
}

fn id_of(answer: &ServerJsonRpcMessage) -> Option<RequestId> {
    let id = match answer {
        ServerJsonRpcMessage::Response(response) => Some(response.id.clone()),
        ServerJsonRpcMessage::Error(error) => error.id.clone(),
        _ => None,
    };
    // The SDK accepts the number as a string.
    match id {
        Some(RequestId::String(text)) => text.parse().ok().map(RequestId::Number),
        id => id,
    }
}

fn message_id(message: &ClientJsonRpcMessage) -> Option<RequestId> {
    match message {
        ClientJsonRpcMessage::Request(request) => Some(request.id.clone()),
        _ => None,
    }
}

fn assert_is_of_server<E>(error: &StreamableHttpError<E>)
where
    E: std::error::Error + Send + Sync + 'static,
{
    assert!(AuthError::find_in(error).is_none(), "{error:?}");
    assert!(
        !matches!(error, StreamableHttpError::Client(_)),
        "{error:?}"
    );
}
